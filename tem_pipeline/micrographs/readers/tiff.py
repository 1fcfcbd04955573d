"""Reads TIFF files of cameras, microscopes and ImageJ.

RosettaSciIO's `file_reader()` opens the file itself, so checking sizes first would parse it twice, and it
fails for the whole file if one page cannot be read. Therefore its private reader of one series is used, on a
file opened here. `tiff_metadata` corrects the pixel size afterwards.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tem_pipeline.micrographs.readers.claims import check_ome_planes, check_tiff_directories
from tem_pipeline.micrographs.readers.signals import Refused, Signal, check_claimed_size, read_parts
from tem_pipeline.micrographs.readers.tiff_metadata import describe_picture


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
    from tifffile import TiffFile

    check_tiff_directories(path)
    # A description or an index must not name other files: of a set of files, each gives its own pages.
    own_pages: dict[str, Any] = {"_multifile": False, "is_ndtiff": False, "is_mmstack": False}
    with _logged_errors("tifffile") as logged, TiffFile(path, **own_pages) as tiff:
        check_ome_planes(tiff.ome_metadata or "")
        check_claimed_size(path, sum(max(0, int(series.nbytes)) for series in tiff.series))
        signals = read_parts(tiff.series, lambda series: [_read_series(tiff, series, path)])
    # tifffile only logs this and goes on with the remaining pages.
    if any("invalid page offset" in line or "corrupted file" in line for line in logged):
        raise Refused("it is cut short, some of its images are missing: copy or export it again")
    return signals


def _read_series(tiff: Any, series: Any, path: Path) -> Signal:
    from rsciio.tiff._api import _read_tiff

    signal = _read_tiff(tiff, series, str(path))
    describe_picture(signal, series.pages[0])
    return signal


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
