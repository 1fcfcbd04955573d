import numpy as np
import pytest

from tem_pipeline.particles.fits import fit_quality


def test_anderson_darling_agrees_with_scipy_and_stephens():
    from scipy import stats

    values = np.random.default_rng(3).gamma(8, 1, 60)
    statistic, p = fit_quality(values)
    standardised = np.sort((values - values.mean()) / values.std())
    cdf = stats.norm.cdf(standardised)
    i = np.arange(1, 61)
    expected = -60 - np.mean((2 * i - 1) * (np.log(cdf) + np.log(1 - cdf[::-1])))
    assert statistic == pytest.approx(expected)
    # Stephens 1974: A² (1 + 0.75/n + 2.25/n²) exceeds 0.752 in 5 % of normal samples.
    assert p is not None
    assert (p < 0.05) == (expected * (1 + 0.75 / 60 + 2.25 / 3600) > 0.752)


def test_normal_samples_are_refused_about_as_often_as_stated():
    rng = np.random.default_rng(4)
    chances = np.array([fit_quality(rng.normal(5, 1, 40))[1] for _ in range(400)], dtype=float)
    assert 0.02 <= (chances < 0.05).mean() <= 0.08


def test_lognormal_sizes_are_told_from_normal_ones():
    values = np.random.default_rng(5).lognormal(1, 0.5, 400)
    assert (fit_quality(values)[1] or 1) < 0.01
    assert (fit_quality(np.log(values))[1] or 0) > 0.05


@pytest.mark.parametrize("values", [np.arange(1.0, 8), np.full(20, 3.0)])
def test_few_or_equal_values_have_no_goodness_of_fit(values):
    assert fit_quality(values) == (None, None)
