import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.intensity import detect_mode
from tem_pipeline.simulation.imaging import Imaging, form_image
from tem_pipeline.simulation.sessions import (
    FILE_FORMATS,
    FileFormat,
    simulate_annotated_set,
    simulate_micrograph,
    simulate_session,
)
from tem_pipeline.simulation.specimens import (
    Placement,
    Population,
    draw_diameters,
    place_particles,
    project_thickness,
    rasterise,
)

BARE = Population(shell_nm=0, shell_sd_nm=0, cores_per_shell=(1,), touching_fraction=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_particle(
    diameter_nm: float = 2.0,
    shell_radius_nm: float = 3.0,
    core_at: tuple[float, float] = (5.0, 5.0),
    shell_at: tuple[float, float] = (5.0, 5.0),
) -> Placement:
    core = {"shell": 0, "y_nm": core_at[0], "x_nm": core_at[1], "major_nm": diameter_nm}
    core |= {"minor_nm": diameter_nm, "angle_rad": 0.0, "strength": 0.5}
    shell = {"y_nm": shell_at[0], "x_nm": shell_at[1], "radius_nm": shell_radius_nm}
    return Placement(pd.DataFrame([core]), pd.DataFrame([shell]))


def two_cores(distance_nm: float, diameters_nm: tuple[float, float] = (2.0, 2.0)) -> Placement:
    cores = pd.DataFrame(
        {
            "shell": [0, 1],
            "y_nm": 5.0,
            "x_nm": [5.0, 5.0 + distance_nm],
            "major_nm": diameters_nm,
            "minor_nm": diameters_nm,
            "angle_rad": 0.0,
            "strength": 0.5,
        }
    )
    return Placement(cores, pd.DataFrame({"y_nm": 5.0, "x_nm": cores["x_nm"], "radius_nm": 0.0}))


# Sizes


def test_default_diameters_lie_in_the_published_range_with_the_stated_mean_and_deviation() -> None:
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
def test_as_many_cores_touch_as_asked_for(fraction: float) -> None:
    population = Population(touching_fraction=fraction, cluster_size=(2, 4))
    placement = place_particles(rng(), (300, 300), population, minimum_gap_nm=0.45)
    _, _, particles = rasterise(placement, (2000, 2000), 0.15)
    assert len(particles) > 500
    assert particles["touches_other"].mean() == pytest.approx(fraction, abs=0.06)


def test_the_neck_between_touching_cores_is_as_wide_as_asked_for() -> None:
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


# Drawing


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


def test_a_particle_cut_by_the_edge_keeps_its_true_diameter_beside_the_visible_one() -> None:
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


def test_concentric_shells_have_the_thickness_of_the_difference_of_radii() -> None:
    particles = rasterise(one_particle(2.0, 3.5), (100, 100), 0.1)[2]
    assert particles["shell_thickness_nm"][0] == pytest.approx(2.5)
    assert particles["shell_outer_diameter_nm"][0] == 7.0
    assert particles["core_offset_nm"][0] == 0
    assert particles["cores_in_shell"][0] == 1


def test_the_shell_thickness_of_an_off_centre_core_is_the_mean_over_radii_of_its_labels() -> None:
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


def test_cores_of_two_particles_add_up_and_cores_grown_together_are_a_union() -> None:
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


# Imaging

EVEN = Imaging(
    dose=1e6,
    film_nm=(5, 5),
    grain_nm=(0, 0),
    relief_nm=(0, 0),
    uneven=(0, 0),
    defocus_nm=(0, 0),
    resolution_nm=(0, 0),
    camera_blur_px=(0, 0),
    core_attenuation=(0.15, 0.15),
    shell_attenuation=(0.02, 0.02),
    readout=0,
)


def test_in_focus_bright_field_is_the_law_of_mass_thickness() -> None:
    core_nm, shell_nm = project_thickness(one_particle(2.0, 3.0), (128, 128), 0.1)
    image = form_image(rng(), core_nm, shell_nm, 0.1, EVEN).astype(float) - 100
    expected = np.exp(-0.15 * core_nm - 0.02 * shell_nm)
    expected *= image[:10].mean() / expected[:10].mean()
    assert np.abs(image / expected - 1).max() < 0.02


def test_haadf_follows_atomic_number_and_thickness() -> None:
    flat = np.zeros((64, 64), np.float32)
    imaging = replace(EVEN, mode="haadf", dose=1000)
    film, core, silica = (
        form_image(rng(), flat + metal, flat + glass, 0.1, imaging).astype(float).mean() - 100
        for metal, glass in ((0, 0), (1, 0), (0, 1))
    )
    # 22.0 (14^1.7 + 2·8^1.7) over 66.2·78^1.7
    assert (silica - film) / (core - film) == pytest.approx(0.0317, rel=0.02)


def test_underfocus_gives_a_bright_fringe_outside_an_edge_and_overfocus_a_dark_one() -> None:
    core_nm, shell_nm = project_thickness(one_particle(4.0, 0.0), (256, 256), 0.04)
    y, x = np.indices(core_nm.shape)
    radius_nm = np.hypot(y + 0.5 - 125, x + 0.5 - 125) * 0.04
    outside = (radius_nm > 2.05) & (radius_nm < 2.35)
    far = radius_nm > 4

    def fringe(defocus_nm: float) -> float:
        imaging = replace(EVEN, defocus_nm=(defocus_nm, defocus_nm), resolution_nm=(0.06, 0.06))
        image = form_image(rng(), core_nm, shell_nm, 0.04, imaging).astype(float) - 100
        return float(image[outside].mean() / np.median(image[far]))

    assert fringe(50) > 1.02
    assert fringe(-50) < 0.98


def test_noise_falls_with_the_root_of_the_dose() -> None:
    flat = np.zeros((200, 200), np.float32)

    def noise(dose: float) -> float:
        image = form_image(rng(), flat, flat, 0.1, replace(EVEN, dose=dose)).astype(float) - 100
        return float(image.std() / image.mean())

    assert noise(25) == pytest.approx(1 / math.sqrt(25 * math.exp(-0.012 * 5)), rel=0.05)
    assert noise(25) / noise(400) == pytest.approx(4, rel=0.05)


def test_no_dose_saturates_the_camera() -> None:
    image = simulate_micrograph(rng(), shape=(128, 128), imaging=Imaging(dose=1e6)).image
    assert image.max() < 65535
    assert image.min() > 0


@pytest.mark.parametrize("mode", ["bright_field", "haadf"])
def test_particles_stand_out_on_the_side_that_the_mode_says(mode: str) -> None:
    imaging = Imaging(mode=mode)  # type: ignore[arg-type]
    simulated = simulate_micrograph(rng(3), imaging=imaging)
    assert simulated.image.dtype == np.uint16
    assert detect_mode(simulated.image) == mode
    smooth = gaussian_filter(simulated.image.astype(float), 1.5)
    sign = 1 if mode == "haadf" else -1
    for shell in np.unique(simulated.shells[simulated.cores > 0]):
        core = smooth[(simulated.cores > 0) & (simulated.shells == shell)]
        silica = smooth[(simulated.cores == 0) & (simulated.shells == shell)]
        if min(core.size, silica.size) > 100:
            assert sign * core.mean() > sign * silica.mean()


def test_bright_field_and_haadf_of_one_seed_show_the_same_particles() -> None:
    bright = simulate_micrograph(rng(5), shape=(256, 256))
    dark = simulate_micrograph(rng(5), shape=(256, 256), imaging=Imaging(mode="haadf"))
    assert np.array_equal(bright.cores, dark.cores)
    assert np.array_equal(bright.shells, dark.shells)


def test_by_default_at_most_a_hundredth_of_the_cores_touch_and_labels_are_as_many_as_components() -> None:
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixel_size_nm": 0.0}, "pixel size"),
        ({"pixel_size_nm": math.nan}, "pixel size"),
        ({"pixel_size_nm": 2.0}, "px wide"),
        ({"pixel_size_nm": 0.001}, "px wide"),
        ({"shape": (8, 512)}, "8 × 512 px"),
    ],
)
def test_images_that_make_no_sense_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        simulate_micrograph(rng(), **arguments)


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


