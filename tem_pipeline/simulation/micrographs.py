"""Simulates single micrographs with exact truth, and writes them in four file formats.

`specimens` places the particles, `projection` draws them, `imaging` simulates the microscope.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mrcfile
import numpy as np
import pandas as pd

from tem_pipeline.errors import UserError
from tem_pipeline.simulation.imaging import Imaging, form_image
from tem_pipeline.simulation.parameters import finite, require
from tem_pipeline.simulation.projection import project_thickness, rasterise
from tem_pipeline.simulation.specimens import Population, place_particles

FileFormat = Literal["tif", "mrc", "emd", "hspy"]

FILE_FORMATS = ("tif", "mrc", "emd", "hspy")


@dataclass(frozen=True)
class SimulatedMicrograph:
    """An image with the exact truth.

    Attributes
    ----------
    image : ndarray, (height, width), uint16
    cores, shells : ndarray, (height, width), uint16
        Labels, 0 is background. Shells include their cores.
    particles : DataFrame
        One row per core, see `rasterise`.
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
        The particles of the specimen.
    imaging : Imaging, optional
        How the microscope records it.

    Raises
    ------
    UserError
        If cores would be less than 2 px wide on average or wider than the image, or a value makes no sense.
    """
    population, imaging = population or Population(), imaging or Imaging()
    check_image(shape, pixel_size_nm, population)
    field_nm = (shape[0] * pixel_size_nm, shape[1] * pixel_size_nm)
    placement = place_particles(rng, field_nm, population, minimum_gap_nm=3 * pixel_size_nm)
    cores, shells, particles = rasterise(placement, shape, pixel_size_nm)
    # Fringes and envelopes reach about 1.5 nm; farther away the periodic surroundings have no effect.
    margin = min(math.ceil(1.5 / pixel_size_nm) + 8, 200)
    core_nm, shell_nm = project_thickness(
        placement, shape, pixel_size_nm, margin_px=margin, orientation=imaging.orientation
    )
    image = form_image(rng, core_nm, shell_nm, pixel_size_nm, imaging, margin_px=margin)
    return SimulatedMicrograph(image, cores, shells, particles, pixel_size_nm, imaging.mode)


def check_image(shape: tuple[int, int], pixel_size_nm: float, population: Population) -> None:
    """Refuse image sizes and pixel sizes that can't show the cores; see `simulate_micrograph`."""
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
        f"cores of {population.mean_nm:g} nm are {mean_px:.3g} px wide at {pixel_size_nm:g} nm per pixel: "
        "choose a pixel size and image at which they are at least 2 px wide and fit in",
    )


def _as_signal(simulated: SimulatedMicrograph, name: str) -> dict[str, Any]:
    """Give the dictionary that RosettaSciIO's writers take."""
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
    """Write an image with its pixel size. The suffix sets the format: .tif, .mrc, .emd (Berkeley) or .hspy.

    A .tif has its scale twice, in the forms of ImageJ and of DigitalMicrograph: RosettaSciIO reads the unit
    nm only from the second.

    Raises
    ------
    UserError
        For another suffix.
    """
    if target.suffix == ".mrc":
        with mrcfile.new(target) as mrc:
            mrc.set_data(simulated.image)
            mrc.voxel_size = simulated.pixel_size_nm * 10  # MRC files are in ångström
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
