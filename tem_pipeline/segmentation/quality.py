"""Judges whether the masks of an image are good enough for statistics."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from tem_pipeline.segmentation.inference import Segmentation
from tem_pipeline.segmentation.instances import areas_px

SMALLEST_RELIABLE_PX = 8.0
LARGEST_FOREGROUND = 0.8
LARGEST_RIM = 0.5
LEAST_CONFIDENCE = 0.7
_FEWEST_RIM_PIXELS = 20
_MEAN_COSINE = 0.855
_MODE_NAMES = {"bright_field": "bright field", "haadf": "HAADF"}


@dataclass(frozen=True)
class ImageQuality:
    """The quality of one image's masks."""

    n_cores: int
    foreground_fraction: float
    median_diameter_px: float | None
    confidence: float | None
    rim_width_px: float | None
    smallest_reliable_diameter_px: float
    smallest_reliable_diameter_nm: float | None
    image_quality: str
    image_quality_reason: str | None


def judge_image(
    segmentation: Segmentation, image: np.ndarray, pixel_size_nm: float | None = None
) -> ImageQuality:
    """Decide whether the masks of an image may enter statistics.

    An image without cores is good and counts as an image. An image must be reviewed if

    - cores cover over 80 % of it, so that too little of the support is visible;
    - the median diameter of its cores is under 8 px, the smallest reliable diameter, below which
      discretisation alone causes errors of over 3 %;
    - it is out of focus: the rims of the cores are wider than half the median diameter (see `rim_width_px`);
    - its cores are uncertain: the mean probability of their pixels is under 0.7.

    Parameters
    ----------
    segmentation : Segmentation
    image : ndarray, (height, width)
        The micrograph as recorded.
    pixel_size_nm : float, optional

    Returns
    -------
    ImageQuality
        With the first of these reasons that applies.
    """
    labels = segmentation.labels
    found_px = areas_px(labels, int(labels.max(initial=0)))[1:]
    found_px = found_px[found_px > 0]
    reliable_nm = None if pixel_size_nm is None else SMALLEST_RELIABLE_PX * pixel_size_nm
    if not len(found_px):
        return ImageQuality(0, 0.0, None, None, None, SMALLEST_RELIABLE_PX, reliable_nm, "good", None)
    covered = float(found_px.sum() / labels.size)
    median_px = float(np.median(2 * np.sqrt(found_px / np.pi)))
    confidence = float(segmentation.core_probability[labels > 0].mean() / 255)
    rim_px = rim_width_px(image, labels, median_px)
    reason = None
    if covered > LARGEST_FOREGROUND:
        reason = f"cores cover {covered:.0%} of the image: record where the support is visible between them"
    elif median_px < SMALLEST_RELIABLE_PX:
        reason = (
            f"the median core is {median_px:.1f} px across, under {SMALLEST_RELIABLE_PX:g} px: "
            "record at a higher magnification"
        )
    elif rim_px is not None and rim_px > LARGEST_RIM * median_px:
        reason = (
            f"the rims of the cores are {rim_px:.1f} px wide at a median diameter of {median_px:.1f} px: "
            "the image is out of focus, or the specimen moved during the exposure"
        )
    elif confidence < LEAST_CONFIDENCE:
        reason = (
            f"the model is unsure of the cores (mean probability {confidence:.2f}, "
            f"under {LEAST_CONFIDENCE:g}): check the outlines; the specimen may be new to the model"
        )
    return ImageQuality(
        len(found_px),
        covered,
        median_px,
        confidence,
        rim_px,
        SMALLEST_RELIABLE_PX,
        reliable_nm,
        "review" if reason else "good",
        reason,
    )


def session_mode(modes: Collection[str]) -> str | None:
    """Give the mode of more than half of a session's images; None if there is no such mode."""
    counted = [(sum(mode == other for other in modes), mode) for mode in sorted(set(modes))]
    count, most = max(counted, default=(0, None))
    return most if 2 * count > len(modes) else None


def judge_mode(quality: ImageQuality, mode: str, expected: str | None) -> ImageQuality:
    """Send an image to review whose mode is not that of its session.

    If the mode is wrong, everything but the particles is measured.

    Parameters
    ----------
    quality : ImageQuality
        The verdict so far; an image that is already to be reviewed keeps its reason.
    mode : str
        In which the image was read.
    expected : str or None
        See `session_mode`.
    """
    if expected in (None, mode) or quality.image_quality == "review":
        return quality
    reason = (
        f"it was read as {_MODE_NAMES.get(mode, mode)}, most images of the session as "
        f"{_MODE_NAMES.get(expected, expected)}: check the outlines, and name the mode in session.yaml"
    )
    return replace(quality, image_quality="review", image_quality_reason=reason)


def rim_width_px(image: np.ndarray, labels: np.ndarray, diameter_px: float) -> float | None:
    """Measure the width of the cores' rims: the contrast across a rim divided by its slope.

    Contrast is the difference of intensity from half a diameter inside a core to half a diameter outside. The
    slope comes from the difference between the second pixel inside and the second outside. Both are taken
    along rows and columns at each pixel where a core meets the background, and averaged over all rims, which
    averages out noise. Rows and columns meet the rim of a round core at angles up to 60°, because at larger
    angles half a diameter inside is outside the core again; the mean cosine of these angles is 0.855. Sharp
    images of spheres have rims of 0.1 to 0.4 of the diameter; a fully blurred image has 1.

    Parameters
    ----------
    image : ndarray, (height, width)
    labels : ndarray of int, (height, width)
    diameter_px : float
        Median diameter of the cores.

    Returns
    -------
    float or None
        None if fewer than 20 rim pixels have no other core nearby, or if there is no contrast.
    """
    half = max(3, round(diameter_px / 2))
    near = far = 0.0
    count = 0
    for turned, values in ((labels, image), (labels.T, image.T)):
        for mirrored, intensity in ((turned, values), (turned[:, ::-1], values[:, ::-1])):
            row, column = np.nonzero((mirrored[:, :-1] > 0) & (mirrored[:, 1:] == 0))
            fits = (column >= half) & (column + 1 + half < mirrored.shape[1])
            row, column = row[fits], column[fits]
            own = mirrored[row, column]
            free = (mirrored[row, column - half] == own) & (mirrored[row, column - 1] == own)
            free &= (mirrored[row, column + 2] == 0) & (mirrored[row, column + 1 + half] == 0)
            row, column = row[free], column[free]
            inside, outside = intensity[row, column - 1], intensity[row, column + 2]
            near += float(outside.sum(dtype=np.float64) - inside.sum(dtype=np.float64))
            inside, outside = intensity[row, column - half], intensity[row, column + 1 + half]
            far += float(outside.sum(dtype=np.float64) - inside.sum(dtype=np.float64))
            count += len(row)
    if count < _FEWEST_RIM_PIXELS or near * far <= 0:
        return None
    return 3 * _MEAN_COSINE * far / near
