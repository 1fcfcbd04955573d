"""Reads HyperSpy's .hspy files, and checks any HDF5 file before its data sets are read."""

import contextlib
import itertools
import math
from pathlib import Path
from typing import Any

from tem_pipeline.micrographs.readers.signals import Refused, Signal, check_claimed_size

_LINKED_TWICE = "a group of it is linked more than once: it is damaged, export it again"
_MAX_LINKS = 50_000
_MAX_LEVELS = 50
_MAX_ROWS = 1000
"""Rows of variable length: each is a piece of memory of its own, and many may refer to the same."""


def read_hspy(path: Path) -> list[Signal]:
    """Read the signals of an .hspy file."""
    import h5py
    from rsciio.hspy import file_reader

    with h5py.File(path, "r") as file:
        check_hdf5(path, file)
    return file_reader(str(path))


def check_hdf5(path: Path, file: Any) -> None:
    """Refuse links and data sets in other files, sizes larger than the file can hold, and groups without end.

    RosettaSciIO follows every link to a group, so groups that are linked twice may take it for ever.

    Parameters
    ----------
    path : Path
    file : h5py.File

    Raises
    ------
    Refused
    """
    from h5py import h5d, h5l, h5o, h5t

    outside: list[bytes] = []
    soft: list[bytes] = []
    datasets: list[bytes] = []
    links = itertools.count(1)

    # What these give ends the visit; what they raise would be lost in HDF5.
    def note_link(name: bytes, info: Any) -> str | None:
        if next(links) > _MAX_LINKS or name.count(b"/") > _MAX_LEVELS:
            return "it has too many groups, or groups in groups: it is damaged, export it again"
        if info.type == h5l.TYPE_SOFT:
            soft.append(name)
        elif info.type != h5l.TYPE_HARD:
            outside.append(name)
        return None

    def note_object(name: bytes, info: Any) -> str | None:
        if info.type == h5o.TYPE_DATASET:
            datasets.append(name)
        elif info.type == h5o.TYPE_GROUP and info.rc > 1:
            return _LINKED_TWICE
        return None

    # h5py's visititems() opens every object, which takes as long as reading the file.
    fault = file.id.links.visit(note_link, info=True) or h5o.visit(file.id, note_object, info=True)
    if fault:
        raise Refused(fault)
    for name in soft:
        with contextlib.suppress(KeyError):  # It points to nothing.
            if h5o.get_info(file.id, name).type == h5o.TYPE_GROUP:
                raise Refused(_LINKED_TWICE)
    claimed_bytes = 0
    for name in datasets:
        item = h5d.open(file.id, name)
        properties = item.get_create_plist()
        if properties.get_external_count() or properties.get_layout() == h5d.VIRTUAL:
            outside.append(name)
        kind, count = item.get_type(), item.get_space().get_simple_extent_npoints()
        is_variable = kind.detect_class(h5t.VLEN) or (
            kind.get_class() == h5t.STRING and kind.is_variable_str()
        )
        if is_variable and count > _MAX_ROWS:
            raise Refused(f"it has {count} rows of variable length: export the images by themselves")
        claimed_bytes += count * kind.get_size()
        if properties.get_layout() == h5d.CHUNKED:
            # A whole chunk is read, however little of it is used.
            check_claimed_size(path, math.prod(properties.get_chunk()) * kind.get_size())
    if outside:
        name = outside[0].decode("utf-8", "replace")[:80]
        raise Refused(f"its part {name!r} is in another file: export it as one file")
    check_claimed_size(path, claimed_bytes)
