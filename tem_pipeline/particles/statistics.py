"""Statistics of the sizes of counted particles: histogram, moments and quantiles, intervals and fits.

Which particles count is decided in `distributions`. The methods behind the intervals are in `uncertainty`,
the tests of the fits in `fits`.
"""

from typing import Any

import numpy as np
import pandas as pd

from tem_pipeline import text
from tem_pipeline.particles import uncertainty
from tem_pipeline.particles.fits import fit_quality
from tem_pipeline.tables import FIT_PARAMETERS, INTERVAL_STATISTICS, STATISTICS

_FEWEST_BINS, _MOST_BINS = 5, 60


def histogram_edges(values: np.ndarray) -> np.ndarray:
    """Choose a histogram's bins: round numbers, about as wide as Freedman and Diaconis advise.

    Freedman & Diaconis, *Z. Wahrscheinlichkeitstheorie verw. Gebiete* 57 (1981) 453: width 2·IQR/∛N. It is
    rounded to 1, 2 or 5 times a power of ten that gives 5 to 60 bins.

    Parameters
    ----------
    values : ndarray, (n,)
        Finite.

    Returns
    -------
    ndarray
        Ascending edges that hold every value; empty without values.
    """
    if not len(values):
        return np.zeros(0)
    low, high = float(np.min(values)), float(np.max(values))
    if high - low <= 1e-9 * max(abs(high), 1e-12):
        half = 0.05 * abs(high) or 0.5
        return np.array([low - half, high + half])
    quartiles = np.subtract(*np.percentile(values, (75, 25)))
    wanted = 2 * quartiles / np.cbrt(len(values)) or (high - low) / np.sqrt(len(values))
    width = _round_step(
        float(np.clip(wanted, (high - low) / _MOST_BINS, (high - low) / _FEWEST_BINS)), low, high
    )
    first, last = np.floor(low / width), np.ceil(high / width)
    edges = np.arange(first, last + 1) * width
    # Products like 3 × 0.1 differ from the exact number by rounding.
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges


def _round_step(width: float, low: float, high: float) -> float:
    """Find the round step nearest to `width` whose bins are neither too few nor too many."""
    exponent = np.floor(np.log10(width))
    steps = [m * 10.0 ** (exponent + e) for e in (-1, 0, 1) for m in (1, 2, 5)]
    bins = {step: np.ceil(high / step) - np.floor(low / step) for step in steps}
    allowed = [step for step in steps if _FEWEST_BINS <= bins[step] <= _MOST_BINS] or steps
    return min(allowed, key=lambda step: abs(np.log(step / width)))


def describe(counted: pd.DataFrame, kind: str) -> dict[str, Any]:
    """Compute statistics, plain and edge-weighted, with their intervals, fits and variance components."""
    values = counted["value"].to_numpy(float)
    edges = histogram_edges(values)
    counts = np.histogram(values, edges)[0] if len(values) else np.zeros(0, dtype=np.int64)
    row: dict[str, Any] = {"histogram_edges": edges, "histogram_counts": counts}
    if not len(values):
        return {**row, "interval_note": "no intervals: no particle was counted"}
    row |= {"minimum": float(values.min()), "maximum": float(values.max())}
    names, fields = np.unique(counted["field_id"].astype(str), return_inverse=True)
    for suffix, weights in (("", np.ones(len(values))), ("_corrected", counted["weight"].to_numpy(float))):
        row |= statistics_with_intervals(values, weights, fields, kind, suffix)
    row["interval_note"] = (
        f"95 %, for sampling only: {len(names)} fields resampled {uncertainty.RESAMPLES} times, corrected "
        "for few fields"
        if len(names) >= uncertainty.FEWEST_FIELDS
        else f"no intervals: {text.counted(len(names), 'field')} with counted particles, at least "
        f"{uncertainty.FEWEST_FIELDS} are needed"
    )
    between, within = uncertainty.variance_components(values, fields)
    row |= {"between_field_variance": between, "within_field_variance": within}
    if kind != "ratio":
        row["normal_anderson_darling"], row["normal_p_value"] = fit_quality(values)
        if values.min() > 0:
            statistic, chance = fit_quality(np.log(values))
            row |= {"lognormal_anderson_darling": statistic, "lognormal_p_value": chance}
    return row


def statistics_with_intervals(
    values: np.ndarray, weights: np.ndarray, fields: np.ndarray, kind: str, suffix: str
) -> dict[str, Any]:
    """Compute the statistics of weighted values, with standard errors and 95 % intervals over fields.

    Parameters
    ----------
    values, weights : ndarray, (n,)
        At least one; positive weights.
    fields : ndarray of int, (n,)
        0 … n_fields − 1, every one with particles.
    kind : {"diameter", "length", "ratio"}
        As in `uncertainty.weighted_statistics`.
    suffix : str
        Put behind the names of the statistics.

    Returns
    -------
    dict
        Columns of `SIZE_DISTRIBUTION_SCHEMA`. Intervals are estimate ± t(n − 1) × standard error, that of the
        standard deviation `uncertainty.sd_interval`.
    """
    repeats = uncertainty.resample_fields(values, weights, fields)
    n_fields = repeats.shape[1]
    # With one particle, or one per field, variances are undefined: NaN, and null in the table.
    with np.errstate(divide="ignore", invalid="ignore"):
        samples = uncertainty.weighted_statistics(values, weights, fields, repeats, kind)
    row: dict[str, Any] = {}
    for name, *_ in (*STATISTICS, *FIT_PARAMETERS):
        if name not in samples:
            continue
        estimate = float(samples[name][0])
        row[name + suffix] = estimate if np.isfinite(estimate) else None
        if name not in INTERVAL_STATISTICS and name not in {parameter for parameter, *_ in FIT_PARAMETERS}:
            continue
        error = uncertainty.standard_error(samples[name], n_fields)
        row[f"{name}{suffix}_standard_error"] = error
        if error is None or name not in INTERVAL_STATISTICS:
            continue
        half = uncertainty.t_factor(n_fields) * error
        interval = (estimate - half, estimate + half)
        if name == "standard_deviation":
            interval = uncertainty.sd_interval(values, weights, fields, samples) or (None, None)
        row[f"{name}{suffix}_low"], row[f"{name}{suffix}_high"] = interval
    return row
