"""Reads MRC files with the header definitions of mrcfile.

mrcfile's own reader allocates whatever a header claims, trusts the machine stamp and takes all bytes for
signed; RosettaSciIO's gives a size of 1 nm where the header has none. So the header is judged here.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from tem_pipeline.micrographs.readers.signals import Refused, Signal

_BYTES = 0
"""Mode of pixels of one byte, which may be signed or unsigned."""

# IMOD writes this number at byte 152, and its flags at byte 156.
_IMOD_STAMP = 1146047817
_IMOD_PLACE = slice(152, 160)
_IMOD_SIGNED_BYTES = 1

_LONGEST_CELL_IN_METRES = 1e-3
"""No cell is so short in Å; programs with extended headers of the kind AGAR write it in metres."""


def read_mrc(path: Path) -> list[Signal]:
    """Read the image, or the stack of images, of an MRC file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of Signal
        One; a scale of 0 where the header has no cell.

    Raises
    ------
    Refused
        If the header claims more pixels than the file holds.
    """
    from mrcfile.utils import data_shape_from_header, dtype_from_mode

    header, order = _read_header(path)
    dtype, shape = dtype_from_mode(int(header.mode)).newbyteorder(order), data_shape_from_header(header)
    if int(header.mode) == _BYTES:
        dtype = _byte_type(header, order)
    offset, count = header.nbytes + int(header.nsymbt), math.prod(shape)
    if min(shape) < 1 or header.nsymbt < 0 or offset + count * dtype.itemsize > path.stat().st_size:
        raise Refused(
            f"its header claims {'x'.join(map(str, shape))} pixels, more than the file holds: copy it again"
        )
    data = np.fromfile(path, dtype=dtype, count=count, offset=offset).reshape(shape)
    leading = [{"scale": 1.0, "units": None, "navigate": True} for _ in range(data.ndim - 2)]
    unit = "m" if _is_cell_in_metres(header) else "Å"
    axes = [{"scale": size, "units": unit, "navigate": False} for size in _pixel_size(header)]
    return [{"data": data, "axes": leading + axes, "metadata": {}, "original_metadata": {}}]


def _read_header(path: Path) -> tuple[Any, str]:
    """Return the header and its byte order, "<" or ">"."""
    from mrcfile.dtypes import HEADER_DTYPE

    with path.open("rb") as file:
        start = file.read(HEADER_DTYPE.itemsize)
    if len(start) < HEADER_DTYPE.itemsize:
        raise ValueError("it is shorter than a header")
    # Some programs write a wrong machine stamp. In the wrong byte order small numbers become huge.
    for order in "<>":
        header = np.frombuffer(start, HEADER_DTYPE.newbyteorder(order)).view(np.recarray)[0]
        if 0 <= header.mode < 2**16 and 0 < header.nx < 2**16:
            return header, order
    raise ValueError("it has no MRC header")


def _byte_type(header: Any, order: str) -> np.dtype:
    """Tell signed from unsigned bytes: by IMOD's flag, else by a negative minimum in the header.

    The standard of 2014 says signed, but most programs before and after it wrote unsigned bytes.
    """
    stamp, flags = np.frombuffer(header.tobytes()[_IMOD_PLACE], f"{order}i4")
    if stamp == _IMOD_STAMP:
        is_signed = bool(flags & _IMOD_SIGNED_BYTES)
    else:
        is_signed = bool(-128 <= header.dmin < 0 and header.dmin <= header.dmax <= 127)
    return np.dtype(np.int8 if is_signed else np.uint8)


def _is_cell_in_metres(header: Any) -> bool:
    lengths = [float(header.cella[name]) for name in ("y", "x")]
    return bytes(header.exttyp) == b"AGAR" and min(lengths) > 0 and max(lengths) < _LONGEST_CELL_IN_METRES


def _pixel_size(header: Any) -> list[float]:
    """Return height and width of a pixel in the unit of the cell; 0 where the header was not filled in."""
    # The header says which axis of the cell rows and columns follow: 1 is x, 2 is y.
    across, down = int(header.mapc), int(header.mapr)
    names = ("x", "y") if (across, down) == (2, 1) else ("y", "x")
    lengths = [float(header.cella[name]) for name in names]
    counts = [int(header[f"m{name}"]) for name in names]
    # A cell of zero or negative length, or without samples, was not filled in.
    return [length / n if n > 0 and length > 0 else 0.0 for length, n in zip(lengths, counts, strict=True)]
