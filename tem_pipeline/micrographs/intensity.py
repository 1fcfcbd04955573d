"""Brings micrographs of any camera, dose and mode to the same intensity scale, with dark particles."""

from collections.abc import Sequence

import numpy as np

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.modes import MODES, Mode

_CLEAR_SKEWNESS = 0.2
"""Skewness of the intensities from which the longer tail is sure."""

_LARGEST_SHARE = 0.25
"""Share of the tail's pixels in one connected region from which that may be a hole, vacuum or a bar."""

_FAR = 2
"""Multiple of the distance from the median to the outermost 1.5 % beyond which a single pixel is faulty."""

_MOST_NEIGHBOURS = 2
"""A pixel with more neighbours as far out as itself belongs to an object."""

_SETS_THE_SCALE = 1.05
"""Ratio of spreads with and without faulty pixels from which these pixels set the scale."""


def standardise(image: np.ndarray, mode: str = "bright_field") -> np.ndarray:
    """Shift and scale the intensities of a whole micrograph, so that particles are dark.

    Parameters
    ----------
    image : ndarray, (height, width)
        Any real dtype, finite.
    mode : {"bright_field", "haadf"}
        Bright-field particles are already darker than the support; HAADF images are inverted.

    Returns
    -------
    ndarray, (height, width), float32
        Median 0 and standard deviation 1, clipped to -8 … 8. The standard deviation is that of the
        intensities clipped to their 0.1 and 99.9 percentiles, so that hot pixels or a burnt-in scale bar do
        not set the scale. A constant image gives zeros.

    Raises
    ------
    UserError
        For an unknown mode.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode!r} is unknown: use one of {', '.join(MODES)}")
    # Every 4th pixel of a large image gives the same percentiles to well under 0.1 %.
    stride = max(1, int(np.sqrt(image.size / 2**18)))
    sample = np.asarray(image[::stride, ::stride], dtype=np.float64)
    median, spread = _median_and_spread(sample)
    repaired = _without_single_pixels(image, (stride, stride))
    of_repaired = _median_and_spread(repaired)
    # Otherwise the percentiles have left the faulty pixels out already.
    if spread > _SETS_THE_SCALE * of_repaired[1]:
        median, spread = of_repaired
    scaled = np.subtract(image, median, dtype=np.float32)
    if spread > 0:
        scaled /= np.float32(spread)
    else:
        scaled[:] = 0
    if mode == "haadf":
        np.negative(scaled, out=scaled)
    return np.clip(scaled, -8, 8, out=scaled)


def detect_mode(image: np.ndarray) -> tuple[Mode, bool]:
    """Tell bright field from HAADF by the intensities of an image, and say whether that is sure.

    Particles cover the minority of the pixels. They are darker than the support in bright field and brighter
    in HAADF, so they make the longer tail of the intensities. Vacuum, holes in the film and burnt-in bars
    make a tail too. Where one region makes much of the tail, or no tail is clearly longer, the mode is
    unsure.

    Parameters
    ----------
    image : ndarray, (height, width)

    Returns
    -------
    mode : {"bright_field", "haadf"}
        The likelier of the two.
    is_sure : bool
    """
    from scipy.ndimage import gaussian_filter, label

    # One stride per axis, so that a long narrow image takes no longer than a square one.
    strides = [max(1, side // 512) for side in image.shape]
    small = gaussian_filter(_without_single_pixels(image, strides).astype(np.float32), 1)
    flat = small - slow_part(small)
    deviation = np.clip(flat - np.median(flat), *np.percentile(flat, (0.1, 99.9)))
    spread = float(np.sqrt(np.mean(deviation**2)))
    if not spread > 0:
        return "bright_field", False
    skewness = float(np.mean(deviation**3)) / spread**3
    side = 1 if skewness > 0 else -1
    tail = side * deviation > side * np.percentile(deviation, 50 + side * 49.9) / 2
    regions, _ = label(tail)
    areas = np.bincount(regions.ravel())[1:]
    is_one_region = areas.max(initial=0) > _LARGEST_SHARE * areas.sum()
    is_sure = abs(skewness) > _CLEAR_SKEWNESS and not is_one_region
    return "haadf" if side > 0 else "bright_field", is_sure


def _median_and_spread(sample: np.ndarray) -> tuple[float, float]:
    low, median, high = np.percentile(sample, (0.1, 50, 99.9))
    return float(median), float(np.clip(sample, low, high).std())


def _without_single_pixels(image: np.ndarray, strides: Sequence[int]) -> np.ndarray:
    """Take every n-th pixel, and for hot and dead pixels that stand alone the median of their neighbours.

    Parameters
    ----------
    image : ndarray, (height, width)
    strides : (int, int)

    Returns
    -------
    ndarray of float64, (height / stride, width / stride)
    """
    sample = np.array(image[:: strides[0], :: strides[1]], dtype=np.float64)
    low, median, high = np.percentile(sample, (1.5, 50, 98.5))
    for side, tail in ((1, high - median), (-1, median - low)):
        limit = _FAR * tail
        rows, columns = np.nonzero(side * (sample - median) > limit)
        # Most images have no pixel as far out as that.
        if not len(rows):
            continue
        down, across = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]).T[..., np.newaxis]
        y = np.clip(rows * strides[0] + down, 0, image.shape[0] - 1)
        x = np.clip(columns * strides[1] + across, 0, image.shape[1] - 1)
        around = np.asarray(image[y, x], dtype=np.float64)
        is_single = (side * (around - median) > limit).sum(axis=0) <= _MOST_NEIGHBOURS
        sample[rows[is_single], columns[is_single]] = np.median(around[:, is_single], axis=0)
    return sample


def slow_part(image: np.ndarray) -> np.ndarray:
    """Smooth an image by a Gaussian with a standard deviation of a quarter of each side, mirrored at edges.

    Such a Gaussian multiplies the k-th cosine of the mirrored image by exp(−(π k/4)²/2). A cosine transform
    is much faster than convolving with so wide a Gaussian.

    Parameters
    ----------
    image : ndarray, (height, width)

    Returns
    -------
    ndarray, (height, width)
    """
    from scipy.fft import dctn, idctn

    down, across = (np.exp(-((np.pi / 4 * np.arange(side)) ** 2) / 2) for side in image.shape)
    return idctn(dctn(image, norm="ortho") * np.outer(down, across).astype(image.dtype), norm="ortho")
