"""Times reading of 4k files in three formats, compared with the libraries that it uses."""

import tempfile
from pathlib import Path

import mrcfile
import numpy as np
import tifffile
from rsciio import emd, tiff

from benchmarks.measurements import Measurement, compared
from tem_pipeline.micrographs.calibration import calibrate, resample_to_square
from tem_pipeline.micrographs.reading import read_micrographs

SIDE_PX, PIXEL_SIZE_NM = 4096, 0.1


def reading_4k_files() -> list[Measurement]:
    """Reading 4096 × 4096 px and calibrating, files in the system's cache."""
    image = np.random.default_rng(0).normal(1000, 100, (SIDE_PX, SIDE_PX)).astype(np.float32)
    measured = []
    with tempfile.TemporaryDirectory() as name:
        for pixels in (image.astype(np.uint16), image):
            for path in _write(Path(name), pixels):
                library = "mrcfile" if path.suffix == ".mrc" else "RosettaSciIO"
                measured.append(
                    compared(
                        path.stem,
                        lambda path=path: _read_calibrated(path),
                        library,
                        lambda path=path: _read_alone(path),
                        15,
                        at_most=None if path.stem.startswith("tif") and pixels is image else 1.2,
                    )
                )
    return measured


def _write(folder: Path, pixels: np.ndarray) -> list[Path]:
    kind = pixels.dtype.name
    paths = [
        folder / f"{name} {kind}{suffix}"
        for name, suffix in (("emd", ".emd"), ("tif", ".tif"), ("tif big-endian", ".tif"), ("mrc", ".mrc"))
    ]
    axes = [
        {
            "name": axis,
            "size": SIDE_PX,
            "scale": PIXEL_SIZE_NM,
            "offset": 0.0,
            "units": "nm",
            "navigate": False,
            "index_in_array": i,
        }
        for i, axis in enumerate("yx")
    ]
    metadata = {"General": {"title": "image"}, "Signal": {"signal_type": ""}}
    emd.file_writer(
        str(paths[0]), {"data": pixels, "axes": axes, "metadata": metadata, "original_metadata": {}}
    )
    # Little-endian as tifffile writes, big-endian as ImageJ does.
    per_nm = (1 / PIXEL_SIZE_NM, 1 / PIXEL_SIZE_NM)
    unit = {"unit": "nm"}
    tifffile.imwrite(paths[1], pixels, imagej=True, byteorder="<", resolution=per_nm, metadata=unit)
    tifffile.imwrite(paths[2], pixels, imagej=True, byteorder=">", resolution=per_nm, metadata=unit)
    with mrcfile.new(paths[3]) as file:
        file.set_data(pixels)
        file.voxel_size = 10 * PIXEL_SIZE_NM
    return paths


def _read_calibrated(path: Path) -> None:
    (micrograph,) = read_micrographs(path)
    calibration = calibrate(micrograph.pixel_size_nm)
    assert calibration.state == "metadata"
    assert calibration.pixel_size_nm is not None
    resample_to_square(micrograph.image, calibration.pixel_size_nm)


def _read_alone(path: Path) -> object:
    if path.suffix == ".mrc":
        with mrcfile.open(path) as file:
            return file.data, file.voxel_size
    return (emd if path.suffix == ".emd" else tiff).file_reader(str(path))
