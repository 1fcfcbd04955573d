"""Uncertainty of statistics: resampling of fields, intervals, variance between fields, fields needed.

Whoever takes images chooses fields at random. So fields are resampled, never particles: particles of one
field are similar.
"""

import hashlib
from math import ceil

import numpy as np
import scipy

FEWEST_FIELDS = 3
RESAMPLES = 2000
COVERAGE = 0.95
_GRID = 4096
_LARGEST_NEED = 10_000

Statistics = dict[str, np.ndarray]


def resample_fields(values: np.ndarray, weights: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """Draw fields with replacement; the seed is a hash of the content, so results are reproducible.

    Parameters
    ----------
    values, weights : ndarray, (n,)
    fields : ndarray of int, (n,)
        Field of each particle, 0 … n_fields − 1, every one with particles.

    Returns
    -------
    ndarray, (1 + RESAMPLES, n_fields)
        How often each field is in each sample. The first row is the original sample: ones.
    """
    n_fields = int(fields.max()) + 1
    if n_fields < FEWEST_FIELDS:
        return np.ones((1, n_fields))
    order = np.lexsort((weights, values, fields))
    content = hashlib.sha256()
    for column in (values, weights, fields.astype(float)):
        content.update(np.ascontiguousarray(column[order], dtype="<f8").tobytes())
    rng = np.random.default_rng(int.from_bytes(content.digest()[:8], "little"))
    drawn = rng.multinomial(n_fields, np.full(n_fields, 1 / n_fields), RESAMPLES)
    return np.vstack([np.ones(n_fields), drawn]).astype(float)


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Compute the value below which a given share of the weight is.

    The smallest value at which the weight summed so far exceeds the share; where it equals the share, the
    mean of that value and the next (definition 2 of Hyndman & Fan, *Am. Stat.* 50 (1996) 361, with weights).
    The median of equal weights is the usual one, and repeating every particle changes nothing.

    Parameters
    ----------
    values, weights : ndarray, (n,)
        At least one value; positive weights.
    share : float
        0 … 1.
    """
    order = np.argsort(values, kind="stable")
    return float(_quantiles(values[order], np.cumsum(weights[order])[None], np.ones((1, 1)), share)[0])


def _quantiles(grid: np.ndarray, cumulated: np.ndarray, repeats: np.ndarray, share: float) -> np.ndarray:
    """Find quantiles of every sample by bisection.

    Parameters
    ----------
    grid : ndarray, (k,)
        Ascending values.
    cumulated : ndarray, (n_fields, k)
        Weight of each field's particles up to each value.
    repeats : ndarray, (samples, n_fields)
    """
    total = repeats @ cumulated[:, -1]
    found = []
    # Sums of weights carry rounding errors: equal means within these.
    for tolerance in (-1e-10, 1e-10):
        wanted = (share + tolerance) * total
        low, high = np.zeros(len(repeats), dtype=int), np.full(len(repeats), len(grid) - 1)
        while (low < high).any():
            middle = (low + high) // 2
            reached = np.einsum("sf,fs->s", repeats, cumulated[:, middle]) > wanted
            low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
            low = np.minimum(low, high)
        found.append(grid[high])
    return (found[0] + found[1]) / 2


def weighted_statistics(
    values: np.ndarray, weights: np.ndarray, fields: np.ndarray, repeats: np.ndarray, kind: str
) -> Statistics:
    """Compute the statistics of every sample of fields at once.

    Parameters
    ----------
    values, weights : ndarray, (n,)
        Positive.
    fields : ndarray of int, (n,)
    repeats : ndarray, (samples, n_fields)
        As `resample_fields` gives them; the first row is the sample itself.
    kind : {"diameter", "length", "ratio"}
        D[3,2], D[4,3] and the volume-weighted quantiles are for diameters; fits not for ratios.

    Returns
    -------
    dict of ndarray, (samples,)
        By the names of `tables.STATISTICS` and `tables.FIT_PARAMETERS`, and what `sd_interval` needs:
        within_field_variance. Undefined numbers are NaN. With weights w, the standard deviation is
        √(Σw(x − x̄)² / (Σw − Σw²/Σw)), ddof 1 where all weights are equal. Quantiles as `weighted_quantile`;
        those of resamples on a grid of 4096 of the values where there are more.
    """
    n_fields = repeats.shape[1]
    centre = float(np.average(values, weights=weights))
    shifted = values - centre

    def sums(*columns: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(fields, weights * column, n_fields) for column in columns], axis=1)

    each = sums(np.ones_like(values), weights, shifted, shifted**2)
    total, squares, first, second = (repeats @ each).T
    mean = first / total
    spread = np.maximum(second - total * mean**2, 0)
    # For a single particle rounding leaves a small number instead of 0.
    freedom = total - squares / total
    freedom[freedom <= 1e-9 * total] = np.nan
    inner = np.maximum(each[:, 3] - each[:, 2] ** 2 / each[:, 0], 0)
    inner_freedom = repeats @ np.maximum(each[:, 0] - each[:, 1] / each[:, 0], 0)
    inner_freedom[inner_freedom <= 1e-9 * total] = np.nan
    result: Statistics = {
        "mean": centre + mean,
        "standard_deviation": np.sqrt(spread / freedom),
        "within_field_variance": (repeats @ inner) / inner_freedom,
    }
    weightings = {"number": weights}
    if kind == "diameter":
        powers = repeats @ sums(values**2, values**3, values**4)
        result["d32"], result["d43"] = powers[:, 1] / powers[:, 0], powers[:, 2] / powers[:, 1]
        weightings["volume"] = weights * values**3
    for name, weighting in weightings.items():
        for share in (10, 50, 90):
            column = "median" if (name, share) == ("number", 50) else f"d{share}_{name}"
            # Volume-weighted quantiles have no intervals.
            of = repeats if name == "number" else repeats[:1]
            result[column] = _field_quantiles(values, weighting, fields, of, share / 100)
    if kind != "ratio":
        logarithms = np.log(values)
        middle = float(np.average(logarithms, weights=weights))
        logs = repeats @ sums(logarithms - middle, (logarithms - middle) ** 2)
        log_mean = logs[:, 0] / total
        log_variance = np.maximum(logs[:, 1] / total - log_mean**2, 0)
        result |= {
            "normal_mean": centre + mean,
            "normal_sd": np.sqrt(spread / total),
            "lognormal_geometric_mean": np.exp(middle + log_mean),
            "lognormal_geometric_sd": np.exp(np.sqrt(log_variance)),
        }
    return result


def _field_quantiles(
    values: np.ndarray, weights: np.ndarray, fields: np.ndarray, repeats: np.ndarray, share: float
) -> np.ndarray:
    order = np.argsort(values, kind="stable")
    exact = weighted_quantile(values, weights, share)
    if len(repeats) == 1:
        return np.array([exact])
    n = len(values)
    picked = np.unique(np.linspace(0, n - 1, min(n, _GRID)).round().astype(int))
    bins = np.searchsorted(picked, np.arange(n))
    cumulated = np.zeros((repeats.shape[1], len(picked)))
    np.add.at(cumulated, (fields[order], bins), weights[order])
    found = _quantiles(values[order][picked], np.cumsum(cumulated, axis=1), repeats, share)
    found[0] = exact
    return found


def standard_error(samples: np.ndarray, n_fields: int) -> float | None:
    """Give the standard error of a statistic, its bootstrap corrected for few fields by √(n/(n − 1)).

    Parameters
    ----------
    samples : ndarray, (1 + RESAMPLES,)
        The statistic of the sample itself and of the resamples.
    n_fields : int

    Returns
    -------
    float or None
        None under 3 fields, or where the statistic is undefined.
    """
    usable = samples[1:][np.isfinite(samples[1:])]
    if n_fields < FEWEST_FIELDS or not np.isfinite(samples[0]) or len(usable) < RESAMPLES / 2:
        return None
    return float(usable.std(ddof=1) * np.sqrt(n_fields / (n_fields - 1)))


def t_factor(n_fields: int) -> float:
    """Give the two-sided 95 % quantile of Student's t for n − 1 degrees of freedom."""
    return float(scipy.stats.t.ppf((1 + COVERAGE) / 2, n_fields - 1))


def sd_interval(
    values: np.ndarray, weights: np.ndarray, fields: np.ndarray, samples: Statistics
) -> tuple[float, float] | None:
    """Give the 95 % interval of the standard deviation of all particles: a generalised confidence interval.

    Resampling fields can't show the uncertainty of their scatter: the variance between n fields follows χ²
    with n − 1 degrees of freedom, and its bootstrap error is too small if the estimate is small. Symmetric
    intervals of SE × t cover only 80 % to 88 % if a third or more of the variance is between fields.
    Therefore the two components are treated separately (Weerahandi, *J. Am. Stat. Assoc.* 88 (1993) 899). The
    variance of the fields' means has the χ² distribution of the random-effects model. The variance within
    fields is lognormal with its bootstrap error over fields and Student's t. Their sum is simulated. The
    interval is the simulation's quantiles divided by its estimate, times the sum of the pooled variance and
    the squared standard error of the mean: the pooled variance is about the sample's mean and therefore too
    small by that amount.

    Parameters
    ----------
    values, weights : ndarray, (n,)
    fields : ndarray of int, (n,)
    samples : dict of ndarray
        From `weighted_statistics`.

    Returns
    -------
    (float, float) or None
        None under 3 fields, or where the variance within fields is 0 or unknown.
    """
    n_fields = int(fields.max()) + 1
    within, pooled = samples["within_field_variance"], samples["standard_deviation"][0] ** 2
    mean_error = standard_error(samples["mean"], n_fields)
    if n_fields < FEWEST_FIELDS or mean_error is None or not within[0] > 0:
        return None
    with np.errstate(divide="ignore"):
        within_error = standard_error(np.log(within), n_fields)
    if within_error is None:
        return None
    total = np.bincount(fields, weights)
    means = np.bincount(fields, weights * values) / total
    share = float(np.mean(np.bincount(fields, weights**2) / total**2))
    of_means = float(means.var(ddof=1))
    rng = np.random.default_rng(n_fields)
    inner = within[0] * np.exp(within_error * rng.standard_t(n_fields - 1, 4 * RESAMPLES))
    outer = (n_fields - 1) * of_means / rng.chisquare(n_fields - 1, 4 * RESAMPLES)
    simulated = inner + np.maximum(outer - share * inner, 0)
    estimate = within[0] + max(of_means - share * within[0], 0)
    scale = (pooled + mean_error**2) / estimate
    low, high = np.sqrt(scale * np.quantile(simulated, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)))
    return float(low), float(high)


