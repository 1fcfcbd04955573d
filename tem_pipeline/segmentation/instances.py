"""Turns a foreground mask into a label image of single particles.

Predicting the mask is left to `inference`, measuring the particles to `particles.measurement`.
"""

import numpy as np
from scipy import ndimage

from tem_pipeline.errors import UserError

_STRIP_PX = 2**22


def label_instances(foreground: np.ndarray, minimum_area_px: float) -> np.ndarray:
    """Number the connected particles of a mask and drop those that are too small.

    Pixels belong together where they share a side (4-connectivity): every digitised convex particle over two
    pixels across is connected that way, so a contact at a mere corner is one between two particles.

    Parameters
    ----------
    foreground : ndarray of bool, (height, width)
    minimum_area_px : float
        Particles of fewer pixels are removed.

    Returns
    -------
    ndarray, (height, width), uint16 or uint32
        0 background, 1 … n in the raster order of each particle's first pixel; uint32 from 65,536 particles
        on. Time is linear in pixels; with the result at most 4 bytes a pixel are held.

    Raises
    ------
    UserError
        When the mask isn't a two-dimensional bool array.
    """
    if foreground.ndim != 2 or foreground.dtype != np.bool_:
        raise UserError(
            f"a foreground mask must be a 2-D bool array, not {foreground.ndim}-D {foreground.dtype}"
        )
    labels = np.empty(foreground.shape, dtype=np.int32)
    count = int(ndimage.label(foreground, output=labels))  # type: ignore[arg-type]
    kept = areas_px(labels, count) >= minimum_area_px
    kept[0] = False
    return renumbered(labels, np.where(kept, np.cumsum(kept), 0))


def areas_px(labels: np.ndarray, count: int) -> np.ndarray:
    """Count the pixels of each of the labels 0 … count.

    Strip by strip, because bincount makes an int64 copy of what it is given.
    """
    areas = np.zeros(count + 1, dtype=np.int64)
    for strip in row_strips(labels):
        areas += np.bincount(strip.ravel(), minlength=count + 1)
    return areas


def renumbered(labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Give every pixel the number of its label, in the memory of the labels, which are lost.

    Parameters
    ----------
    labels : ndarray of int32 or uint32, (height, width)
        An array of its own, no view.
    numbers : ndarray of int, (count + 1,)
        Up to `count`.

    Returns
    -------
    ndarray, (height, width), uint16 or uint32
        uint32 from a count of 65,536 on.
    """
    shape, size = labels.shape, labels.size
    kind = np.dtype(np.uint16 if numbers.max(initial=0) < 2**16 else np.uint32)
    flat = labels.ravel()
    written = flat.view(kind)[:size]
    for start in range(0, size, _STRIP_PX):
        part = slice(start, start + _STRIP_PX)
        # No label is overwritten before it is read: a number takes no more room.
        written[part] = numbers[flat[part]]
    del flat, written
    labels.resize(-(-size * kind.itemsize // labels.itemsize), refcheck=False)
    return labels.view(kind)[:size].reshape(shape)


def row_strips(image: np.ndarray) -> list[np.ndarray]:
    """Cut an image into strips of whole rows, views that what works pixel by pixel takes one by one."""
    rows = max(1, _STRIP_PX // max(1, image.shape[1]))
    return [image[top : top + rows] for top in range(0, image.shape[0], rows)]


def typical_diameter_px(foreground: np.ndarray, minimum_area_px: float = 20.0) -> float | None:
    """Give the equivalent circular diameter below which half of a mask's area lies, in px.

    By area, because specks of noise outnumber what they lie beside. Touching particles count as one.

    Returns
    -------
    float or None
        None where no connected region has the minimum area.
    """
    labels = label_instances(foreground, minimum_area_px)
    areas = areas_px(labels, int(labels.max(initial=0)))
    if len(areas) == 1:
        return None
    sorted_px = np.sort(areas[1:])
    half = np.searchsorted(np.cumsum(sorted_px), sorted_px.sum() / 2)
    return float(2 * np.sqrt(sorted_px[half] / np.pi))
