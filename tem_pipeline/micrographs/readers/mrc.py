"""Reads MRC files with the header definitions of mrcfile.

The header is checked here, because mrcfile's own reader allocates any size that it claims and trusts the
machine stamp, and RosettaSciIO's reader gives 1 nm per pixel if it has no pixel size.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from tem_pipeline.micrographs.readers.signals import Refused, Signal


def read_mrc(path: Path) -> list[Signal]:
    """Read the image, or the stack of images, of an MRC file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of Signal
        One. Its scale is 0 if the header has no cell.

    Raises
    ------
    Refused
        If the header claims more pixels than the file holds.
    """
    from mrcfile.utils import data_shape_from_header, dtype_from_mode

    header, order = _read_header(path)
    dtype, shape = dtype_from_mode(int(header.mode)).newbyteorder(order), data_shape_from_header(header)
    offset, count = header.nbytes + int(header.nsymbt), math.prod(shape)
    if min(shape) < 1 or header.nsymbt < 0 or offset + count * dtype.itemsize > path.stat().st_size:
        raise Refused(
            f"its header claims {'x'.join(map(str, shape))} pixels, more than the file holds: copy it again"
        )
    data = np.fromfile(path, dtype=dtype, count=count, offset=offset).reshape(shape)
    leading = [{"scale": 1.0, "units": None, "navigate": True} for _ in range(data.ndim - 2)]
    axes = [{"scale": size, "units": "Å", "navigate": False} for size in _pixel_size(header)]
    return [{"data": data, "axes": leading + axes, "metadata": {}, "original_metadata": {}}]


def _read_header(path: Path) -> tuple[Any, str]:
    """Return the header and its byte order, "<" or ">"."""
    from mrcfile.dtypes import HEADER_DTYPE

    with path.open("rb") as file:
        start = file.read(HEADER_DTYPE.itemsize)
    if len(start) < HEADER_DTYPE.itemsize:
        raise ValueError("it is shorter than a header")
    # The machine stamp is not used, since some programs write a wrong one. In the wrong byte order small
    # numbers become huge.
    for order in "<>":
        header = np.frombuffer(start, HEADER_DTYPE.newbyteorder(order)).view(np.recarray)[0]
        if 0 <= header.mode < 2**16 and 0 < header.nx < 2**16:
            return header, order
    raise ValueError("it has no MRC header")


def _pixel_size(header: Any) -> list[float]:
    """Return height and width of a pixel in Å, or 0 if the header was not filled in."""
    lengths = [float(header.cella[name]) for name in ("y", "x")]
    counts = [int(header[name]) for name in ("my", "mx")]
    # A cell of zero or negative length, or without samples, was not filled in.
    return [length / n if n > 0 and length > 0 else 0.0 for length, n in zip(lengths, counts, strict=True)]
