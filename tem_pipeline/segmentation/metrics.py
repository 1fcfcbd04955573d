"""Scores of predicted masks against the truth, from pixel counts pooled over images, with intervals.

Counts are kept per source micrograph, so that pooling and resampling need the images only once.
"""

from collections.abc import Sequence

import numpy as np

COUNTS = ("tp", "fp", "fn", "tn")
SCORES = ("accuracy", "mean_iou", "dice", "iou")


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
    return {name: float(value) for name, value in _scores(table.sum(axis=0)).items()}


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
    counts_per_source: np.ndarray | Sequence, n: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the pooled scores under resampling of sources.

    The source micrograph is the unit, since crops of one micrograph aren't independent. With few sources
    these intervals are too narrow, as percentile intervals are.

    Parameters
    ----------
    counts_per_source : array of int, (sources, 4)
        TP, FP, FN, TN added up over each source's images.
    n : int
        Number of resamples.
    seed : int
        The same seed gives the same intervals.
    level : float
        Share of the resamples inside.

    Returns
    -------
    dict of str to (float, float)
        Low and high end of each of `SCORES`; both NaN where there are fewer than two sources.
    """
    table = np.asarray(counts_per_source).reshape(-1, 4)
    sources = len(table)
    if sources < 2:
        return {name: (float("nan"), float("nan")) for name in SCORES}
    drawn = np.random.default_rng(seed).multinomial(sources, np.full(sources, 1 / sources), size=n)
    tails = ((1 - level) / 2, (1 + level) / 2)
    return {
        name: (float(low), float(high))
        for name, values in _scores(drawn @ table).items()
        for low, high in [np.quantile(values, tails)]
    }


def _mask(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype == bool:
        return values
    mask = values == 1
    if not np.all(mask | (values == 0)):
        raise ValueError("a mask must be of 0 and 1: give one class of a class map")
    return mask


def _scores(pooled: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of pooled counts (..., 4), each of shape (...)."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(pooled, dtype=np.float64), -1, 0)
    wrong = fp + fn
    iou = _ratio(tp, tp + wrong)
    return {
        "accuracy": _ratio(tp + tn, tp + tn + wrong),
        "mean_iou": (iou + _ratio(tn, tn + wrong)) / 2,
        "dice": _ratio(2 * tp, 2 * tp + wrong),
        "iou": iou,
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.ones_like(whole), where=whole > 0)
