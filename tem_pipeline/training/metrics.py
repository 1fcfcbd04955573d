"""Scores of predicted masks against the truth, from counts pooled over images, with intervals.

Pixels, boundary pixels and particles are counted. Counts are kept per source micrograph, so that pooling and
resampling need the images only once.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

COUNTS = ("tp", "fp", "fn", "tn")
SCORES = ("accuracy", "mean_iou", "dice", "iou")
BOUNDARY_COUNTS = ("boundary_right", "boundary_false", "boundary_seen", "boundary_missed")
INSTANCE_COUNTS = ("instances_right", "instances_false", "instances_missed")

BOUNDARY_TOLERANCE_PX = 2.0
"""How far a boundary may lie from the true one and still be right.

A length in pixels, so that crops and whole images are held to the same. Csurka et al. (see `boundary_f`) take
0.75 % of the image's diagonal, which is 2.7 px at the 256 × 256 px of Liu et al. (2021).
"""

Statistics = Callable[[np.ndarray], dict[str, np.ndarray]]


def confusion_counts(truth: np.ndarray, prediction: np.ndarray) -> tuple[int, int, int, int]:
    """Count the pixels on which a mask and its truth agree and differ.

    Parameters
    ----------
    truth, prediction : ndarray of bool, or of 0 and 1
        Of equal shape. Of a class map give one class: ``class_map == core``.

    Returns
    -------
    tuple of int
        True positives, false positives, false negatives, true negatives.

    Raises
    ------
    ValueError
        If the shapes differ or a value is neither 0 nor 1.
    """
    truth, prediction = _mask(truth), _mask(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
    both = int(np.count_nonzero(truth & prediction))
    true = int(np.count_nonzero(truth))
    predicted = int(np.count_nonzero(prediction))
    return both, predicted - both, true - both, truth.size - true - predicted + both


def scores(counts: np.ndarray | Sequence) -> dict[str, float]:
    """Compute pixel accuracy, mean IoU, Dice and IoU from pooled counts.

    IoU = TP / (TP + FP + FN), Dice = 2 TP / (2 TP + FP + FN), accuracy = (TP + TN) / all; mean IoU is the
    mean of the foreground's and the background's IoU. What is empty in truth and prediction counts as 1.

    Parameters
    ----------
    counts : array of int, (4,) or (images, 4)
        TP, FP, FN, TN as of `confusion_counts`; several rows are added up first.

    Returns
    -------
    dict of str to float
        The keys are `SCORES`.

    References
    ----------
    Liu, Yao, Zhang, Zeng, 2021, doi 10.19651/j.cnki.emt.2106310.
    """
    table = np.asarray(counts).reshape(-1, 4)
    return {name: float(value) for name, value in pooled_scores(table.sum(axis=0)).items()}


def pooled_scores(pooled: np.ndarray) -> dict[str, np.ndarray]:
    """Give `SCORES` of pooled counts (..., 4), each of shape (...)."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(pooled, dtype=np.float64), -1, 0)
    wrong = fp + fn
    iou = _ratio(tp, tp + wrong)
    return {
        "accuracy": _ratio(tp + tn, tp + tn + wrong),
        "mean_iou": (iou + _ratio(tn, tn + wrong)) / 2,
        "dice": _ratio(2 * tp, 2 * tp + wrong),
        "iou": iou,
    }


def boundary_counts(
    truth: np.ndarray, prediction: np.ndarray, tolerance_px: float = BOUNDARY_TOLERANCE_PX
) -> tuple[int, int, int, int]:
    """Count the boundary pixels of a mask and of its truth that lie near each other, and that don't.

    A boundary pixel is one of the mask with a neighbour, by a side, outside of it. The image's frame is no
    boundary.

    Parameters
    ----------
    truth, prediction : ndarray of bool, or of 0 and 1, (height, width)
    tolerance_px : float
        Largest distance that counts as near.

    Returns
    -------
    tuple of int
        Predicted boundary pixels near the true boundary, predicted ones that aren't, true ones near the
        predicted boundary, true ones that aren't.

    Raises
    ------
    ValueError
        If the shapes differ, a value is neither 0 nor 1, or the tolerance is negative.
    """
    truth, prediction = _mask(truth), _mask(prediction)
    if truth.shape != prediction.shape or tolerance_px < 0:
        raise ValueError(f"truth {truth.shape}, prediction {prediction.shape}, tolerance {tolerance_px} px")
    real, drawn = _boundary(truth), _boundary(prediction)
    right, seen = _near(drawn, real, tolerance_px), _near(real, drawn, tolerance_px)
    return right, int(drawn.sum()) - right, seen, int(real.sum()) - seen


def boundary_f(counts: np.ndarray | Sequence) -> float:
    """Compute the boundary F-score from counts: the harmonic mean of boundary precision and recall.

    Without any boundary in truth and prediction it is 1.

    Parameters
    ----------
    counts : array of int, (4,) or (images, 4)
        As of `boundary_counts`; several rows are added up first.

    References
    ----------
    G. Csurka, D. Larlus, F. Perronnin, "What is a good evaluation measure for semantic segmentation?",
    BMVC 2013; there a score an image, here pooled over images.
    """
    return float(pooled_boundary_f(np.asarray(counts).reshape(-1, 4).sum(axis=0)))


