"""Reads both kinds of .emd file: Velox (Thermo Fisher) here, Berkeley (NCEM) in `berkeley`.

RosettaSciIO's `file_reader()` requires a library for spectrum images even if only images are wanted, so its
private reader is used. Corrected afterwards: it gives the pixel's height the unit of the width.
"""

import contextlib
from pathlib import Path
from typing import Any

from tem_pipeline.micrographs.readers.berkeley import read_berkeley
from tem_pipeline.micrographs.readers.hdf5 import check_hdf5
from tem_pipeline.micrographs.readers.signals import Signal


def read_emd(path: Path) -> list[Signal]:
    """Read the images of an .emd file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of Signal
        From a Velox file images and elemental maps, but no spectra.
    """
    import h5py

    with h5py.File(path, "r") as file:
        check_hdf5(path, file)
        return _read_velox(file) if "Version" in file else read_berkeley(file)


def _read_velox(file: Any) -> list[Signal]:
    from rsciio.emd._emd_velox import FeiEMDReader

    reader = FeiEMDReader(select_type="images")
    try:
        reader.read_file(file)
    except Exception:
        # The reader fails at the first image or spectrum that it cannot read, but keeps the ones before it.
        if not reader.dictionaries:
            raise
    for signal in reader.dictionaries:
        _correct_pixel_size(signal)
    return reader.dictionaries


def _correct_pixel_size(signal: Signal) -> None:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        result = signal["original_metadata"]["BinaryResult"]
        size, (y_axis, x_axis) = result["PixelSize"], signal["axes"][-2:]
        scales = float(size["height"]), float(size["width"])
        units = result["PixelUnitY"], result["PixelUnitX"]
        for axis, scale, unit in zip((y_axis, x_axis), scales, units, strict=True):
            axis["scale"], axis["units"] = scale, unit
