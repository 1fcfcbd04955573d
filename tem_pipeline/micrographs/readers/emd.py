"""Reads both kinds of .emd file: Velox (Thermo Fisher) and Berkeley (NCEM).

Velox: RosettaSciIO's `file_reader()` requires a library for spectrum images even if only images are wanted,
so its private reader is used. Berkeley: `file_reader()` is told not to stack data sets.
"""

from pathlib import Path
from typing import Any

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
        if "Version" in file:
            return _read_velox(file)
    return _read_berkeley(path)


def _read_velox(file: Any) -> list[Signal]:
    from rsciio.emd._emd_velox import FeiEMDReader

    reader = FeiEMDReader(select_type="images")
    try:
        reader.read_file(file)
    except Exception:
        # The reader fails at the first image or spectrum that it cannot read, but keeps the ones before it.
        if not reader.dictionaries:
            raise
    return reader.dictionaries


def _read_berkeley(path: Path) -> list[Signal]:
    from rsciio.emd import file_reader

    # If told to stack groups, the reader puts "image_1" and "image_10" into one series.
    return file_reader(str(path), stack_group=False)
