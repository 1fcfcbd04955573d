"""Whole simulated micrographs, and their files."""

import math
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.intensity import detect_mode
from tem_pipeline.simulation.imaging import Imaging
from tem_pipeline.simulation.micrographs import FILE_FORMATS, FileFormat, simulate_micrograph
from tem_pipeline.simulation.sessions import simulate_annotated_set, simulate_session
from tem_pipeline_tests.simulation.placements import rng

SMALL: dict[str, Any] = {"images": 2, "size": 96, "seed": 7}


def test_no_dose_saturates_the_camera() -> None:
    image = simulate_micrograph(rng(), shape=(128, 128), imaging=Imaging(dose=1e6)).image
    assert image.max() < 65535
    assert image.min() > 0


@pytest.mark.parametrize("mode", ["bright_field", "haadf"])
def test_particles_stand_out_on_the_side_that_the_mode_says(mode: str) -> None:
    imaging = Imaging(mode=mode)  # type: ignore[arg-type]
    simulated = simulate_micrograph(rng(3), imaging=imaging)
    assert simulated.image.dtype == np.uint16
    assert detect_mode(simulated.image) == (mode, True)
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
def test_every_file_format_keeps_pixels_and_pixel_size(tmp_path: Path, file_format: FileFormat) -> None:
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
