"""Normal and lognormal distributions fitted to sizes, and how well they fit.

The standard errors of the parameters, from the bootstrap over fields, are left to `uncertainty`.
"""

from functools import lru_cache

import numpy as np
from scipy.special import log_ndtr

FEWEST_PARTICLES = 8
_SIMULATED_SAMPLES, _LARGEST_SIMULATED = 999, 500


def anderson_darling(standardised: np.ndarray) -> np.ndarray:
    """Compute the Anderson–Darling statistic A² against the standard normal distribution.

    Anderson & Darling, *J. Am. Stat. Assoc.* 49 (1954) 765.

    Parameters
    ----------
    standardised : ndarray, (..., n)
        Values less the fitted mean, divided by the fitted standard deviation; sorted here.

    Returns
    -------
    ndarray, (...)
    """
    z = np.sort(standardised, axis=-1)
    n = z.shape[-1]
    odd = 2 * np.arange(1, n + 1) - 1
    return -n - (odd * (log_ndtr(z) + log_ndtr(-z[..., ::-1]))).sum(axis=-1) / n


def fit_quality(values: np.ndarray) -> tuple[float | None, float | None]:
    """Test how well a normal distribution, fitted by maximum likelihood, agrees with the values.

    The probability p of a larger A² is from a parametric bootstrap (Stute et al., *Metrika* 40 (1993) 243):
    999 samples of the fitted distribution, each fitted anew. It assumes independent values; particles of one
    field aren't independent, so p is too small if fields differ. A² of a fitted normal distribution depends
    on neither mean nor standard deviation, and beyond 500 values hardly on their number: the samples hold at
    most 500.

    Parameters
    ----------
    values : ndarray, (n,)
        Sizes; their logarithms for a lognormal distribution.

    Returns
    -------
    (float, float) or (None, None)
        A² and p; None for fewer than 8 values, or if all are equal.
    """
    n = len(values)
    if n < FEWEST_PARTICLES or np.ptp(values) <= 1e-12 * np.max(np.abs(values)):
        return None, None
    statistic = float(anderson_darling(_standardise(values)))
    expected = _simulated_statistics(min(n, _LARGEST_SIMULATED))
    return statistic, float((1 + (expected >= statistic).sum()) / (1 + len(expected)))


def _standardise(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=-1, keepdims=True)) / values.std(axis=-1, keepdims=True)


@lru_cache(maxsize=64)
def _simulated_statistics(n: int) -> np.ndarray:
    samples = np.random.default_rng(n).standard_normal((_SIMULATED_SAMPLES, n))
    return anderson_darling(_standardise(samples))
