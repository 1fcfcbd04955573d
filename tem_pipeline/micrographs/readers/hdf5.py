"""Reads HyperSpy's .hspy files, and checks any HDF5 file before its data sets are read."""

from pathlib import Path
from typing import Any

from tem_pipeline.micrographs.readers.signals import Refused, Signal, check_claimed_size


def read_hspy(path: Path) -> list[Signal]:
    """Read the signals of an .hspy file."""
    import h5py
    from rsciio.hspy import file_reader

    with h5py.File(path, "r") as file:
        check_hdf5(path, file)
    return file_reader(str(path))


def check_hdf5(path: Path, file: Any) -> None:
    """Refuse links and data sets in other files, and sizes larger than the file can hold.

    Parameters
    ----------
    path : Path
    file : h5py.File

    Raises
    ------
    Refused
    """
    from h5py import h5d, h5l, h5o

    outside: list[bytes] = []
    datasets: list[bytes] = []

    def note_link(name: bytes, info: Any) -> None:
        if info.type not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
            outside.append(name)

    def note_object(name: bytes, info: Any) -> None:
        if info.type == h5o.TYPE_DATASET:
            datasets.append(name)

    # h5py's visititems() opens every object, which takes as long as reading the file.
    file.id.links.visit(note_link, info=True)
    h5o.visit(file.id, note_object, info=True)
    claimed_bytes = 0
    for name in datasets:
        item = h5d.open(file.id, name)
        properties = item.get_create_plist()
        if properties.get_external_count() or properties.get_layout() == h5d.VIRTUAL:
            outside.append(name)
        claimed_bytes += item.get_space().get_simple_extent_npoints() * item.get_type().get_size()
    if outside:
        name = outside[0].decode("utf-8", "replace")[:80]
        raise Refused(f"its part {name!r} is in another file: export it as one file")
    check_claimed_size(path, claimed_bytes)