def variance_components(values: np.ndarray, fields: np.ndarray) -> tuple[float | None, float | None]:
    """Split the variance into between-field and within-field parts: one-way random-effects ANOVA.

    Searle, Casella & McCulloch, *Variance Components* (1992), section 3.6: unbalanced data, every particle
    weighs the same.

    Parameters
    ----------
    values : ndarray, (n,)
    fields : ndarray of int, (n,)

    Returns
    -------
    (float, float) or (None, None)
        (MSB − MSW)/n₀ with n₀ = (N − Σnᵢ²/N)/(k − 1), 0 where it is negative; and MSW. None under two fields,
        or without a field of two particles.
    """
    number = np.bincount(fields)
    n, k = len(values), len(number)
    if k < 2 or n <= k:
        return None, None
    means = np.bincount(fields, values) / number
    within = float(((values - means[fields]) ** 2).sum() / (n - k))
    between = float((number * (means - values.mean()) ** 2).sum() / (k - 1))
    typical = (n - (number**2).sum() / n) / (k - 1)
    return max(0.0, (between - within) / typical), within


def density_error(weights_per_field: np.ndarray, area_per_field: np.ndarray) -> float | None:
    """Give the standard error of the ratio Σ weights / Σ area over fields; None under 3 fields.

    Cochran, *Sampling Techniques*, 3rd ed. (1977), section 2.11.
    """
    n = len(weights_per_field)
    if n < FEWEST_FIELDS:
        return None
    residual = weights_per_field - weights_per_field.sum() / area_per_field.sum() * area_per_field
    return float(np.sqrt(n / (n - 1) * (residual**2).sum()) / area_per_field.sum())


def fields_needed(half_width: float, n_fields: int, target: float) -> int | None:
    """Compute how many fields like these make the interval's half-width small enough.

    The half-width goes as t(n − 1)/√(n − 1).

    Parameters
    ----------
    half_width, target : float
        Relative; what n_fields give, and what is wanted.
    n_fields : int
        At least 3.

    Returns
    -------
    int or None
        At least n_fields; None if 10,000 aren't enough.
    """
    if half_width <= target:
        return n_fields
    scatter = half_width * np.sqrt(n_fields - 1) / t_factor(n_fields)
    few, many = n_fields, _LARGEST_NEED
    if scatter * t_factor(many) / np.sqrt(many - 1) > target:
        return None
    while many - few > 1:
        middle = (few + many) // 2
        enough = scatter * t_factor(middle) / np.sqrt(middle - 1) <= target
        few, many = (few, middle) if enough else (middle, many)
    return many


def images_needed(fields: int, n_fields: int, n_images: int) -> int:
    """Convert the fields still needed to images, at the current number of images per field."""
    return ceil((fields - n_fields) * n_images / n_fields)