# Writing

SMALL: dict[str, Any] = {"images": 2, "size": 96, "seed": 7}


def pixel_size_read_back(path: Path) -> tuple[np.ndarray, list[float]]:
    if path.suffix == ".mrc":
        with mrcfile.open(path) as mrc:
            assert mrc.data is not None
            return np.array(mrc.data), [float(mrc.voxel_size.y) / 10, float(mrc.voxel_size.x) / 10]
    if path.suffix == ".tif":
        from rsciio.tiff import file_reader
    elif path.suffix == ".emd":
        from rsciio.emd import file_reader
    else:
        from rsciio.hspy import file_reader
    (signal,) = file_reader(str(path))
    assert [axis["units"] for axis in signal["axes"]] == ["nm", "nm"]
    return np.asarray(signal["data"]), [axis["scale"] for axis in signal["axes"]]


@pytest.mark.parametrize("file_format", FILE_FORMATS)
def test_every_format_comes_back_with_its_pixels_and_pixel_size(
    tmp_path: Path, file_format: FileFormat
) -> None:
    options = {**SMALL, "pixel_size_nm": 0.137, "mean_nm": 2.2}
    session = simulate_session(tmp_path / "out", file_format=file_format, **options) / "session"
    reference = simulate_annotated_set(tmp_path / "set", **options) / "images"
    files = sorted(session.glob(f"*.{file_format}"))
    assert [file.stem for file in files] == ["image_000", "image_001"]
    for file in files:
        image, pixel_size_nm = pixel_size_read_back(file)
        assert pixel_size_nm == pytest.approx([0.137, 0.137], rel=1e-5)
        assert np.array_equal(image, tifffile.imread(reference / f"{file.stem}.tif"))


