"""Evaluates a model on annotated images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tem_pipeline.annotation.datasets import AnnotatedImage
from tem_pipeline.micrographs.frame import labels_on_frame
from tem_pipeline.segmentation.inference import predict_classes
from tem_pipeline.segmentation.instances import label_instances
from tem_pipeline.segmentation.models import ModelCard, SegmentationModel
from tem_pipeline.segmentation.touching import split_touching
from tem_pipeline.training import metrics
from tem_pipeline.training.metrics import (
    BOUNDARY_COUNTS,
    INSTANCE_COUNTS,
    Statistics,
    bootstrap_intervals,
    boundary_counts,
    confusion_counts,
    instance_counts,
    match_instances,
    pooled_boundary_f,
    pooled_instance_f1,
    pooled_scores,
    scores,
)

COUNTS = list(metrics.COUNTS)
SHELL_COUNTS = [f"shell_{name}" for name in COUNTS]
CORE_COLUMNS = [*COUNTS, *BOUNDARY_COUNTS, *INSTANCE_COUNTS, "diameter_error"]

SMALLEST_DIAMETER_PX = 5.0
"""Smaller cores are ignored in truth and prediction when particles, not pixels, are compared."""
SMALLEST_AREA_PX = np.pi / 4 * SMALLEST_DIAMETER_PX**2


def evaluate_model(
    model: SegmentationModel,
    images: Sequence[AnnotatedImage],
    progress: Callable[[float], None] | None = None,
    flips: bool = False,
) -> pd.DataFrame:
    """Count right and wrong pixels, boundaries and particles of every image.

    Parameters
    ----------
    model : SegmentationModel
    images : sequence of AnnotatedImage
    progress : callable, optional
        Called after each image with the fraction done, 0 to 1.
    flips : bool
        Average predictions over mirror images, which takes four times as long.

    Returns
    -------
    DataFrame
        One row per image: name, group, the columns of `compare_cores`; shell_tp … of whole particles,
        including the shell, if both model and annotation have shells.
    """
    core = model.card.classes.index("core")
    rows = []
    for index, annotated in enumerate(images):
        class_map, _ = predict_classes(
            model, annotated.image, pixel_size_nm=annotated.square_pixel_nm, flips=flips
        )
        row: dict[str, Any] = {"name": annotated.name, "group": annotated.group}
        row |= compare_cores(annotated, class_map == core)
        if model.card.has_shells and "shell" in annotated.classes:
            counts = confusion_counts(annotated.class_map > 0, class_map > 0)
            row |= dict(zip(SHELL_COUNTS, counts, strict=True))
        rows.append(row)
        if progress:
            progress((index + 1) / len(images))
    return pd.DataFrame(rows, columns=["name", "group", *CORE_COLUMNS] if not rows else None)


def compare_cores(annotated: AnnotatedImage, found_core: np.ndarray) -> dict[str, float]:
    """Compare a mask of cores with an image's annotation.

    Particles are the ones that the platform would count: connected regions of the mask, with touching
    particles split. The true particles are those of the annotation; if it doesn't separate particles, they
    come from its mask in the same way.

    Parameters
    ----------
    annotated : AnnotatedImage
    found_core : ndarray of bool, (height, width)

    Returns
    -------
    dict
        The keys are `CORE_COLUMNS`: counts of `metrics`, and diameter_error of `mean_diameter_error`.
    """
    truth_core = annotated.class_map == len(annotated.classes) - 1
    if annotated.instances is None:
        truth = _particles(truth_core)
    else:
        areas = np.bincount(annotated.instances.ravel())
        truth = np.where(areas[annotated.instances] < SMALLEST_AREA_PX, 0, annotated.instances)
    return {
        **dict(zip(COUNTS, confusion_counts(truth_core, found_core), strict=True)),
        **dict(zip(BOUNDARY_COUNTS, boundary_counts(truth_core, found_core), strict=True)),
        **dict(zip(INSTANCE_COUNTS, instance_counts(truth, _particles(found_core)), strict=True)),
        "diameter_error": mean_diameter_error(truth_core, found_core),
    }


def _particles(core: np.ndarray) -> np.ndarray:
    return split_touching(label_instances(core, SMALLEST_AREA_PX), SMALLEST_DIAMETER_PX)[0]


def mean_diameter_error(truth_core: np.ndarray, found_core: np.ndarray) -> float:
    """Mean relative error of the equivalent diameters of the cores of one image.

    Connected regions of both masks are paired if their IoU is over one half, so clusters of touching cores
    are compared as clusters. Regions on the frame are left out.

    Parameters
    ----------
    truth_core, found_core : ndarray of bool, (height, width)
        Regions smaller than `SMALLEST_DIAMETER_PX` are ignored.

    Returns
    -------
    float
        Signed: positive if cores are found too large. NaN without a pair.
    """
    truth, found = (label_instances(mask, SMALLEST_AREA_PX) for mask in (truth_core, found_core))
    pairs = match_instances(truth, found)
    for column, labels in enumerate((truth, found)):
        pairs = pairs[~np.isin(pairs[:, column], labels_on_frame(labels))]
    if not len(pairs):
        return float("nan")
    areas = [np.bincount(labels.ravel())[pairs[:, k]] for k, labels in enumerate((truth, found))]
    return float(np.mean(np.sqrt(areas[1] / areas[0]) - 1))


def diameter_uncertainty(evaluated: pd.DataFrame) -> float | None:
    """Relative standard uncertainty of an image's mean diameter due to segmentation.

    The root mean square, over images, of the image's mean relative error: it includes the bias common to all
    images and the scatter between images.

    Parameters
    ----------
    evaluated : DataFrame
        From `evaluate_model`.

    Returns
    -------
    float or None
        None if no core was matched in any image.
    """
    errors = evaluated["diameter_error"].dropna().to_numpy(float)
    return float(np.sqrt(np.mean(errors**2))) if len(errors) else None


def summarise_evaluation(evaluated: pd.DataFrame) -> dict[str, Any]:
    """Pool the counts of all images into scores with 95 % intervals.

    The intervals resample source micrographs, because crops of one micrograph are not independent.

    Returns
    -------
    dict
        accuracy, mean_iou, dice, iou, boundary_f (within `metrics.BOUNDARY_TOLERANCE_PX`), instance_f1 (at an
        IoU over one half), diameter_error (signed mean over images; None if no core was matched), dice_shell
        if shells were evaluated, intervals, images.
    """
    by_source = _sums_by_source(evaluated)
    summary = {name: _number(value) for name, value in _statistics(by_source.sum(axis=0)).items()}
    intervals = _intervals(by_source, _statistics)
    if set(SHELL_COUNTS) <= set(evaluated) and evaluated[SHELL_COUNTS].notna().all(axis=None):
        shells = evaluated.groupby("group")[SHELL_COUNTS].sum().to_numpy()
        summary["dice_shell"] = scores(tuple(shells.sum(axis=0)))["dice"]
        intervals["dice_shell"] = _intervals(shells)["dice"]
    return {**summary, "intervals": intervals, "images": len(evaluated)}


def _sums_by_source(evaluated: pd.DataFrame) -> np.ndarray:
    """Sum the inputs of `_statistics` over the images of each source."""
    error = evaluated["diameter_error"].astype(float)
    summed = evaluated[["group", *CORE_COLUMNS[:-1]]].assign(
        diameter_error=error.fillna(0.0), diameter_images=error.notna().astype(int)
    )
    return summed.groupby("group").sum().to_numpy()


def _statistics(pooled: np.ndarray) -> dict[str, np.ndarray]:
    """Compute all scores from pooled rows of `_sums_by_source`, (..., 13)."""
    pixels, boundaries, particles, diameters = np.split(pooled, [4, 8, 11], axis=-1)
    error, images = np.moveaxis(diameters, -1, 0)
    return {
        **pooled_scores(pixels),
        "boundary_f": pooled_boundary_f(boundaries),
        "instance_f1": pooled_instance_f1(particles),
        "diameter_error": np.divide(error, images, out=np.full_like(error, np.nan), where=images > 0),
    }


def _intervals(counts: np.ndarray, statistics: Statistics | None = None) -> dict[str, list[float | None]]:
    """Give intervals with None instead of NaN, as JSON needs it; a single source has no interval."""
    found = bootstrap_intervals(counts, statistics=statistics)
    return {name: [_number(end) for end in ends] for name, ends in found.items()}


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def choose_threshold(
    model: SegmentationModel, validation: Sequence[AnnotatedImage], least_gain: float = 0.002
) -> float | None:
    """Choose the smallest probability of core pixels: the one with the best Dice on validation images.

    The Dice is that of the pixels, before `predict_classes` removes regions with a low probability of core.

    Parameters
    ----------
    model : SegmentationModel
        Its card must have no `core_threshold`.
    validation : sequence of AnnotatedImage
        Never test images.
    least_gain : float
        Least gain in Dice over calling a pixel core where core is the most probable class.

    Returns
    -------
    float or None
        None if no threshold gains that much.
    """
    core = model.card.classes.index("core")
    histograms = np.zeros((2, 256), np.int64)
    counts = np.zeros(len(COUNTS), np.int64)
    for annotated in validation:
        class_map, probability = predict_classes(
            model, annotated.image, pixel_size_nm=annotated.square_pixel_nm
        )
        truth = annotated.class_map == len(annotated.classes) - 1
        counts += confusion_counts(truth, class_map == core)
        for is_core, histogram in enumerate(histograms):
            histogram += np.bincount(probability[truth == is_core], minlength=256)
    # For each threshold from level 1 to 255: pixels found rightly, and all pixels found.
    right, found = (np.cumsum(levels[::-1])[::-1][1:] for levels in (histograms[1], histograms.sum(axis=0)))
    dice = 2 * right / np.maximum(found + histograms[1].sum(), 1)
    best = int(np.argmax(dice))
    gain = dice[best] - float(scores(tuple(counts))["dice"])
    # Levels are rounded, so index 0 (level 1) starts at half a level.
    return (best + 0.5) / 255 if gain >= least_gain else None


def pixel_size_range(images: Sequence[AnnotatedImage]) -> tuple[float, float] | None:
    """Give the smallest and largest pixel size in nm, or None if any image has no pixel size."""
    sizes = [image.square_pixel_nm for image in images]
    known = [size for size in sizes if size is not None]
    return (min(known), max(known)) if known and len(known) == len(sizes) else None


def unseen(images: Sequence[AnnotatedImage], *cards: ModelCard, validation_too: bool) -> list[AnnotatedImage]:
    """Remove the images that any of the models was trained on.

    Parameters
    ----------
    validation_too : bool
        Also remove the images that a model's weights were chosen with.
    """
    seen = {sha for card in cards for sha in card.training_images}
    if validation_too:
        seen |= {sha for card in cards for sha in card.validation_images}
    return [image for image in images if image.pixel_sha256 not in seen]
