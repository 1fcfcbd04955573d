"""The classical segmentation that models are compared with: Gaussian blur, Otsu's threshold, watershed."""

import numpy as np
import skimage
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter, label

from tem_pipeline.micrographs.intensity import standardise


def otsu_watershed(
    image: np.ndarray,
    mode: str = "bright_field",
    *,
    sigma_px: float = 3.0,
    background_px: float | None = None,
    minimum_area_px: int = 20,
) -> np.ndarray:
    """Segment particles with the usual steps in ImageJ.

    The image is blurred and thresholded by Otsu's method, holes are filled and specks removed. Touching
    particles are separated by a watershed of the distance map, from maxima at least 0.5 px high as in
    ImageJ's "Watershed".

    Parameters
    ----------
    image : ndarray, (height, width)
    mode : {"bright_field", "haadf"}
        Particles are dark in bright field, bright in HAADF.
    sigma_px : float
        Standard deviation of the blur.
    background_px : float, optional
        Removes uneven illumination first: the image blurred with this standard deviation is subtracted. It
        must be larger than the particles, which otherwise lose contrast.
    minimum_area_px : int
        Smaller objects are removed.

    Returns
    -------
    ndarray, (height, width), int32
        Labels 1 … n, 0 is background. A constant image has no labels.

    Raises
    ------
    UserError
        For an unknown mode.

    References
    ----------
    N. Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62; C. A. Schneider, W. S. Rasband, K. W. Eliceiri, Nature
    Methods 9 (2012) 671.
    """
    scaled = standardise(image, mode)
    smooth = gaussian_filter(scaled, sigma_px)
    if background_px is not None:
        smooth -= gaussian_filter(scaled, background_px)
    if np.ptp(smooth) < 1e-6:
        return np.zeros(image.shape, np.int32)
    particles = binary_fill_holes(smooth < skimage.filters.threshold_otsu(smooth))
    particles = skimage.morphology.remove_small_objects(particles, max_size=minimum_area_px - 1)
    distance = distance_transform_edt(particles)
    markers, _ = label(skimage.morphology.h_maxima(distance, 0.5), np.ones((3, 3)))
    return skimage.segmentation.watershed(-distance, markers, mask=particles).astype(np.int32)
