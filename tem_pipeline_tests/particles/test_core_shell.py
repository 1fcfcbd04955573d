import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from tem_pipeline.errors import UserError
from tem_pipeline.particles.checks import check_particle_table
from tem_pipeline.particles.core_shell import DIRECTIONS
from tem_pipeline.particles.edges import edge_weights
from tem_pipeline.particles.measurement import measure_particles
from tem_pipeline_tests.particles.shapes import OFFSETS
from tem_pipeline_tests.particles.tables import particle_table

SHAPE = (160, 200)
Y, X = np.indices(SHAPE)


def circle(y: float, x: float, diameter: float) -> np.ndarray:
    return np.hypot(Y - y, X - x) <= diameter / 2


def image(*discs: tuple[float, float, float]) -> np.ndarray:
    """Discs (y, x, diameter) numbered from 1; a shared pixel belongs to the nearer centre."""
    labels, nearest = np.zeros(SHAPE, np.uint16), np.full(SHAPE, np.inf)
    for number, (y, x, diameter) in enumerate(discs, start=1):
        distance = np.hypot(Y - y, X - x)
        own = (distance <= diameter / 2) & (distance < nearest)
        labels[own], nearest[own] = number, distance[own]
    return labels


def measured(cores: np.ndarray, shells: np.ndarray | None, **options) -> pd.DataFrame:
    return measure_particles(cores, shell_labels=shells, **options)


@pytest.mark.parametrize("offset", OFFSETS[::2])
@pytest.mark.parametrize(("core", "thickness"), [(5, 3), (8, 8), (12, 15), (20, 5), (40, 30)])
def test_a_concentric_shell_has_its_thickness_and_outer_diameter(core, thickness, offset):
    y, x = 80 + offset[0], 90 + offset[1]
    outer = core + 2 * thickness
    found = measured(image((y, x, core)), image((y, x, outer))).iloc[0]
    assert found.shell_thickness_px == pytest.approx(thickness, abs=0.15)
    assert found.shell_thickness_sd_px < 0.5
    assert found.shell_outer_diameter_px == pytest.approx(outer, rel=0.018)
    assert found.core_offset_px == pytest.approx(0, abs=0.2)
    assert (found.shell_label, found.cores_in_shell) == (1, 1)
    assert found.shell_edge_weight == pytest.approx(
        edge_weights(np.array([outer]), np.array([outer]), np.array([False]), SHAPE)[0], rel=0.02
    )


@pytest.mark.parametrize("shift", [2.0, 6.5, 11.0])
def test_an_off_centre_core_has_the_expected_offset_mean_and_spread(shift):
    core, outer = 16.0, 44.0
    found = measured(image((80.2, 90.3 + shift, core)), image((80.2, 90.3, outer))).iloc[0]
    # Distance from a point off the centre to a circle, along equally spaced directions.
    along = shift * np.cos(np.linspace(0, 2 * np.pi, 3600, endpoint=False))
    thickness = -along + np.sqrt((outer / 2) ** 2 - shift**2 + along**2) - core / 2
    assert found.core_offset_px == pytest.approx(shift, abs=0.2)
    assert found.shell_thickness_px == pytest.approx(thickness.mean(), rel=0.02)
    assert found.shell_thickness_sd_px == pytest.approx(thickness.std(), rel=0.06)


def test_each_core_belongs_to_the_shell_that_holds_most_of_it():
    cores = image((60, 60, 14), (60, 84, 14), (120, 60, 12), (120, 150, 12))
    shells = image((60, 72, 60), (120, 64, 30))
    shells[shells == 1] = 7
    found = measured(cores, shells)
    assert found.shell_label.tolist()[:3] == [7, 7, 2]
    assert found.cores_in_shell.tolist()[:3] == [2, 2, 1]
    bare = found.iloc[3]
    columns = [c for c in found.columns if c.startswith(("shell", "core_offset", "cores_in"))]
    assert bare[columns].isna().all()


def test_a_core_on_the_border_of_two_shells_has_one():
    cores = image((60, 70, 20))
    shells = image((60, 60, 40), (60, 100, 44))
    found = measured(cores, shells).iloc[0]
    assert found.shell_label == 1
    assert found.cores_in_shell == 1


def test_radii_that_end_at_another_particle_do_not_count():
    discs = [(80.3, 60.2, 50.0), (80.3, 100.2, 50.0)]
    found = measured(image((80.3, 60.2, 16), (80.3, 100.2, 16)), image(*discs))
    assert found.shell_thickness_px.tolist() == pytest.approx([17, 17], rel=0.02)
    assert (found.shell_thickness_sd_px < 0.6).all()


def test_a_shell_hidden_on_most_sides_has_no_thickness():
    shells = np.zeros(SHAPE, np.uint16)
    shells[20:140, 20:180] = 2
    shells[circle(80, 100, 40)] = 1
    found = measured(image((80, 100, 12)), shells).iloc[0]
    assert np.isnan(found.shell_thickness_px)
    assert np.isnan(found.shell_thickness_sd_px)
    assert found.shell_outer_diameter_px == pytest.approx(40, rel=0.02)


def test_a_shell_that_the_frame_cuts_gives_no_numbers():
    found = measured(image((20, 90, 12)), image((20, 90, 41))).iloc[0]
    assert not found.touches_edge
    assert found.shell_label == 1
    numbers = ["cores_in_shell", "shell_outer_diameter_px", "shell_thickness_px", "core_offset_px"]
    assert found[[*numbers, "shell_thickness_sd_px", "shell_edge_weight"]].isna().all()


