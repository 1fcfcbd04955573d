"""Reads TIA files: the pixels are in .ser files, their description is in the .emi file beside them.

RosettaSciIO's `file_reader()` takes the unit of every .ser from the first object of the .emi, and does not
find .ser files in folders with brackets in their names. Therefore the files are found and paired with their
objects here, and read with its private reader for one .ser and one object.
"""

import contextlib
import os
import re
from pathlib import Path

import numpy as np

from tem_pipeline.micrographs.calibration import unit_kind
from tem_pipeline.micrographs.readers.signals import Refused, Signal, read_parts

_MAX_OBJECTS = 100
"""Descriptions in an .emi; TIA writes one for each .ser, up to nine."""

_ABSURD_METRES = 1e9
"""If a pixel seems to be this large, its unit is a reciprocal length that was read as metres."""


def series_base(path: Path) -> str | None:
    """Return NAME for NAME_1.ser, and None for any other file name."""
    match = re.fullmatch(r"(.+)_[1-9]\.ser", path.name, re.IGNORECASE | re.DOTALL)
    return match[1] if match else None


def read_tia(path: Path) -> list[Signal]:
    """Read an .emi with all its .ser files, or one .ser.

    Parameters
    ----------
    path : Path
        The unit of NAME_1.ser is taken from NAME.emi beside it, if there is one.

    Returns
    -------
    list of Signal
        With "acquisition". Files that cannot be read are left out.

    Raises
    ------
    Refused
        If a .ser is missing, or the .emi is damaged.
    """
    from rsciio.tia._api import get_xml_info_from_emi

    emi, sers = _files_of_acquisition(path)
    # RosettaSciIO copies the rest of the file for each mark.
    if emi and emi.read_bytes().count(b"<ObjectInfo>") > _MAX_OBJECTS:
        raise Refused(f"{emi.name} has more than {_MAX_OBJECTS} descriptions: it is damaged, copy it again")
    objects = get_xml_info_from_emi(str(emi)) if emi else []
    if emi and not objects:
        raise Refused(
            f"{emi.name} is damaged or cut short, and only it says whether this is a diffraction pattern: "
            "copy it again"
        )
    return read_parts(sers, lambda ser: _read_ser(ser, objects))


def _files_of_acquisition(path: Path) -> tuple[Path | None, list[Path]]:
    """Return the .emi, if there is one, and the .ser files to read."""
    if path.suffix.lower() == ".ser":
        base = series_base(path)
        beside = [path.with_name(f"{base}{suffix}") for suffix in (".emi", ".EMI")] if base else []
        emi = next((emi for emi in beside if os.path.lexists(emi)), None)
        if emi:
            _check_beside(emi, path)
        return emi, [path]
    pattern = re.compile(re.escape(path.stem) + r"_[1-9]\.ser", re.IGNORECASE)
    sers = sorted(file for file in path.parent.iterdir() if pattern.fullmatch(file.name))
    if not sers:
        raise Refused(f"its pixels are in {path.stem}_1.ser, which is not here: copy that beside it")
    for ser in sers:
        _check_beside(ser, path)
    return path, sers


def _check_beside(other: Path, path: Path) -> None:
    """Refuse the other file of an acquisition if it is a pipe, a device or a link to somewhere else."""
    if not other.is_file() or other.resolve().parent != path.parent.resolve():
        raise Refused(f"{other.name}, which belongs to it, is no plain file of this folder: copy it here")


def _read_ser(path: Path, objects: list[str]) -> list[Signal]:
    from rsciio.tia._api import convert_xml_to_dict, ser_reader

    base = series_base(path)
    index = int(path.stem[-1]) - 1 if base else 0
    described = objects[index : index + 1] or objects[:1]
    mode = ""
    if described:
        content = convert_xml_to_dict(described[0])
        with contextlib.suppress(AttributeError):
            mode = str(content.ObjectInfo.ExperimentalDescription.Mode)
    signals = ser_reader(str(path), described or None)
    for signal in signals:
        for axis in signal["axes"][-2:]:
            # Without the .emi, a diffraction pattern's 1/m is read as m.
            is_absurd = unit_kind(axis.get("units")) == "length" and abs(axis["scale"]) >= _ABSURD_METRES
            if is_absurd or ("Diffraction" in mode and "STEM" not in mode):
                axis["units"] = "1 / nm"
        times = np.atleast_1d(signal["original_metadata"]["ser_header_parameters"].get("Time", 0))
        # TIA writes the detectors of one acquisition in the same second.
        signal["acquisition"] = path.name if base is None else base if objects else f"{base} {times[0]}"
    return signals
