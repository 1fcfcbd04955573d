"""Writes simulated sessions with their truth, and simulated annotated sets.

`micrographs` simulates the images and writes their files.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from tem_pipeline.errors import UserError
from tem_pipeline.simulation.imaging import Imaging, Mode
from tem_pipeline.simulation.micrographs import (
    FILE_FORMATS,
    FileFormat,
    SimulatedMicrograph,
    check_image,
    simulate_micrograph,
    write_micrograph,
)
from tem_pipeline.simulation.parameters import positive, require
from tem_pipeline.simulation.specimens import Population
from tem_pipeline.storage import encode_tiff, write_bytes, write_table


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
    """Write a simulated session with its truth, completely or not at all.

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
        Each image has its own random stream, so a longer session begins with the images of a shorter one.
    file_format : {"tif", "mrc", "emd", "hspy"}
    mode, dose, mean_nm, sd_nm : optional
        Replace these fields of `imaging` and `population`. With `mean_nm` alone the relative width stays.
    population : Population, optional
    imaging : Imaging, optional
    sample_id : str, optional
        "simulated" unless given.
    refuse_inside : Path, optional
        A folder that must hold no simulated files.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    UserError
        If `out` isn't empty, is inside `refuse_inside` or can't be written, or a value makes no sense.
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
            for kind, labels in (("cores", simulated.cores), ("shells", simulated.shells)):
                write_bytes(part / "truth" / kind / f"{name}.tif", encode_tiff(labels, pixel_size_nm))
            table = simulated.particles
            table.insert(0, "image", name)
            tables.append(table)
        write_table(part / "truth" / "particles.parquet", pd.concat(tables, ignore_index=True))
        description = {
            "sample_id": sample_id or "simulated",
            "microscope": "simulated",
            "voltage_kv": 200,
            "mode": imaging.mode,
            "metal": "Pt",
            "notes": f"simulated, seed {seed}, {imaging.dose:g} electrons per pixel",
        }
        _write_yaml(part / "session" / "session.yaml", description)
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
    """Write the images of `simulate_session` as an annotated set, completely or not at all.

    OUT/images/NAME.tif, OUT/masks/NAME.tif (cores, instances), OUT/shells/NAME.tif (whole particles), and
    OUT/dataset.yaml with mode, pixel size and `groups`: each image is its own source micrograph.

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
        description = {
            "mode": imaging.mode,
            "pixel_size_nm": pixel_size_nm,
            "groups": {name: f"seed_{seed}_{name}" for name in names},
        }
        _write_yaml(part / "dataset.yaml", description)
    return Path(out)


def _write_yaml(path: Path, description: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")


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
    check_image((size, size), pixel_size_nm, population)


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
    """Yield a folder next to `out`; it is renamed to `out` when the block ends without an error."""
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
