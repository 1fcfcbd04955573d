import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tem_pipeline.particles import uncertainty
from tem_pipeline.particles.statistics import statistics_with_intervals

MEAN, FIELD_SD, PARTICLE_SD, FRAME = 5.0, 0.4, 0.8, 40.0


def draw_session(rng: np.random.Generator, n_fields: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Particles of fields that differ in their mean, those spared by the frame only, with their weights."""
    number = rng.poisson(60, n_fields)
    field = np.repeat(np.arange(n_fields), number)
    values = (MEAN + FIELD_SD * rng.standard_normal(n_fields))[field]
    values = values + PARTICLE_SD * rng.standard_normal(len(field))
    whole = (values > 0) & (rng.random(len(field)) < (1 - values / FRAME) ** 2)
    values, field = values[whole], np.unique(field[whole], return_inverse=True)[1]
    return values, (1 - values / FRAME) ** -2, field


@pytest.mark.parametrize("n_fields", [6, 20])
def test_intervals_cover_the_population_as_often_as_they_say(n_fields):
    truth = {"mean": MEAN, "standard_deviation": np.hypot(FIELD_SD, PARTICLE_SD), "median": MEAN}
    rng = np.random.default_rng(n_fields)
    covered = dict.fromkeys(truth, 0)
    for _ in range(200):
        found = statistics_with_intervals(*draw_session(rng, n_fields), "length", "")
        for name, value in truth.items():
            covered[name] += found[f"{name}_low"] <= value <= found[f"{name}_high"]
    assert {name: 0.91 <= count / 200 <= 0.98 for name, count in covered.items()} == dict.fromkeys(
        truth, True
    ), covered


def test_quantiles_worked_by_hand():
    values, equal = np.array([4.0, 1.0, 3.0, 2.0]), np.ones(4)
    assert uncertainty.weighted_quantile(values, equal, 0.5) == 2.5
    assert uncertainty.weighted_quantile(values, equal, 0.1) == 1
    assert uncertainty.weighted_quantile(values, equal, 0.9) == 4
    # Half of the weight, 3 of 6, is at or below 1, so the median is the mean of 1 and 2.
    assert uncertainty.weighted_quantile(np.array([1.0, 2.0, 3.0]), np.array([3.0, 1.0, 2.0]), 0.5) == 1.5
    assert uncertainty.weighted_quantile(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 4.0]), 0.5) == 3


def test_moment_diameters_worked_by_hand():
    values = np.array([1.0, 2.0])
    found = statistics_with_intervals(values, np.ones(2), np.array([0, 0]), "diameter", "")
    assert found["d32"] == pytest.approx(9 / 5)
    assert found["d43"] == pytest.approx(17 / 9)
    assert found["d50_volume"] == 2
    assert found["standard_deviation"] == pytest.approx(np.sqrt(0.5))
    assert found["normal_sd"] == pytest.approx(0.5)
    assert found["lognormal_geometric_mean"] == pytest.approx(np.sqrt(2))
    assert found["lognormal_geometric_sd"] == pytest.approx(np.sqrt(2))
    weighted = statistics_with_intervals(values, np.array([3.0, 1.0]), np.array([0, 0]), "diameter", "")
    assert weighted["mean"] == pytest.approx(5 / 4)
    assert weighted["d32"] == pytest.approx(11 / 7)


def test_variance_components_worked_by_hand():
    # Fields 1, 3 | 5, 7, 9: means 2 and 7, MSW 10/3, MSB 30, n₀ = 5 − 13/5 = 2.4.
    between, within = uncertainty.variance_components(np.array([1.0, 3, 5, 7, 9]), np.array([0, 0, 1, 1, 1]))
    assert within == pytest.approx(10 / 3)
    assert between == pytest.approx((30 - 10 / 3) / 2.4)
    assert uncertainty.variance_components(np.array([1.0, 3, 1, 3]), np.array([0, 0, 1, 1]))[0] == 0
    assert uncertainty.variance_components(np.array([1.0, 3]), np.array([0, 0])) == (None, None)


def test_under_three_fields_there_is_no_interval():
    found = statistics_with_intervals(np.arange(1.0, 9), np.ones(8), np.repeat([0, 1], 4), "diameter", "")
    assert found["mean"] == 4.5
    assert found["mean_standard_error"] is None
    assert "mean_low" not in found


def test_the_order_of_particles_doesnt_matter_to_the_interval():
    values, weights, field = draw_session(np.random.default_rng(1), 5)
    shuffled = np.random.default_rng(2).permutation(len(values))
    one = statistics_with_intervals(values, weights, field, "length", "")
    other = statistics_with_intervals(values[shuffled], weights[shuffled], field[shuffled], "length", "")
    assert {k: pytest.approx(v) for k, v in one.items()} == other


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0.5, 50), st.floats(1, 3), st.integers(0, 3)), min_size=1, max_size=30),
    st.integers(2, 4),
)
def test_repeating_every_field_leaves_means_quantiles_fits_unchanged(particles, times):
    values, weights, field = (np.array(column) for column in zip(*particles, strict=True))
    field = np.unique(field, return_inverse=True)[1]
    n_fields = field.max() + 1
    repeats = np.ones((1, n_fields))
    with np.errstate(all="ignore"):
        once = uncertainty.weighted_statistics(values, weights, field, repeats, "diameter")
        again = uncertainty.weighted_statistics(
            np.tile(values, times),
            np.tile(weights, times),
            np.concatenate([field + i * n_fields for i in range(times)]),
            np.ones((1, n_fields * times)),
            "diameter",
        )
    for name in set(once) - {"standard_deviation", "within_field_variance"}:
        assert again[name][0] == pytest.approx(once[name][0], rel=1e-6, abs=1e-6), name


def test_fields_still_needed_bring_the_half_width_to_the_target():
    needed = uncertainty.fields_needed(0.10, 6, 0.05)
    assert needed is not None

    def half_width(n):
        return 0.10 * uncertainty.t_factor(n) / uncertainty.t_factor(6) * np.sqrt(5 / (n - 1))

    assert half_width(needed) <= 0.05 < half_width(needed - 1)
    assert uncertainty.fields_needed(0.04, 6, 0.05) == 6
    assert uncertainty.images_needed(9, 6, 12) == 6
