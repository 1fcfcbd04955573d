"""Turns a foreground mask into a label image of single particles.

`inference` predicts the mask, `particles.measurement` measures the particles.
"""

import numpy as np
from scipy import ndimage

from tem_pipeline.errors import UserError

_STRIP_PX = 2**22


def label_instances(foreground: np.ndarray, minimum_area_px: float) -> np.ndarray:
    """Number the connected particles of a mask and drop those that are too small.

    Pixels that share a side are connected (4-connectivity). Every digitised convex particle wider than two
    pixels is connected in this way, so two particles that only touch at a corner stay separate.

    Parameters
    ----------
    foreground : ndarray of bool, (height, width)
    minimum_area_px : float
        Particles of fewer pixels are removed.

    Returns
    -------
    ndarray, (height, width), uint16 or uint32
        0 background, 1 … n in the raster order of each particle's first pixel; uint32 from 65,536 particles
        on. Time is linear in pixels. Working memory is 4 bytes per pixel, apart from the result.

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

    It counts strip by strip, because bincount makes an int64 copy of its input.
    """
    areas = np.zeros(count + 1, dtype=np.int64)
    for strip in row_strips(labels):
        areas += np.bincount(strip.ravel(), minlength=count + 1)
    return areas


def renumbered(labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Replace each label by its number.

    Strip by strip, because indexing makes an int64 copy of the labels.

    Parameters
    ----------
    labels : ndarray of int, (height, width)
    numbers : ndarray of int, (count + 1,)
        New number of each label.

    Returns
    -------
    ndarray, (height, width), uint16 or uint32
        uint32 if a number is 65,536 or more.
    """
    result = np.empty(labels.shape, np.uint16 if numbers.max(initial=0) < 2**16 else np.uint32)
    for strip, new in zip(row_strips(labels), row_strips(result), strict=True):
        new[:] = numbers[strip]
    return result


def row_strips(image: np.ndarray) -> list[np.ndarray]:
    """Cut an image into strips of whole rows (views), for operations that need memory per pixel."""
    rows = max(1, _STRIP_PX // max(1, image.shape[1]))
    return [image[top : top + rows] for top in range(0, image.shape[0], rows)]


def typical_diameter_px(foreground: np.ndarray, minimum_area_px: float = 20.0) -> float | None:
    """Give the area-weighted median of the equivalent circular diameters of a mask's particles, in px.

    It is weighted by area, because specks of noise may outnumber the particles. Touching particles count as
    one.

    Returns
    -------
    float or None
        None if no connected region has the minimum area.
    """
    labels = label_instances(foreground, minimum_area_px)
    areas = areas_px(labels, int(labels.max(initial=0)))
    if len(areas) == 1:
        return None
    sorted_px = np.sort(areas[1:])
    half = np.searchsorted(np.cumsum(sorted_px), sorted_px.sum() / 2)
    return float(2 * np.sqrt(sorted_px[half] / np.pi))
