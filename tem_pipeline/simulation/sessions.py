"""Simulates micrographs of core–shell catalysts with exact truth, and writes sessions and annotated sets.

What is on the support is left to `specimens`, how it is imaged to `imaging`, reading such files back to
`reading`, measuring them to `particles`.
"""

import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import mrcfile
import numpy as np
import pandas as pd
import yaml

from tem_pipeline.errors import UserError
from tem_pipeline.simulation.imaging import Imaging, Mode, form_image
from tem_pipeline.simulation.parameters import finite, positive, require
from tem_pipeline.simulation.specimens import Population, place_particles, project_thickness, rasterise
from tem_pipeline.storage import encode_tiff, write_bytes, write_table

FileFormat = Literal["tif", "mrc", "emd", "hspy"]

FILE_FORMATS = ("tif", "mrc", "emd", "hspy")


@dataclass(frozen=True)
class SimulatedMicrograph:
    """An image with its exact truth.

    Attributes
    ----------
    image : ndarray, (height, width), uint16
    cores, shells : ndarray, (height, width), uint16
        Labels, 0 is background. Shells include their cores.
    particles : DataFrame
        One row a core, see `rasterise`.
    pixel_size_nm : float
    mode : str
    """

    image: np.ndarray
    cores: np.ndarray
    shells: np.ndarray
    particles: pd.DataFrame
    pixel_size_nm: float
    mode: str


def simulate_micrograph(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int] = (512, 512),
    pixel_size_nm: float = 0.1,
    population: Population | None = None,
    imaging: Imaging | None = None,
) -> SimulatedMicrograph:
    """Simulate one micrograph with its truth.

    Parameters
    ----------
    rng : Generator
    shape : (int, int)
        Height and width in px, 16 … 8,192.
    pixel_size_nm : float
    population : Population, optional
        What the specimen holds.
    imaging : Imaging, optional
        How the microscope sees it.

    Raises
    ------
    UserError
        When cores would be under 2 px wide on average or wider than the image, or a value makes no sense.
    """
    population, imaging = population or Population(), imaging or Imaging()
    _check_image(shape, pixel_size_nm, population)
    field_nm = (shape[0] * pixel_size_nm, shape[1] * pixel_size_nm)
    placement = place_particles(rng, field_nm, population, minimum_gap_nm=3 * pixel_size_nm)
    cores, shells, particles = rasterise(placement, shape, pixel_size_nm)
    # Fringes and envelopes reach about 1.5 nm; beyond that the periodic surroundings don't matter.
    margin = min(math.ceil(1.5 / pixel_size_nm) + 8, 200)
    core_nm, shell_nm = project_thickness(
        placement, shape, pixel_size_nm, margin_px=margin, orientation=imaging.orientation
    )
    image = form_image(rng, core_nm, shell_nm, pixel_size_nm, imaging, margin_px=margin)
    return SimulatedMicrograph(image, cores, shells, particles, pixel_size_nm, imaging.mode)


def _check_image(shape: tuple[int, int], pixel_size_nm: float, population: Population) -> None:
    require(
        all(isinstance(side, int | np.integer) and 16 <= side <= 8192 for side in shape),
        f"image of {' × '.join(map(str, shape))} px: give sides from 16 to 8192",
    )
    require(
        finite(pixel_size_nm) and 1e-3 <= pixel_size_nm <= 1e6,
        f"pixel size {pixel_size_nm} nm: give a number from 0.001 to 1000000",
    )
    mean_px = population.mean_nm / pixel_size_nm
    require(
        2 <= mean_px <= min(shape),
        f"cores of {population.mean_nm:g} nm are {mean_px:.3g} px wide at {pixel_size_nm:g} nm a pixel: "
        "choose a pixel size and image at which they are at least 2 px wide and fit in",
    )


# Writing ------------------------------------------------------------


def _micrographs(
    images: int,
    size: int,
    pixel_size_nm: float,
    seed: int,
    population: Population,
    imaging: Imaging,
) -> Iterator[tuple[str, SimulatedMicrograph]]:
    digits = max(3, len(str(images - 1)))
    for index, child in enumerate(np.random.SeedSequence(seed).spawn(images)):
        rng = np.random.default_rng(child)
        simulated = simulate_micrograph(
            rng, shape=(size, size), pixel_size_nm=pixel_size_nm, population=population, imaging=imaging
        )
        yield f"image_{index:0{digits}d}", simulated


