"""Reads TIFF files of cameras, microscopes and ImageJ.

RosettaSciIO's `file_reader()` opens the file itself: its sizes could only be checked by parsing it twice, and
one page that cannot be read fails the whole file. So its private reader of one series is used, on a file
opened here. Corrected afterwards: units of ImageJ that it does not know, and diffraction patterns of TVIPS.
"""

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from tem_pipeline.micrographs.readers.signals import Refused, Signal, check_claimed_size, read_parts

_TVIPS_DIFFRACTION = 3
"""TVIPS' number for an illumination mode in diffraction."""


def read_tiff(path: Path) -> list[Signal]:
    """Read every image series of a TIFF file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of Signal
        Series that cannot be read are left out.

    Raises
    ------
    Refused
        If the file is cut short, or claims far more pixels than it holds.
    """
    from rsciio.tiff._api import _read_tiff as read_series
    from tifffile import TiffFile

    with _logged_errors("tifffile") as logged, TiffFile(path) as tiff:
        check_claimed_size(path, sum(max(0, int(series.nbytes)) for series in tiff.series))
        signals = read_parts(tiff.series, lambda series: [read_series(tiff, series, str(path))])
    # tifffile goes on with the pages that are left.
    if any("invalid page offset" in line or "corrupted file" in line for line in logged):
        raise Refused("it is cut short, some of its images are missing: copy or export it again")
    for signal in signals:
        _correct_imagej_unit(signal)
        _correct_tvips_diffraction(signal)
    return signals


def _correct_imagej_unit(signal: Signal) -> None:
    """Take the unit from ImageJ's description; RosettaSciIO knows "micron" only and drops every other."""
    tags, axes = signal["original_metadata"], signal["axes"][-2:]
    description = tags.get("ImageDescription")
    if not isinstance(description, str) or not description.startswith("ImageJ="):
        return
    unit = re.search(r"^unit=(.*)$", description, re.MULTILINE)
    if not unit or any(axis.get("units") for axis in axes):
        return
    for axis, tag in zip(axes, ("YResolution", "XResolution"), strict=True):
        pixels, units = tags.get(tag, (0, 0))
        axis["scale"], axis["units"] = (units / pixels if pixels else 0.0), unit[1]


def _correct_tvips_diffraction(signal: Signal) -> None:
    """Mark the axes of a diffraction pattern, which RosettaSciIO gives as lengths."""
    tvips = signal["original_metadata"].get("TVIPS")
    if isinstance(tvips, dict) and tvips.get("TemMode") == _TVIPS_DIFFRACTION:
        for axis in signal["axes"][-2:]:
            axis["units"] = "1 / nm"


@contextlib.contextmanager
def _logged_errors(name: str) -> Iterator[list[str]]:
    """Collect the errors that a library only logs, in this thread."""
    lines: list[str] = []
    logger, thread = logging.getLogger(name), threading.get_ident()

    def collect(record: logging.LogRecord) -> bool:
        if record.thread == thread:
            lines.append(record.getMessage())
        return False

    level = logger.level
    logger.setLevel(logging.ERROR)
    logger.addFilter(collect)
    try:
        yield lines
    finally:
        logger.removeFilter(collect)
        logger.setLevel(level)