def test_without_shells_the_columns_are_null():
    found = measured(image((80, 90, 20)), None, pixel_size_nm=0.1)
    columns = [c for c in found.columns if c.startswith(("shell", "core_offset", "cores_in"))]
    assert len(columns) == 11
    assert found[columns].isna().all(axis=None)


def test_a_core_that_fills_its_particle_has_a_shell_thickness_of_zero():
    cores = image((80, 90, 20))
    found = measured(cores, cores).iloc[0]
    assert found.shell_thickness_px == pytest.approx(0, abs=0.01)
    assert found.core_offset_px == 0


def test_concave_cores_are_measured_from_their_outermost_rim():
    cores = image((80, 90, 50))
    cores[circle(80, 90, 30)] = 0
    found = measured(cores, image((80, 90, 70))).iloc[0]
    assert found.shell_thickness_px == pytest.approx(10, abs=0.15)


def test_many_particles_at_once_are_measured_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    places = [(20 + 40 * (k // 5), 20 + 40 * (k % 5)) for k in range(20)]
    discs = [(y + rng.uniform(-1, 1), x + rng.uniform(-1, 1), rng.uniform(8, 16)) for y, x in places]
    shells = image(*[(y, x, 34.0) for y, x in places])
    cores = image(*discs)
    together = measured(cores, shells)
    monkeypatch.setattr("tem_pipeline.particles.core_shell._RADII_AT_ONCE", DIRECTIONS)
    monkeypatch.setattr("tem_pipeline.particles.core_shell._CHUNK_PX", 500)
    pd.testing.assert_frame_equal(measured(cores, shells), together)
    assert together.shell_thickness_px.notna().sum() == 20


HALF = 0.5 - 1e-9


def share(labels: np.ndarray, own: int, y: float, x: float) -> float:
    top, left = int(np.floor(y)), int(np.floor(x))
    total = 0.0
    for row, in_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, in_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < labels.shape[0] and 0 <= column < labels.shape[1]:
                total += in_y * in_x * (labels[row, column] == own)
    return total


def walked(cores: np.ndarray, shells: np.ndarray, core: pd.Series, angle: float) -> float | None:
    """One radius, walked outwards half a pixel at a time as the documentation words it."""
    y0, x0, dy, dx = core.centroid_y_px, core.centroid_x_px, np.sin(angle), np.cos(angle)

    def at(labels: np.ndarray, own: int, r: float) -> float:
        return share(labels, own, y0 + r * dy, x0 + r * dx)

    rim, before = 0.0, 1.0
    for k in range(2 * sum(cores.shape)):
        here = at(cores, core.label, 0.5 * (k + 1))
        if before >= HALF > here:
            rim = 0.5 * k + 0.5 * (before - 0.5) / (before - here)
        before = here
    outer, before, k = rim, at(shells, core.shell_label, rim), 0
    while before >= HALF:
        here = at(shells, core.shell_label, rim + 0.5 * (k + 1))
        if here < HALF:
            outer = rim + 0.5 * k + 0.5 * (before - 0.5) / (before - here)
        before, k = here, k + 1
    row, column = round(y0 + (outer + 1) * dy), round(x0 + (outer + 1) * dx)
    beyond = shells[min(max(row, 0), shells.shape[0] - 1), min(max(column, 0), shells.shape[1] - 1)]
    return outer - rim if beyond in (0, core.shell_label) else None


@pytest.mark.parametrize("seed", range(2))
def test_shells_equal_a_walk_along_single_radii_and_a_count_of_pixels(seed):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(120, 110)), 2)
    cores, n = ndimage.label(noise > 1.3 * noise.std())
    shells, _ = ndimage.label(ndimage.binary_dilation(cores % 5 > 0, np.ones((3, 3)), 2))
    found = measured(cores, shells)
    assert len(found) == n > 10
    angles = (np.arange(DIRECTIONS) + 0.5) * 2 * np.pi / DIRECTIONS
    for core in found.itertuples():
        within = shells[(cores == core.label) & (shells > 0)]
        if not len(within):
            assert pd.isna(core.shell_label)
            continue
        assert core.shell_label == np.bincount(within).argmax()
        if pd.isna(core.shell_outer_diameter_px):
            continue
        radii = [walked(cores, shells, core, angle) for angle in angles]
        seen = [radius for radius in radii if radius is not None]
        if len(seen) < DIRECTIONS / 2:
            assert np.isnan(core.shell_thickness_px)
            continue
        assert core.shell_thickness_px == pytest.approx(np.mean(seen), abs=1e-9)
        assert core.shell_thickness_sd_px == pytest.approx(np.std(seen, ddof=1), abs=1e-9)
    assert found.shell_thickness_px.notna().sum() > 5


def test_measured_shells_pass_the_check_of_the_table():
    cores, shells = image((80, 90, 20), (30, 30, 12), (10, 150, 10)), image((80, 90, 50), (10, 150, 30))
    table = particle_table(cores, shell_labels=shells)
    check_particle_table(table)
    assert table.shell_thickness_nm[0] == pytest.approx(1.5, abs=0.015)
    for column, value in (
        ("shell_thickness_px", -1.0),
        ("shell_edge_weight", np.nan),
        ("cores_in_shell", 0),
        ("shell_thickness_nm", 15.0),
    ):
        faulty = table.copy()
        faulty.loc[0, column] = value
        with pytest.raises(UserError, match=column):
            check_particle_table(faulty)


@pytest.mark.parametrize(
    ("shells", "message"),
    [
        (np.zeros((4, 4)), "2-D integer"),
        (np.zeros((3, 4), int), "shells is"),
        (np.full((4, 4), -1), "negative"),
    ],
)
def test_invalid_shells_are_refused_in_one_line(shells, message):
    with pytest.raises(UserError, match=message):
        measured(np.ones((4, 4), int), shells)