def pooled_boundary_f(pooled: np.ndarray) -> np.ndarray:
    """Give the boundary F-score of pooled counts (..., 4), shape (...)."""
    right, false, seen, missed = np.moveaxis(np.asarray(pooled, dtype=np.float64), -1, 0)
    precision, recall = _ratio(right, right + false), _ratio(seen, seen + missed)
    both = precision + recall
    return np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)


def instance_counts(truth: np.ndarray, found: np.ndarray, least_iou: float = 0.5) -> tuple[int, int, int]:
    """Count the particles that were found, those that aren't there, and those that were missed.

    Parameters
    ----------
    truth, found, least_iou
        As in `match_instances`.

    Returns
    -------
    tuple of int
        Pairs, particles of `found` without a partner, particles of `truth` without one.
    """
    pairs = len(match_instances(truth, found, least_iou))
    real, drawn = (len(np.unique(labels[labels > 0])) for labels in (truth, found))
    return pairs, drawn - pairs, real - pairs


def instance_f1(counts: np.ndarray | Sequence) -> float:
    """Compute F1 = 2 right / (2 right + false + missed) over particles; without any particle it is 1.

    Parameters
    ----------
    counts : array of int, (3,) or (images, 3)
        As of `instance_counts`; several rows are added up first.
    """
    return float(pooled_instance_f1(np.asarray(counts).reshape(-1, 3).sum(axis=0)))


def pooled_instance_f1(pooled: np.ndarray) -> np.ndarray:
    """Give F1 over particles of pooled counts (..., 3), shape (...)."""
    right, false, missed = np.moveaxis(np.asarray(pooled, dtype=np.float64), -1, 0)
    return _ratio(2 * right, 2 * right + false + missed)


def match_instances(truth: np.ndarray, found: np.ndarray, least_iou: float = 0.5) -> np.ndarray:
    """Pair the particles of two label images that overlap by more than a given IoU.

    From one half on a particle has at most one partner, so the pairs need no assignment.

    Parameters
    ----------
    truth, found : ndarray of int, (height, width)
        0 background, 1 … n.
    least_iou : float
        At least 0.5; pairs have more.

    Returns
    -------
    ndarray of int64, (pairs, 2)
        Numbers in `truth` and in `found`.

    Raises
    ------
    ValueError
        If the shapes differ or `least_iou` is under 0.5.
    """
    if truth.shape != found.shape or least_iou < 0.5:
        raise ValueError(f"matching {truth.shape} with {found.shape} at IoU {least_iou}: not defined")
    both = (truth > 0) & (found > 0)
    pairs, shared = np.unique(
        np.column_stack((truth[both], found[both])).astype(np.int64), axis=0, return_counts=True
    )
    areas = np.bincount(truth.ravel())[pairs[:, 0]] + np.bincount(found.ravel())[pairs[:, 1]]
    return pairs[shared > least_iou * (areas - shared)]


def bootstrap_intervals(
    counts_per_source: np.ndarray | Sequence,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    statistics: Statistics | None = None,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of pooled scores under resampling of sources.

    The source micrograph is the unit, since crops of one micrograph aren't independent. With few sources
    these intervals are too narrow, as percentile intervals are.

    Parameters
    ----------
    counts_per_source : array, (sources, counts)
        Counts added up over each source's images: TP, FP, FN, TN, or what `statistics` takes.
    n : int
        Number of resamples.
    seed : int
        The same seed gives the same intervals.
    level : float
        Share of the resamples inside.
    statistics : callable, optional
        Maps pooled counts (..., counts) to named values (...); `SCORES` unless given. Resamples in which a
        value is NaN are left out of its interval.

    Returns
    -------
    dict of str to (float, float)
        Low and high end of each score; both NaN where there are fewer than two sources.
    """
    table = np.atleast_2d(np.asarray(counts_per_source))
    statistics = statistics or pooled_scores
    sources = len(table)
    if sources < 2:
        return {name: (float("nan"), float("nan")) for name in statistics(table.sum(axis=0))}
    drawn = np.random.default_rng(seed).multinomial(sources, np.full(sources, 1 / sources), size=n)
    tails = ((1 - level) / 2, (1 + level) / 2)
    ends = {}
    for name, values in statistics(drawn @ table).items():
        known = values[~np.isnan(values)]
        ends[name] = np.quantile(known, tails) if len(known) else (np.nan, np.nan)
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _mask(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype == bool:
        return values
    mask = values == 1
    if not np.all(mask | (values == 0)):
        raise ValueError("a mask must be of 0 and 1: give one class of a class map")
    return mask


def _boundary(mask: np.ndarray) -> np.ndarray:
    return mask & ~binary_erosion(mask, border_value=1)


def _near(boundary: np.ndarray, other: np.ndarray, tolerance_px: float) -> int:
    """Count the pixels of a boundary within the tolerance of another one."""
    if not other.any():
        return 0
    return int(np.count_nonzero(np.asarray(distance_transform_edt(~other))[boundary] <= tolerance_px))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.ones_like(whole), where=whole > 0)
