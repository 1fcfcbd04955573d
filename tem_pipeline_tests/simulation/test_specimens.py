"""Sizes and places of particles, and parameters that are refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tem_pipeline.errors import UserError
from tem_pipeline.simulation.imaging import Imaging
from tem_pipeline.simulation.projection import rasterise
from tem_pipeline.simulation.specimens import Population, draw_diameters, place_particles
from tem_pipeline_tests.simulation.placements import BARE, rng


def test_default_diameters_have_the_published_range_mean_and_deviation() -> None:
    diameters = draw_diameters(rng(), 200_000, Population())
    assert diameters.min() >= 1.2 - 0.01
    assert diameters.max() <= 2.5 + 0.01
    assert diameters.mean() == pytest.approx(1.85, rel=0.002)
    assert diameters.std() == pytest.approx(0.25, rel=0.01)


def test_lognormal_diameters_have_the_stated_moments() -> None:
    diameters = draw_diameters(rng(), 400_000, Population(mean_nm=5, sd_nm=2, distribution="lognormal"))
    assert diameters.mean() == pytest.approx(5, rel=0.005)
    assert diameters.std() == pytest.approx(2, rel=0.02)
    assert np.log(diameters).mean() < math.log(5)


@settings(max_examples=30, deadline=None)
@given(mean=st.floats(0.1, 100), relative=st.floats(0, 1), seed=st.integers(0, 99))
def test_diameters_are_always_positive(mean: float, relative: float, seed: int) -> None:
    assert draw_diameters(rng(seed), 50, Population(mean_nm=mean, sd_nm=mean * relative)).min() > 0


# Placing


def test_cores_keep_their_gap_unless_they_may_touch() -> None:
    population = Population(touching_fraction=0, core_gap_nm=0.5, coverage=(0.4, 0.4))
    cores = place_particles(rng(), (100, 100), population).cores
    centres, radii = cores[["y_nm", "x_nm"]].to_numpy(), cores["major_nm"].to_numpy() / 2
    distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    gap = distance - radii[:, None] - radii[None]
    assert len(cores) > 100
    assert gap[np.triu_indices(len(cores), 1)].min() >= 0.5 - 1e-9


def test_cores_lie_inside_their_shell() -> None:
    placement = place_particles(rng(), (100, 100), Population(touching_fraction=0.3, off_centre=1.0))
    shell = placement.shells.iloc[placement.cores["shell"]].reset_index(drop=True)
    offset = np.hypot(placement.cores["y_nm"] - shell["y_nm"], placement.cores["x_nm"] - shell["x_nm"])
    assert (offset + placement.cores["major_nm"] / 2 <= shell["radius_nm"] + 1e-9).all()
    assert placement.cores.groupby("shell").size().max() > 1


def test_shells_overlap_by_no_more_than_stated() -> None:
    shells = place_particles(rng(), (80, 80), Population(shell_overlap=0.2, coverage=(0.45, 0.45))).shells
    centres, radii = shells[["y_nm", "x_nm"]].to_numpy(), shells["radius_nm"].to_numpy()
    distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    overlap = (radii[:, None] + radii[None] - distance) / np.minimum(radii[:, None], radii[None])
    largest = overlap[np.triu_indices(len(shells), 1)].max()
    assert 0 < largest <= 0.2 + 1e-9


def test_particles_are_spread_evenly_up_to_and_over_the_edge() -> None:
    population = replace(BARE, mean_nm=4, sd_nm=0.5, coverage=(0.3, 0.3))
    inner = outer = 0
    for seed in range(40):
        cores = place_particles(rng(seed), (60, 60), population).cores
        within = cores[cores["y_nm"].between(0, 60) & cores["x_nm"].between(0, 60)]
        middle = within["y_nm"].between(10, 50) & within["x_nm"].between(10, 50)
        inner, outer = inner + int(middle.sum()), outer + int((~middle).sum())
    # 40² of 60² nm² are the middle; about 3,400 particles: 3 % is four standard errors of a regular pattern.
    assert inner / (inner + outer) == pytest.approx(40**2 / 60**2, abs=0.03)


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.6])
def test_the_requested_fraction_of_cores_touches(fraction: float) -> None:
    population = Population(touching_fraction=fraction, cluster_size=(2, 4))
    placement = place_particles(rng(), (300, 300), population, minimum_gap_nm=0.45)
    _, _, particles = rasterise(placement, (2000, 2000), 0.15)
    assert len(particles) > 500
    assert particles["touches_other"].mean() == pytest.approx(fraction, abs=0.06)


def test_the_neck_between_touching_cores_has_the_requested_width() -> None:
    population = replace(BARE, mean_nm=10, sd_nm=1, touching_fraction=1, neck=(0.5, 0.5), coverage=(0.3, 0.3))
    cores = place_particles(rng(), (300, 300), population).cores
    for _, pair in cores.groupby("shell"):
        if len(pair) == 2:
            radii = pair["major_nm"].to_numpy() / 2
            distance = float(np.hypot(*np.diff(pair[["y_nm", "x_nm"]].to_numpy(), axis=0)[0]))
            along = (distance**2 + radii[0] ** 2 - radii[1] ** 2) / (2 * distance)
            neck = 2 * math.sqrt(radii[0] ** 2 - along**2)
            assert neck == pytest.approx(0.5 * 2 * radii.min(), rel=1e-6)
    assert (cores.groupby("shell").size() == 2).sum() > 50


def test_a_field_of_millions_of_particles_is_refused() -> None:
    with pytest.raises(UserError, match="would hold"):
        place_particles(rng(), (50_000, 50_000))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Population, {"mean_nm": -1.0}, "mean diameter"),
        (Population, {"sd_nm": 9.0}, "standard deviation"),
        (Population, {"sd_nm": math.nan}, "standard deviation"),
        (Population, {"cores_per_shell": ()}, "cores_per_shell"),
        (Population, {"aspect": (1.0, 0.5)}, "aspect"),
        (Population, {"coverage": (0.1, 50)}, "coverage"),
        (Population, {"distribution": "flat"}, "distribution"),
        (Imaging, {"mode": "sem"}, "mode 'sem'"),
        (Imaging, {"dose": 0.0}, "dose"),
        (Imaging, {"dose": math.inf}, "dose"),
        (Imaging, {"film_nm": (-1.0, 2.0)}, "film_nm"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(kind: type, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(**arguments)
