"""Reads TIFF files of cameras, microscopes and ImageJ.

RosettaSciIO's `file_reader()` opens the file itself, so checking sizes first would parse it twice, and it
fails for the whole file if one page cannot be read. Therefore its private reader of one series is used, on a
file opened here. Two things are corrected afterwards: ImageJ units that it does not know, and TVIPS
diffraction patterns.
"""

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from tem_pipeline.micrographs.readers.signals import Refused, Signal, check_claimed_size, read_parts

_TVIPS_DIFFRACTION = 3
"""TVIPS' number for diffraction mode."""


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
    # tifffile only logs this and goes on with the remaining pages.
    if any("invalid page offset" in line or "corrupted file" in line for line in logged):
        raise Refused("it is cut short, some of its images are missing: copy or export it again")
    for signal in signals:
        _correct_imagej_unit(signal)
        _correct_tvips_diffraction(signal)
    return signals


def _correct_imagej_unit(signal: Signal) -> None:
    """Take the unit from ImageJ's description, because RosettaSciIO drops all units except "micron"."""
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
    """Give the axes of a diffraction pattern a reciprocal unit; RosettaSciIO gives them lengths."""
    tvips = signal["original_metadata"].get("TVIPS")
    if isinstance(tvips, dict) and tvips.get("TemMode") == _TVIPS_DIFFRACTION:
        for axis in signal["axes"][-2:]:
            axis["units"] = "1 / nm"


@contextlib.contextmanager
def _logged_errors(name: str) -> Iterator[list[str]]:
    """Collect the errors that a library logs in this thread without raising them."""
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
