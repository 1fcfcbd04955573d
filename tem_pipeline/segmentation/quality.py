"""Judges whether the masks of an image are good enough for statistics."""

from dataclasses import dataclass

import numpy as np

from tem_pipeline.segmentation.inference import Segmentation
from tem_pipeline.segmentation.instances import areas_px

SMALLEST_RELIABLE_PX = 8.0
LARGEST_FOREGROUND = 0.8
LARGEST_RIM = 0.5
LEAST_CONFIDENCE = 0.7
_FEWEST_RIM_PIXELS = 20
_MEAN_COSINE = 0.855


@dataclass(frozen=True)
class ImageQuality:
    """The verdict on one image's masks."""

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
    """Say whether the masks of an image may enter statistics.

    An image on which nothing is found is good: it counts as an image. To be reviewed are images

    - whose cores and what lies between can't both be seen: over 80 % of it is core;
    - whose median core is under 8 px across: there discretisation alone costs over 3 % of the diameter, which
      is also what `smallest_reliable_diameter` says of single particles;
    - out of focus: the rims of the cores are wider than half the median diameter (see `rim_width_px`);
    - whose cores are uncertain: their pixels' mean probability is under 0.7.

    Parameters
    ----------
    segmentation : Segmentation
    image : ndarray, (height, width)
        The micrograph as recorded.
    pixel_size_nm : float, optional

    Returns
    -------
    ImageQuality
        With the first of these reasons that holds.
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
        reason = f"cores cover {covered:.0%} of the image: record where the support can be seen between them"
    elif median_px < SMALLEST_RELIABLE_PX:
        reason = (
            f"the median core is {median_px:.1f} px across, under {SMALLEST_RELIABLE_PX:g} px: "
            "record at a higher magnification"
        )
    elif rim_px is not None and rim_px > LARGEST_RIM * median_px:
        reason = (
            f"the rims of the cores are {rim_px:.1f} px wide at a median diameter of {median_px:.1f} px: "
            "the image is out of focus, or was moved while it was recorded"
        )
    elif confidence < LEAST_CONFIDENCE:
        reason = (
            f"the model is unsure of the cores (mean probability {confidence:.2f}, "
            f"under {LEAST_CONFIDENCE:g}): look at the outlines; the specimen may be new to the model"
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


def rim_width_px(image: np.ndarray, labels: np.ndarray, diameter_px: float) -> float | None:
    """Measure how wide the cores' rims are: contrast across them over the slope in them.

    Along rows and columns, at every pixel where a core meets the background: the difference of intensity
    from half a diameter inside to half a diameter outside, and from the second pixel inside to the second
    outside, each averaged over all rims, so that noise averages out. A round core's rim is met at angles up
    to 60°, beyond which half a diameter inside isn't the core; the mean cosine over them is 0.855. Sharp
    images of spheres have rims of 0.1 to 0.4 of the diameter; the ramp of a full blur has 1.

    Parameters
    ----------
    image : ndarray, (height, width)
    labels : ndarray of int, (height, width)
    diameter_px : float
        Median diameter of the cores.

    Returns
    -------
    float or None
        None where fewer than 20 rim pixels are free of neighbours, or there is no contrast.
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
