"""Label images, the table of the truth, and projected thickness."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from tem_pipeline.simulation.projection import project_thickness, rasterise
from tem_pipeline.simulation.specimens import Placement, Population, place_particles
from tem_pipeline_tests.simulation.placements import BARE, one_particle, rng, two_cores


def test_area_equivalent_diameters_of_labels_are_unbiased() -> None:
    for diameter_px in (5, 12, 30):
        population = replace(BARE, mean_nm=float(diameter_px), sd_nm=0.1 * diameter_px, coverage=(0.25, 0.25))
        side = 60 * diameter_px
        placement = place_particles(rng(diameter_px), (side, side), population, minimum_gap_nm=3)
        _, _, particles = rasterise(placement, (side, side), 1.0)
        whole = particles[~particles["touches_edge"]]
        area = (math.pi / 4 * whole["diameter_nm"] ** 2).mean()
        assert len(whole) > 600
        assert whole["area_px"].mean() == pytest.approx(area, rel=0.003)
        assert whole["visible_diameter_nm"].mean() == pytest.approx(whole["diameter_nm"].mean(), rel=0.003)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), mean_px=st.floats(3, 40), coverage=st.floats(0, 1), gap=st.booleans())
def test_tables_and_labels_agree(seed: int, mean_px: float, coverage: float, gap: bool) -> None:
    population = Population(
        mean_nm=mean_px,
        sd_nm=mean_px / 5,
        shell_nm=mean_px / 2,
        coverage=(coverage, coverage),
        core_gap_nm=1.0 if gap else None,
        bare_fraction=0.3,
        touching_fraction=0.3,
    )
    shape = (120, 150)
    placement = place_particles(rng(seed), shape, population)
    cores, shells, particles = rasterise(placement, shape, 1.0)
    assert cores.shape == shells.shape == shape
    assert particles["label"].tolist() == list(range(1, len(particles) + 1))
    assert (
        np.bincount(cores.ravel(), minlength=len(particles) + 1)[1:].tolist() == particles["area_px"].tolist()
    )
    assert np.array_equal(np.unique(shells[shells > 0]), np.arange(1, shells.max() + 1))
    for row in particles.itertuples():
        owners = np.unique(shells[cores == row.label])
        # A core without a shell may lie in front of another's.
        assert owners.tolist() == [row.shell_label] or row.shell_label == 0
    bare = particles["shell_label"] == 0
    assert particles.loc[bare, "shell_thickness_nm"].isna().all()
    assert particles.loc[~bare, "shell_thickness_nm"].gt(0).all()
    assert particles.loc[~bare, ["cores_in_shell", "shell_touches_edge"]].notna().all(axis=None)


def test_a_shared_pixel_belongs_to_the_nearer_centre() -> None:
    cores, _, particles = rasterise(two_cores(1.0), (100, 110), 0.1)
    y, x = np.nonzero(cores)
    nearer = np.where(x < (particles["x_px"].mean()), 1, 2)
    assert np.array_equal(cores[y, x], nearer)
    assert particles["touches_other"].all()
    assert (particles["visible_diameter_nm"] < particles["diameter_nm"] - 0.1).all()


def test_a_particle_cut_by_the_edge_has_a_true_and_a_visible_diameter() -> None:
    cores, shells, particles = rasterise(one_particle(core_at=(0, 5), shell_at=(0, 5)), (100, 100), 0.1)
    row = particles.iloc[0]
    assert row["touches_edge"]
    assert row["shell_touches_edge"]
    assert row["diameter_nm"] == 2.0
    assert row["visible_diameter_nm"] == pytest.approx(2.0 / math.sqrt(2), rel=0.02)
    assert cores[0].any()
    assert shells[0].any()


def test_the_true_centre_is_the_centroid_of_the_label() -> None:
    cores, _, particles = rasterise(
        one_particle(core_at=(4.23, 6.71), shell_at=(4.23, 6.71)), (200, 200), 0.05
    )
    centroid = np.argwhere(cores).mean(0)
    assert centroid == pytest.approx(particles[["y_px", "x_px"]].to_numpy()[0], abs=0.05)


def test_concentric_shells_are_as_thick_as_the_difference_of_radii() -> None:
    particles = rasterise(one_particle(2.0, 3.5), (100, 100), 0.1)[2]
    assert particles["shell_thickness_nm"][0] == pytest.approx(2.5)
    assert particles["shell_outer_diameter_nm"][0] == 7.0
    assert particles["core_offset_nm"][0] == 0
    assert particles["cores_in_shell"][0] == 1


def test_the_thickness_of_an_off_centre_shell_is_the_mean_over_radii() -> None:
    placement = one_particle(2.0, 3.5, core_at=(5.0, 6.2))
    cores, shells, particles = rasterise(placement, (1000, 1000), 0.01)
    centre = particles[["y_px", "x_px"]].to_numpy()[0]
    steps = np.arange(0, 600, 0.25)
    thickness = []
    for angle in np.linspace(0, 2 * math.pi, 90, endpoint=False):
        ray = centre[:, None] + np.outer([math.sin(angle), math.cos(angle)], steps)
        y, x = np.clip(np.rint(ray), 0, 999).astype(int)
        thickness.append(((shells[y, x] > 0) & (cores[y, x] == 0)).sum() * 0.25 * 0.01)
    assert particles["shell_thickness_nm"][0] == pytest.approx(np.mean(thickness), rel=0.005)
    assert particles["core_offset_nm"][0] == pytest.approx(1.2)


def test_projected_thickness_holds_the_volumes_of_sphere_and_shell() -> None:
    core_nm, shell_nm = project_thickness(one_particle(2.0, 3.0), (200, 200), 0.05)
    core_volume = math.pi / 6 * 2.0**3
    assert core_nm.sum() * 0.05**2 == pytest.approx(core_volume, rel=0.002)
    assert shell_nm.sum() * 0.05**2 == pytest.approx(math.pi / 6 * 6.0**3 - core_volume, rel=0.002)
    assert core_nm.max() == pytest.approx(2.0, rel=0.002)


def test_cores_of_two_particles_add_up_and_joined_cores_form_a_union() -> None:
    apart = two_cores(1.0)
    together = Placement(apart.cores.assign(shell=0), apart.shells.iloc[:1])
    volume = 2 * math.pi / 6 * 2.0**3
    added = project_thickness(apart, (200, 240), 0.05)[0]
    union = project_thickness(together, (200, 240), 0.05)[0]
    assert added.sum() * 0.05**2 == pytest.approx(volume, rel=0.002)
    # Two spheres of radius 1 whose centres are 1 apart share π/12 (4 + 1)(2 − 1)² of volume.
    assert union.sum() * 0.05**2 == pytest.approx(volume - 5 * math.pi / 12, rel=0.005)
    assert union.max() == pytest.approx(2.0, rel=0.002)


def test_margins_show_the_same_specimen_around_the_image() -> None:
    placement = place_particles(rng(), (20, 20))
    inner = project_thickness(placement, (200, 200), 0.1)[0]
    outer = project_thickness(placement, (200, 200), 0.1, margin_px=15)[0]
    assert np.allclose(outer[15:-15, 15:-15], inner, atol=1e-5)


def test_by_default_at_most_a_hundredth_of_the_cores_touch() -> None:
    tables, components = [], 0
    for seed in range(12):
        placement = place_particles(rng(seed), (51.2, 51.2), minimum_gap_nm=0.3)
        cores, _, particles = rasterise(placement, (512, 512), 0.1)
        tables.append(particles)
        components += label(cores > 0, np.ones((3, 3)))[1]
    particles = pd.concat(tables)
    touching = int(particles["touches_other"].sum())
    assert len(particles) > 300
    assert touching <= 0.01 * len(particles)
    assert components == len(particles) - touching // 2
