"""Brings micrographs of any camera, dose and mode to the same intensity scale, with dark particles."""

import numpy as np

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.modes import MODES, Mode


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
    low, median, high = np.percentile(sample, (0.1, 50, 99.9))
    spread = np.clip(sample, low, high).std()
    scaled = np.subtract(image, median, dtype=np.float32)
    if spread > 0:
        scaled /= np.float32(spread)
    else:
        scaled[:] = 0
    if mode == "haadf":
        np.negative(scaled, out=scaled)
    return np.clip(scaled, -8, 8, out=scaled)


def detect_mode(image: np.ndarray) -> Mode:
    """Tell bright field from HAADF by the skewness of the image's intensities.

    Particles cover the minority of the pixels. They are darker than the support in bright field and brighter
    in HAADF, so they make the longer tail. Uneven illumination is removed first.

    Parameters
    ----------
    image : ndarray, (height, width)

    Returns
    -------
    {"bright_field", "haadf"}
    """
    from scipy.ndimage import gaussian_filter

    # One stride per axis, so that a long narrow image takes no longer than a square one.
    strides = [max(1, side // 512) for side in image.shape]
    small = image[:: strides[0], :: strides[1]].astype(np.float32)
    small = gaussian_filter(small, 1)
    flat = small - slow_part(small)
    deviation = np.clip(flat - np.median(flat), *np.percentile(flat, (0.1, 99.9)))
    return "haadf" if np.mean(deviation**3) > 0 else "bright_field"


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
