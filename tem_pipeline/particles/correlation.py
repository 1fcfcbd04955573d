"""Correlations of two variables and fitted lines, with p values and 95 % intervals for few samples."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

RESAMPLES = 2000
PERMUTATIONS = 9999


@dataclass(frozen=True)
class Line:
    """A fitted line with the standard errors and 95 % intervals of slope and intercept."""

    method: str
    slope: float
    slope_standard_error: float
    slope_low: float
    slope_high: float
    intercept: float
    intercept_standard_error: float
    intercept_low: float
    intercept_high: float


def fit_line(x: np.ndarray, y: np.ndarray, x_error: np.ndarray, y_error: np.ndarray) -> Line:
    """Fit y = intercept + slope · x.

    Both axes have errors, and errors of x flatten the line of ordinary least squares. Where every point has
    both standard errors the line is York's (York et al., *Am. J. Phys.* 72 (2004) 367, errors uncorrelated);
    points that scatter by more than their errors say widen its standard errors by √(χ²/(n−2)). Otherwise it
    is ordinary least squares, which assumes exact x.

    Parameters
    ----------
    x, y : ndarray, (n,)
        At least 3 points; x is not constant.
    x_error, y_error : ndarray, (n,)
        Standard errors; NaN where they are unknown.

    Returns
    -------
    Line
        With the method "york" or "least_squares". Intervals are those of Student's t with n − 2 degrees of
        freedom.
    """
    n = len(x)
    fitted = scipy.stats.linregress(x, y)
    slope, intercept = float(fitted.slope), float(fitted.intercept)
    errors = float(fitted.stderr), float(fitted.intercept_stderr)
    method = "least_squares"
    known = np.isfinite(x_error) & np.isfinite(y_error) & (x_error > 0) & (y_error > 0)
    if known.all() and (york := _york(x, y, x_error, y_error, slope)):
        method, (slope, intercept, *errors) = "york", york
    quantile = scipy.stats.t.ppf(0.975, n - 2)
    intervals = [
        (float(value), error, value - quantile * error, value + quantile * error)
        for value, error in zip((slope, intercept), errors, strict=True)
    ]
    return Line(method, *(float(number) for interval in intervals for number in interval))


def _york(
    x: np.ndarray, y: np.ndarray, x_error: np.ndarray, y_error: np.ndarray, slope: float
) -> tuple[float, float, float, float] | None:
    """Give slope, intercept and their standard errors; None if the iteration doesn't converge."""
    with np.errstate(all="ignore"):
        for _ in range(500):
            weight = 1 / (y_error**2 + slope**2 * x_error**2)
            x_mean, y_mean = np.average(x, weights=weight), np.average(y, weights=weight)
            u, v = x - x_mean, y - y_mean
            beta = weight * (u * y_error**2 + slope * v * x_error**2)
            former, slope = slope, float(np.sum(weight * beta * v) / np.sum(weight * beta * u))
            if not np.isfinite(slope):
                return None
            if abs(slope - former) <= 1e-12 * abs(slope):
                break
        else:
            return None
    intercept = y_mean - slope * x_mean
    adjusted = x_mean + beta
    centre = np.average(adjusted, weights=weight)
    slope_variance = 1 / np.sum(weight * (adjusted - centre) ** 2)
    intercept_variance = 1 / np.sum(weight) + centre**2 * slope_variance
    scatter = max(1.0, float(np.sum(weight * (y - intercept - slope * x) ** 2)) / (len(x) - 2))
    return slope, intercept, np.sqrt(slope_variance * scatter), np.sqrt(intercept_variance * scatter)


def correlation(a: np.ndarray, b: np.ndarray) -> Any:
    """Compute Pearson's coefficient along the last axis; NaN where a variable is constant."""
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    tiny = 1e-12 * np.max(scale, initial=0)
    product = (a * b).sum(axis=-1)
    return np.clip(np.divide(product, scale, out=np.full_like(scale, np.nan), where=scale > tiny), -1, 1)


def _seeded(*arrays: np.ndarray) -> np.random.Generator:
    """Seed by content, so that the same samples always give the same intervals."""
    content = b"".join(np.ascontiguousarray(array, dtype=np.float64).tobytes() for array in arrays)
    return np.random.default_rng(int.from_bytes(hashlib.sha256(content).digest()[:8], "little"))


def permutation_p(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the probability of a coefficient at least as far from 0 if activities are exchangeable."""
    return float(
        scipy.stats.permutation_test(
            (a, b),
            lambda a, b, axis=-1: correlation(a, b),
            permutation_type="pairings",
            n_resamples=PERMUTATIONS,
            vectorized=True,
            rng=_seeded(a, b),
        ).pvalue
    )


def correlation_interval(x: np.ndarray, y: np.ndarray, ranks: bool = False) -> tuple[float, float]:
    """Give the 95 % interval of a correlation from a bootstrap that resamples samples.

    The coefficients of 2000 resamples are taken to Fisher's z = artanh r. Their spread, from the quartiles,
    because resamples of few distinct samples give ±1, times t(n−2) times √(n/(n−1)) for few samples, is the
    half-width about the z found. Plain percentile intervals covered 73 % to 93 % of normal pairs in a trial
    with 4 to 20 samples, these 94 % to 100 %.

    Parameters
    ----------
    x, y : ndarray, (n,)
        One value per sample, at least 4; neither is constant.
    ranks : bool
        Spearman's coefficient instead of Pearson's. Ranks that agree agree in every resample, so the spread
        is at least 1.03/√(n−3) (Fieller, Hartley & Pearson, *Biometrika* 44 (1957) 470), and the coefficient
        is taken to lie at least half its smallest step from ±1.

    Returns
    -------
    low, high : float
    """
    n = len(x)
    index = _seeded(x, y).integers(0, n, (RESAMPLES, n))
    resampled, found, limit, floor = (x[index], y[index]), (x, y), 1 - 1e-9, 0.0
    if ranks:
        resampled = tuple(scipy.stats.rankdata(values, axis=1) for values in resampled)
        found = scipy.stats.rankdata(x), scipy.stats.rankdata(y)
        limit, floor = 1 - 6 / (n * (n**2 - 1)), 1.03 / np.sqrt(n - 3)
    r, coefficients = float(correlation(*found)), correlation(*resampled)
    z = np.arctanh(np.clip(coefficients[np.isfinite(coefficients)], -limit, limit))
    spread = max(float(scipy.stats.iqr(z)) / (2 * scipy.stats.norm.ppf(0.75)), floor)
    half = scipy.stats.t.ppf(0.975, n - 2) * spread * np.sqrt(n / (n - 1))
    centre = np.arctanh(np.clip(r, -limit, limit))
    return min(float(np.tanh(centre - half)), r), max(float(np.tanh(centre + half)), r)
