"""Looks at what a file claims before a library believes it: a library may count or search for hours.

Such files are also stopped by the limits of `reading_process`, but later and with a vaguer reason.
"""

import re
import struct
from pathlib import Path

from tem_pipeline.micrographs.readers.signals import Refused

MAX_DIRECTORIES = 10_000
"""Pages of a TIFF file, and planes of its OME description."""

_MAX_SCANS = 100
"""Real progressive JPEG files have about ten."""


def check_tiff_directories(path: Path) -> None:
    """Refuse a TIFF file with too many directories, or whose directories form a circle.

    Parameters
    ----------
    path : Path
        A file that is no TIFF file passes, and so does one that is cut short.

    Raises
    ------
    Refused
    """
    with path.open("rb") as file:
        start = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        if order is None or len(start) < 16:
            return
        is_big = struct.unpack_from(f"{order}H", start, 2)[0] == 43
        count, following, entry = ("Q", "Q", 20) if is_big else ("H", "I", 12)
        count, following = struct.Struct(order + count), struct.Struct(order + following)
        (place,) = following.unpack_from(start, 8 if is_big else 4)
        seen: set[int] = set()
        while place:
            if place in seen:
                raise Refused("its pages form a circle: it is damaged, copy or export it again")
            if len(seen) == MAX_DIRECTORIES:
                raise Refused(f"it has more than {MAX_DIRECTORIES} pages: export the images by themselves")
            seen.add(place)
            try:
                file.seek(place)
                (entries,) = count.unpack(file.read(count.size))
                file.seek(place + count.size + entries * entry)
                (place,) = following.unpack(file.read(following.size))
            except (struct.error, OSError, OverflowError, ValueError):
                return


def check_ome_planes(description: str) -> None:
    """Refuse an OME description that claims too many planes: a list of all of them would be made.

    Parameters
    ----------
    description : str
        The XML text of a TIFF file's first page.

    Raises
    ------
    Refused
    """
    claim = r"""\b(?:Size[ZCT]|First[ZCT]|IFD|NumPlanes|PlaneCount)\s*=\s*["']\s*(\d+)"""
    most = max((int(number[:20]) for number in re.findall(claim, description)), default=0)
    if most > MAX_DIRECTORIES:
        raise Refused(
            f"its OME description claims {most} planes, more than {MAX_DIRECTORIES}: export it again"
        )


def check_jpeg_scans(path: Path) -> None:
    """Refuse a JPEG file with so many scans that decoding takes minutes.

    Parameters
    ----------
    path : Path
        A file of another kind passes.

    Raises
    ------
    Refused
    """
    with path.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return
        # Within pixels, 0xFF is followed by 0: this mark is always the start of a scan.
        scans = file.read().count(b"\xff\xda")
    if scans > _MAX_SCANS:
        raise Refused(f"it is a JPEG of {scans} scans: export it again, if possible as PNG or TIFF")