def _check_series(images: int, size: int, pixel_size_nm: float, seed: int, population: Population) -> None:
    require(isinstance(images, int) and 1 <= images <= 100_000, f"{images} images: give 1 to 100000")
    require(isinstance(seed, int) and seed >= 0, f"seed {seed}: give a whole number from 0 upwards")
    _check_image((size, size), pixel_size_nm, population)


def _chosen(
    population: Population | None,
    imaging: Imaging | None,
    mode: Mode | None,
    dose: float | None,
    mean_nm: float | None,
    sd_nm: float | None,
) -> tuple[Population, Imaging]:
    population, imaging = population or Population(), imaging or Imaging()
    if mean_nm is not None:
        require(positive(mean_nm), f"mean diameter {mean_nm} nm: give a positive number")
        if sd_nm is None:
            sd_nm = population.sd_nm * mean_nm / population.mean_nm
        population = replace(population, mean_nm=mean_nm, sd_nm=sd_nm)
    elif sd_nm is not None:
        population = replace(population, sd_nm=sd_nm)
    if mode is not None:
        imaging = replace(imaging, mode=mode)
    if dose is not None:
        imaging = replace(imaging, dose=dose)
    return population, imaging


@contextmanager
def _complete_folder(out: Path, refuse_inside: Path | None) -> Iterator[Path]:
    """Yield a folder beside `out` that takes its name when the block ends without an error."""
    out = Path(os.path.abspath(out))
    if refuse_inside is not None:
        real, forbidden = Path(os.path.realpath(out)), Path(os.path.realpath(refuse_inside))
        require(
            not real.is_relative_to(forbidden),
            f"{out}: simulated files don't belong inside {forbidden}; name a folder elsewhere",
        )
    part = out.parent / f".{out.name[:80]}.{uuid.uuid4().hex}.part"
    try:
        if out.exists() or out.is_symlink():
            require(
                out.is_dir() and not any(out.iterdir()), f"{out}: exists and isn't empty; name a new folder"
            )
        part.mkdir(parents=True)
        yield part
        part.replace(out)
    except OSError as error:
        raise UserError(
            f"{out}: can't be written ({error.strerror or error}); name another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _as_signal(simulated: SimulatedMicrograph, name: str) -> dict[str, Any]:
    """The dictionary that RosettaSciIO's writers take."""
    axes = [
        {
            "name": axis,
            "size": size,
            "scale": simulated.pixel_size_nm,
            "offset": 0.0,
            "units": "nm",
            "index_in_array": index,
            "navigate": False,
            "is_binned": False,
            "_type": "UniformDataAxis",
        }
        for index, (axis, size) in enumerate(zip("yx", simulated.image.shape, strict=True))
    ]
    return {
        "data": simulated.image,
        "axes": axes,
        "metadata": {"General": {"title": name}, "Signal": {"signal_type": ""}},
        "original_metadata": {},
        "learning_results": {},
        "tmp_parameters": {},
        "models": {},
        "attributes": {"_lazy": False, "ragged": False},
        "package_info": {"package": "", "package_version": ""},
    }


def write_micrograph(target: Path, simulated: SimulatedMicrograph) -> None:
    """Write an image with its pixel size; the suffix gives the format: .tif, .mrc, .emd (Berkeley) or .hspy.

    A .tif carries its scale twice, as ImageJ and as DigitalMicrograph write it: RosettaSciIO takes the unit
    nm only from the second.

    Raises
    ------
    UserError
        For another suffix.
    """
    if target.suffix == ".mrc":
        with mrcfile.new(target) as mrc:
            mrc.set_data(simulated.image)
            mrc.voxel_size = simulated.pixel_size_nm * 10  # MRC counts in ångström
        return
    if target.suffix == ".tif":
        from rsciio.tiff import file_writer
    elif target.suffix == ".emd":
        from rsciio.emd import file_writer
    elif target.suffix == ".hspy":
        from rsciio.hspy import file_writer
    else:
        raise UserError(f"{target.name}: no such format; use one of {', '.join(FILE_FORMATS)}")
    file_writer(str(target), _as_signal(simulated, target.stem))


def simulate_session(
    out: Path,
    *,
    images: int = 6,
    size: int = 512,
    pixel_size_nm: float = 0.1,
    seed: int = 0,
    file_format: FileFormat = "tif",
    mode: Mode | None = None,
    dose: float | None = None,
    mean_nm: float | None = None,
    sd_nm: float | None = None,
    population: Population | None = None,
    imaging: Imaging | None = None,
    sample_id: str | None = None,
    refuse_inside: Path | None = None,
) -> Path:
    """Write a simulated session with its truth: whole, or not at all.

    OUT/session/ holds the calibrated files and session.yaml, OUT/truth/cores/ and OUT/truth/shells/ the label
    images NAME.tif, OUT/truth/particles.parquet the particles of all images (see `rasterise`; `image` holds
    NAME). The same arguments give the same pixels.

    Parameters
    ----------
    out : Path
        A folder that doesn't exist yet, or an empty one.
    images, size : int
        Number of images and their side in px.
    pixel_size_nm : float
    seed : int
        Each image has its own stream, so the first images of a longer session are those of a shorter one.
    file_format : {"tif", "mrc", "emd", "hspy"}
    mode, dose, mean_nm, sd_nm : optional
        Override these fields of `imaging` and `population`; with `mean_nm` alone the relative width stays.
    population : Population, optional
    imaging : Imaging, optional
    sample_id : str, optional
        "simulated" unless given.
    refuse_inside : Path, optional
        A folder that nothing simulated may be written into.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    UserError
        When `out` holds something already, lies inside `refuse_inside` or can't be written, or a value makes
        no sense.
    """
    require(
        file_format in FILE_FORMATS,
        f"format {file_format!r} is unknown: use one of {', '.join(FILE_FORMATS)}",
    )
    population, imaging = _chosen(population, imaging, mode, dose, mean_nm, sd_nm)
    _check_series(images, size, pixel_size_nm, seed, population)
    with _complete_folder(out, refuse_inside) as part:
        for folder in ("session", "truth/cores", "truth/shells"):
            (part / folder).mkdir(parents=True)
        tables = []
        for name, simulated in _micrographs(images, size, pixel_size_nm, seed, population, imaging):
            write_micrograph(part / "session" / f"{name}.{file_format}", simulated)
            write_bytes(part / "truth/cores" / f"{name}.tif", encode_tiff(simulated.cores, pixel_size_nm))
            write_bytes(part / "truth/shells" / f"{name}.tif", encode_tiff(simulated.shells, pixel_size_nm))
            table = simulated.particles
            table.insert(0, "image", name)
            tables.append(table)
        write_table(part / "truth" / "particles.parquet", pd.concat(tables, ignore_index=True))
        session = {
            "sample_id": sample_id or "simulated",
            "microscope": "simulated",
            "voltage_kv": 200,
            "mode": imaging.mode,
            "metal": "Pt",
            "notes": f"simulated, seed {seed}, {imaging.dose:g} electrons a pixel",
        }
        (part / "session" / "session.yaml").write_text(
            yaml.safe_dump(session, sort_keys=False), encoding="utf-8"
        )
    return Path(out)


def simulate_annotated_set(
    out: Path,
    *,
    images: int = 6,
    size: int = 512,
    pixel_size_nm: float = 0.1,
    seed: int = 0,
    mode: Mode | None = None,
    dose: float | None = None,
    mean_nm: float | None = None,
    sd_nm: float | None = None,
    population: Population | None = None,
    imaging: Imaging | None = None,
    refuse_inside: Path | None = None,
) -> Path:
    """Write the images that `simulate_session` would write as an annotated set: whole, or not at all.

    OUT/images/NAME.tif, OUT/masks/NAME.tif (cores, instances), OUT/shells/NAME.tif (whole particles), and
    OUT/dataset.yaml with mode, pixel size and `groups`: each image is a micrograph of its own.

    Parameters and errors are those of `simulate_session`.
    """
    population, imaging = _chosen(population, imaging, mode, dose, mean_nm, sd_nm)
    _check_series(images, size, pixel_size_nm, seed, population)
    with _complete_folder(out, refuse_inside) as part:
        for folder in ("images", "masks", "shells"):
            (part / folder).mkdir()
        names = []
        for name, simulated in _micrographs(images, size, pixel_size_nm, seed, population, imaging):
            write_micrograph(part / "images" / f"{name}.tif", simulated)
            write_bytes(part / "masks" / f"{name}.tif", encode_tiff(simulated.cores, pixel_size_nm))
            write_bytes(part / "shells" / f"{name}.tif", encode_tiff(simulated.shells, pixel_size_nm))
            names.append(name)
        dataset = {
            "mode": imaging.mode,
            "pixel_size_nm": pixel_size_nm,
            "groups": {name: f"seed_{seed}_{name}" for name in names},
        }
        (part / "dataset.yaml").write_text(yaml.safe_dump(dataset, sort_keys=False), encoding="utf-8")
    return Path(out)