@pytest.mark.parametrize("file_format", FILE_FORMATS)
def test_the_platform_reads_every_format_with_its_pixel_size(tmp_path: Path, file_format: FileFormat) -> None:
    from tem_pipeline.micrographs.reading import read_micrographs

    session = simulate_session(tmp_path / "out", file_format=file_format, **SMALL) / "session"
    (micrograph,) = read_micrographs(session / f"image_000.{file_format}")
    assert micrograph.image.shape == (96, 96)
    assert micrograph.pixel_size_nm == pytest.approx((0.1, 0.1), rel=1e-5)
    assert not micrograph.fault


def test_a_session_comes_with_its_truth(tmp_path: Path) -> None:
    out = simulate_session(tmp_path / "out", mode="haadf", sample_id="pt_1", **SMALL)
    particles = pd.read_parquet(out / "truth" / "particles.parquet")
    described = yaml.safe_load((out / "session" / "session.yaml").read_text())
    assert described["mode"] == "haadf"
    assert described["sample_id"] == "pt_1"
    for name, table in particles.groupby("image"):
        cores = tifffile.imread(out / "truth" / "cores" / f"{name}.tif")
        shells = tifffile.imread(out / "truth" / "shells" / f"{name}.tif")
        assert cores.dtype == shells.dtype == np.uint16
        assert cores.max() == len(table)
        assert shells[cores > 0].all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_same_seed_gives_the_same_session_and_a_longer_one_begins_with_it(tmp_path: Path) -> None:
    first = simulate_session(tmp_path / "a", **SMALL)
    longer = simulate_session(tmp_path / "b", **{**SMALL, "images": 3})
    other = simulate_session(tmp_path / "c", **{**SMALL, "seed": 8})
    for file in ("session/image_000.tif", "session/image_001.tif", "truth/cores/image_001.tif"):
        assert (first / file).read_bytes() == (longer / file).read_bytes()
        assert (first / file).read_bytes() != (other / file).read_bytes()
    assert (first / "session/image_000.tif").read_bytes() != (first / "session/image_001.tif").read_bytes()


def test_an_annotated_set_pairs_images_masks_and_shells_and_names_each_source(tmp_path: Path) -> None:
    out = simulate_annotated_set(tmp_path / "set", **SMALL)
    groups = yaml.safe_load((out / "dataset.yaml").read_text())["groups"]
    names = {path.stem for path in (out / "images").iterdir()}
    assert names == {path.stem for path in (out / "masks").iterdir()}
    assert names == {path.stem for path in (out / "shells").iterdir()} == set(groups)
    assert len(set(groups.values())) == len(names)


def test_size_options_reach_the_particles(tmp_path: Path) -> None:
    out = simulate_session(tmp_path / "out", images=3, size=256, mean_nm=3.0, sd_nm=0.1)
    diameters = pd.read_parquet(out / "truth" / "particles.parquet")["diameter_nm"]
    assert diameters.between(2.7, 3.3).all()
    with pytest.raises(UserError, match="standard deviation"):
        simulate_session(tmp_path / "other", sd_nm=-1)


def test_a_folder_in_use_or_inside_the_refused_one_is_left_alone(tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="isn't empty"):
        simulate_session(used, **SMALL)
    assert [path.name for path in used.iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="isn't empty"):
        simulate_annotated_set(tmp_path / "file", **SMALL)
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (tmp_path / "link").symlink_to(incoming)
    for inside in (
        incoming,
        incoming / "session",
        tmp_path / "x" / ".." / "incoming" / "s",
        tmp_path / "link" / "s",
    ):
        with pytest.raises(UserError, match="inside"):
            simulate_session(inside, refuse_inside=incoming, **SMALL)
    assert not any(incoming.iterdir())


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert (simulate_session(tmp_path / "out", **SMALL) / "truth").is_dir()


def test_a_simulation_that_breaks_off_leaves_nothing_behind(tmp_path: Path) -> None:
    crowded = Population(mean_nm=0.21, sd_nm=0, shell_nm=0, shell_sd_nm=0, coverage=(2, 2))
    with pytest.raises(UserError, match="would hold"):
        simulate_session(tmp_path / "out", images=1, size=8192, population=crowded)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images"),
        ({"seed": -1}, "seed"),
        ({"size": 4}, "px"),
        ({"file_format": "dm4"}, "format 'dm4'"),
        ({"mode": "sem"}, "mode 'sem'"),
        ({"dose": -3.0}, "dose"),
        ({"mean_nm": 0.0}, "mean diameter"),
        ({"pixel_size_nm": -0.1}, "pixel size"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        simulate_session(tmp_path / "out", **arguments)
    assert not any(tmp_path.iterdir())
