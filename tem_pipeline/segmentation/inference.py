"""Segments a micrograph with a loaded model: averages scales and mirrorings, then decides classes.

Loading the model is left to `models`, cutting the image into tiles to `tiling`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tem_pipeline.micrographs.intensity import detect_mode, standardise
from tem_pipeline.segmentation.instances import areas_px, label_instances, row_strips, typical_diameter_px
from tem_pipeline.segmentation.models import ModelCard, SegmentationModel
from tem_pipeline.segmentation.tiling import TILE_OVERLAP_PX, TILE_PX, predict_strips
from tem_pipeline.segmentation.touching import split_touching

# Training scales images by up to 1.33, so the model knows images whose pixel size differs by this factor.
LARGEST_PIXEL_RATIO = 1.25
# Larger enlargements show no more detail, but take memory and time.
LARGEST_ENLARGEMENT = 4.0
LARGEST_ENLARGED_PX = 2**27
_LEVELS = 2**16 - 1


@dataclass(frozen=True)
class Segmentation:
    """The masks of one micrograph.

    labels : (height, width) uint16 or uint32, 0 background, one number per core
    shell_labels : the same for whole particles; None if the model knows no shells
    core_probability : (height, width) uint8, 0 … 255
    mode : the mode used for segmentation
    split_labels : (k,) int64, numbers of the cores that were split from clusters of touching cores
    """

    labels: np.ndarray
    shell_labels: np.ndarray | None
    core_probability: np.ndarray
    mode: str
    split_labels: np.ndarray


def input_scale(card: ModelCard, pixel_size_nm: float | None, pixels: int) -> float:
    """Give the factor by which an image is resampled to the pixel sizes of the training images.

    Parameters
    ----------
    card : ModelCard
    pixel_size_nm : float or None
        Pixel size of the image.
    pixels : int
        Number of pixels of the image.

    Returns
    -------
    float
        1 if image or model is not calibrated, or if the pixel size is within a factor of 1.25 of those of the
        training images. Otherwise the factor to the nearest of them, at most 4, and so small that the
        enlarged image has no more than 2**27 pixels.
    """
    if card.pixel_size_nm is None or pixel_size_nm is None:
        return 1.0
    smallest, largest = card.pixel_size_nm
    if pixel_size_nm < smallest / LARGEST_PIXEL_RATIO:
        return pixel_size_nm / smallest
    if pixel_size_nm > largest * LARGEST_PIXEL_RATIO:
        return max(1.0, min(pixel_size_nm / largest, LARGEST_ENLARGEMENT, _room(pixels)))
    return 1.0


def _room(pixels: int) -> float:
    """Give the factor by which an image can be enlarged without getting too large."""
    return (LARGEST_ENLARGED_PX / pixels) ** 0.5


def size_scale(card: ModelCard, core: np.ndarray, factor: float = 1.0) -> float:
    """Give a second factor that brings the particles to the sizes that the model finds best.

    Parameters
    ----------
    card : ModelCard
    core : ndarray of bool, (height, width)
        Cores found in a first prediction, at the size of the image.
    factor : float
        Factor by which the image was resampled in that prediction, see `input_scale`.

    Returns
    -------
    float
        2 for too small particles and ½ for too large ones. 1 if the particles are within the card's
        `diameters_px`, if there are none, or if the image would be enlarged over 4 times or to over 2**27
        pixels.
    """
    found_px = typical_diameter_px(core) if card.diameters_px is not None else None
    if card.diameters_px is None or found_px is None:
        return 1.0
    smallest, largest = card.diameters_px
    if found_px * factor < smallest:
        enlargement = 2 * factor * max(card.scales)
        return 2.0 if enlargement <= min(LARGEST_ENLARGEMENT, _room(core.size)) else 1.0
    return 0.5 if found_px * factor > largest else 1.0


def predict_averaged_strips(
    predict_tile: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    scales: Sequence[float] = (1.0,),
    flips: bool = False,
    tile_px: int = TILE_PX,
    overlap_px: int = TILE_OVERLAP_PX,
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict class probabilities strip by strip, averaged over scales and mirror images.

    With scale 1 only and without mirroring this is `predict_strips`, whose memory is bounded by a row of
    tiles. The probabilities at every other scale, and of mirror images, are kept as a whole: 2 bytes per
    pixel of the resampled image and class.

    Parameters
    ----------
    predict_tile, image, tile_px, overlap_px
        As for `predict_strips`.
    scales : sequence of float
        Factors by which the image is resampled. It is smoothed before shrinking, and its intensities are
        standardised again, as if it had been recorded at that size.
    flips : bool
        Average over the image and its mirror images along rows, along columns and along both.

    Yields
    ------
    first_row : int
    probabilities : ndarray, (rows, width, classes), float32
        At the size of the image.
    """
    # Scale 1 comes last, because its strips are passed on as they are predicted.
    ordered = sorted(scales, key=lambda scale: scale == 1)
    own = ordered[-1] == 1 and not flips
    held = [
        _probability_levels(predict_tile, image, scale, flips, tile_px, overlap_px)
        for scale in (ordered[:-1] if own else ordered)
    ]
    height = image.shape[0]
    strips: Iterator[tuple[int, np.ndarray | None]]
    if own:
        strips = predict_strips(predict_tile, image, tile_px, overlap_px)
    else:
        strips = ((top, None) for top in range(0, height, tile_px))
    for top, probability in strips:
        rows = min(tile_px, height - top) if probability is None else len(probability)
        others = [_strip_of(levels, image.shape, top, rows) for levels in held]
        everything = others if probability is None else [*others, probability]
        total = everything[0]
        for of_scale in everything[1:]:
            total += of_scale
        yield top, total / np.float32(len(scales)) if held else total


