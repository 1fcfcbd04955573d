"""Scores of predicted masks, with intervals, from counts pooled over images.

Pixels, boundary pixels and particles are counted once per image. Pooling and resampling only use the counts.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

COUNTS = ("tp", "fp", "fn", "tn")
SCORES = ("accuracy", "mean_iou", "dice", "iou")
BOUNDARY_COUNTS = ("boundary_right", "boundary_false", "boundary_seen", "boundary_missed")
INSTANCE_COUNTS = ("instances_right", "instances_false", "instances_missed")

BOUNDARY_TOLERANCE_PX = 2.0
"""Largest distance of a right boundary pixel from the true boundary.

It is given in pixels, so that it is the same for crops and whole images. Csurka et al. (see
`pooled_boundary_f`) take 0.75 % of the image's diagonal, which is 2.7 px at the 256 × 256 px of Liu et al.
(2021).
"""

LEAST_IOU = 0.5
"""Particles of truth and prediction match if their IoU is larger."""

Statistics = Callable[[np.ndarray], dict[str, np.ndarray]]


def confusion_counts(truth: np.ndarray, prediction: np.ndarray) -> tuple[int, int, int, int]:
    """Count the pixels in which a mask agrees with the truth, and those in which it differs.

    Parameters
    ----------
    truth, prediction : ndarray of bool, or of 0 and 1
        Of equal shape. For a class map, pass one class: ``class_map == core``.

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
    mean of the foreground's and the background's IoU. A score is 1 if truth and prediction are both empty.

    Parameters
    ----------
    counts : array of int, (4,) or (images, 4)
        TP, FP, FN, TN from `confusion_counts`. Several rows are summed first.

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
    """Compute `SCORES` from pooled counts (..., 4); each has the shape (...)."""
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
    """Count boundary pixels of a mask near the true boundary and others, and the same for the truth.

    A boundary pixel is a pixel of the mask with one of its four neighbours outside the mask. The edge of the
    image is not a boundary.

    Parameters
    ----------
    truth, prediction : ndarray of bool, or of 0 and 1, (height, width)
    tolerance_px : float
        Largest distance that counts as near.

    Returns
    -------
    tuple of int
        Predicted boundary pixels near the true boundary, other predicted ones, true boundary pixels near the
        predicted boundary, other true ones.

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


def pooled_boundary_f(pooled: np.ndarray | Sequence) -> np.ndarray:
    """Compute the boundary F-score, the harmonic mean of boundary precision and recall.

    It is 1 if neither truth nor prediction has a boundary.

    Parameters
    ----------
    pooled : array of int, (..., 4)
        Sums of `boundary_counts` over images.

    Returns
    -------
    ndarray, (...)

    References
    ----------
    G. Csurka, D. Larlus, F. Perronnin, "What is a good evaluation measure for semantic segmentation?",
    BMVC 2013. They compute one score per image; here counts are pooled over images.
    """
    right, false, seen, missed = np.moveaxis(np.asarray(pooled, dtype=np.float64), -1, 0)
    precision, recall = _ratio(right, right + false), _ratio(seen, seen + missed)
    both = precision + recall
    return np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)


def instance_counts(truth: np.ndarray, found: np.ndarray) -> tuple[int, int, int]:
    """Count right, false and missed particles.

    Parameters
    ----------
    truth, found
        As in `match_instances`.

    Returns
    -------
    tuple of int
        Pairs, particles of `found` without a partner, particles of `truth` without one.
    """
    pairs = len(match_instances(truth, found))
    real, drawn = (len(np.unique(labels[labels > 0])) for labels in (truth, found))
    return pairs, drawn - pairs, real - pairs


def pooled_instance_f1(pooled: np.ndarray | Sequence) -> np.ndarray:
    """Compute F1 = 2 right / (2 right + false + missed) over particles; it is 1 if there are none.

    Parameters
    ----------
    pooled : array of int, (..., 3)
        Sums of `instance_counts` over images.

    Returns
    -------
    ndarray, (...)
    """
    right, false, missed = np.moveaxis(np.asarray(pooled, dtype=np.float64), -1, 0)
    return _ratio(2 * right, 2 * right + false + missed)


def match_instances(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Pair the particles of two label images that overlap with an IoU of more than one half.

    With this limit a particle has at most one partner, so no assignment problem has to be solved.

    Parameters
    ----------
    truth, found : ndarray of int, (height, width)
        0 background, 1 … n.

    Returns
    -------
    ndarray of int64, (pairs, 2)
        Labels in `truth` and in `found`.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if truth.shape != found.shape:
        raise ValueError(f"truth {truth.shape} and found {found.shape} differ in shape")
    both = (truth > 0) & (found > 0)
    pairs, shared = np.unique(
        np.column_stack((truth[both], found[both])).astype(np.int64), axis=0, return_counts=True
    )
    areas = np.bincount(truth.ravel())[pairs[:, 0]] + np.bincount(found.ravel())[pairs[:, 1]]
    return pairs[shared > LEAST_IOU * (areas - shared)]


def bootstrap_intervals(
    counts_per_source: np.ndarray | Sequence,
    n: int = 2000,
    seed: int = 0,
    statistics: Statistics | None = None,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of pooled scores by bootstrap over source micrographs.

    Sources are resampled, because crops of one micrograph aren't independent. With few sources percentile
    intervals are too narrow.

    Parameters
    ----------
    counts_per_source : array, (sources, counts)
        Counts summed over each source's images: TP, FP, FN, TN, or those that `statistics` takes.
    n : int
        Number of resamples.
    seed : int
        The same seed gives the same intervals.
    statistics : callable, optional
        Maps pooled counts (..., counts) to named values (...); by default `pooled_scores`. Resamples in which
        a value is NaN are left out of its interval.

    Returns
    -------
    dict of str to (float, float)
        Low and high end for each score; both NaN if there are fewer than two sources.
    """
    table = np.atleast_2d(np.asarray(counts_per_source))
    statistics = statistics or pooled_scores
    sources = len(table)
    if sources < 2:
        return {name: (float("nan"), float("nan")) for name in statistics(table.sum(axis=0))}
    drawn = np.random.default_rng(seed).multinomial(sources, np.full(sources, 1 / sources), size=n)
    ends = {}
    for name, values in statistics(drawn @ table).items():
        known = values[~np.isnan(values)]
        ends[name] = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _mask(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype == bool:
        return values
    mask = values == 1
    if not np.all(mask | (values == 0)):
        raise ValueError("a mask must contain only 0 and 1: pass one class of a class map")
    return mask


def _boundary(mask: np.ndarray) -> np.ndarray:
    return mask & ~binary_erosion(mask, border_value=1)


def _near(boundary: np.ndarray, other: np.ndarray, tolerance_px: float) -> int:
    """Count the pixels of a boundary within the tolerance of another boundary."""
    if not other.any():
        return 0
    return int(np.count_nonzero(np.asarray(distance_transform_edt(~other))[boundary] <= tolerance_px))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.ones_like(whole), where=whole > 0)