def _probability_levels(
    predict_tile: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    scale: float,
    flips: bool,
    tile_px: int,
    overlap_px: int,
) -> np.ndarray:
    """Predict an image at one scale; give (classes, height, width) uint16, with probability 1 as 65,535."""
    shape = tuple(max(1, round(side * scale)) for side in image.shape)
    if shape != image.shape:
        image = standardise(resampled(image, shape), "bright_field")
    steps = (1, -1) if flips else (1,)
    mirrorings = [(slice(None, None, y), slice(None, None, x)) for y in steps for x in steps]
    # 65,535 = 4 × 16,383 + 3, so rounding changes a probability by less than 5e-5.
    share = _LEVELS // len(mirrorings)
    levels = None
    for y, x in mirrorings:
        for top, probability in predict_strips(predict_tile, image[y, x], tile_px, overlap_px):
            if levels is None:
                levels = np.zeros((probability.shape[-1], *shape), np.uint16)
            rows = levels[:, y, x][:, top : top + len(probability)]
            rows += np.rint(np.moveaxis(probability, -1, 0) * share).astype(np.uint16)
    assert levels is not None
    return levels


def resampled(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resample an image to another shape; it is smoothed before shrinking."""
    from skimage.transform import resize

    return resize(image, shape, order=1, preserve_range=True, anti_aliasing=shape < image.shape)


def _strip_of(levels: np.ndarray, shape: tuple[int, ...], top: int, rows: int) -> np.ndarray:
    """Interpolate some of the image's rows from probabilities at another scale, (rows, width, classes)."""
    step = np.array(levels.shape[1:]) / shape
    if (step == 1).all():
        strip = levels[:, top : top + rows].astype(np.float32)
    else:
        from scipy.ndimage import affine_transform

        offset = (np.array([top, 0]) + 0.5) * step - 0.5
        strip = np.empty((len(levels), rows, shape[1]), np.float32)
        for of_class, found in zip(levels, strip, strict=True):
            affine_transform(
                of_class, step, offset, output_shape=found.shape, output=found, order=1, mode="nearest"
            )
    return np.moveaxis(strip, 0, -1) / np.float32(_LEVELS)


def predict_classes(
    model: SegmentationModel,
    image: np.ndarray,
    *,
    pixel_size_nm: float | None = None,
    scales: Sequence[float] = (),
    flips: bool = False,
    tile_px: int = TILE_PX,
    overlap_px: int = TILE_OVERLAP_PX,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict the most probable class of every pixel of a standardised micrograph.

    If the model's card has a `core_threshold`, connected pixels of at least that probability of core form a
    region. The region is core if its mean probability is one half or more. All other pixels get the most
    probable of the other classes.

    Parameters
    ----------
    image : ndarray, (height, width)
        Standardised; any size.
    pixel_size_nm : float, optional
        If it differs much from those of the training images, the image is resampled, see `input_scale`.
    scales : sequence of float
        See `predict_averaged_strips`; by default those of the model's card. If the card has `diameters_px`
        and the particles found have other sizes, the image is then predicted again, see `size_scale`.
    flips : bool
        Average over mirror images, which takes four times as long.

    Returns
    -------
    class_map : ndarray, (height, width), uint8
        Index into the model's classes.
    core_probability : ndarray, (height, width), uint8
        0 … 255.
    """
    factor = input_scale(model.card, pixel_size_nm, image.size)
    core = model.card.classes.index("core")

    def predict(sizes: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        shown = [factor * size for size in sizes]
        strips = predict_averaged_strips(model.predict_tile, image, shown, flips, tile_px, overlap_px)
        return _decide(strips, image.shape, core, model.card.core_threshold)

    if scales:
        return predict(scales)
    class_map, core_probability = predict(model.card.scales)
    change = size_scale(model.card, class_map == core, factor)
    if change == 1:
        return class_map, core_probability
    return predict([change * scale for scale in model.card.scales])


def _decide(
    strips: Iterator[tuple[int, np.ndarray]], shape: tuple[int, ...], core: int, threshold: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Give the class and the core probability, 0 … 255, of every pixel, both (height, width) uint8."""
    class_map = np.empty(shape, np.uint8)
    core_probability = np.empty(shape, np.uint8)
    may_be_core = np.zeros(shape, bool)
    for top, probability in strips:
        rows = slice(top, top + len(probability))
        core_probability[rows] = np.rint(probability[..., core] * 255)
        if threshold is not None:
            may_be_core[rows] = probability[..., core] >= threshold
            probability[..., core] = -1
        class_map[rows] = probability.argmax(axis=-1)
    if threshold is not None:
        _mark_cores(class_map, core, may_be_core, core_probability)
    return class_map, core_probability


def _mark_cores(
    class_map: np.ndarray, core: int, may_be_core: np.ndarray, core_probability: np.ndarray
) -> None:
    """Make connected regions core, in place, if their mean probability is one half or more."""
    regions = label_instances(may_be_core, 1)
    count = int(regions.max(initial=0))
    total = np.zeros(count + 1)
    for region, probability in zip(row_strips(regions), row_strips(core_probability), strict=True):
        total += np.bincount(region.ravel(), probability.ravel(), minlength=count + 1)
    is_core = total >= 255 / 2 * areas_px(regions, count)
    is_core[0] = False
    for region, classes in zip(row_strips(regions), row_strips(class_map), strict=True):
        classes[is_core[region]] = core


def segment_micrograph(
    image: np.ndarray,
    model: SegmentationModel,
    mode: str = "auto",
    *,
    pixel_size_nm: float | None = None,
    scales: Sequence[float] = (),
    flips: bool = False,
    tile_px: int = TILE_PX,
    overlap_px: int = TILE_OVERLAP_PX,
    minimum_diameter_px: float = 4.0,
    minimum_diameter_nm: float | None = None,
) -> Segmentation:
    """Find cores, and shells if the model knows them, on one micrograph, and split touching ones.

    Parameters
    ----------
    image : ndarray, (height, width)
        As recorded, any real dtype.
    model : SegmentationModel
    mode : {"auto", "bright_field", "haadf"}
        `auto` decides from the image.
    pixel_size_nm : float, optional
        Side of the image's square pixels.
    scales, flips
        See `predict_classes`.
    minimum_diameter_px, minimum_diameter_nm : float
        Objects with a smaller equivalent circular diameter are removed as noise. For calibrated images the
        larger of the two limits applies.

    Returns
    -------
    Segmentation
    """
    if mode == "auto":
        mode, _ = detect_mode(image)
    if minimum_diameter_nm is not None and pixel_size_nm is not None:
        minimum_diameter_px = max(minimum_diameter_px, minimum_diameter_nm / pixel_size_nm)
    class_map, core_probability = predict_classes(
        model,
        standardise(image, mode),
        pixel_size_nm=pixel_size_nm,
        scales=scales,
        flips=flips,
        tile_px=tile_px,
        overlap_px=overlap_px,
    )
    core = model.card.classes.index("core")
    minimum_area_px = np.pi / 4 * minimum_diameter_px**2

    def particles(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return split_touching(label_instances(mask, minimum_area_px), minimum_diameter_px)

    labels, split_labels = particles(class_map == core)
    shell_labels = particles(class_map > 0)[0] if model.card.has_shells else None
    return Segmentation(labels, shell_labels, core_probability, mode, split_labels)
