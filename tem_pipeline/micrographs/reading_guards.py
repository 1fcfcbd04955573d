"""Keeps the process that reads a file away from all other files, whatever the file names.

An OME-TIFF, an index of Micro-Manager or a TIA file may name files anywhere, and the libraries open them.
"""

import contextlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tem_pipeline.micrographs.readers.signals import Refused

_PAIRED = (".emi", ".ser")


def only_files_of_a_request() -> Callable[[Path], AbstractContextManager[None]]:
    """Install a check of every file that Python code of this process opens; it can't be removed.

    Returns
    -------
    callable
        With a file's path it gives a context, in which only that file, the .emi and .ser files of its folder
        if it is one of these, and the files of the installed programs can be opened. Outside of such a
        context nothing is checked. HDF5 opens files without Python: see `readers.hdf5`.
    """
    # Libraries are loaded when they are needed, and read their settings then.
    places = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, "~/.config"}
    installed = _folders({*places, "/etc", "/usr", "/proc", "/sys", "/System", "/Library"})
    # Modules may also be in a folder that holds data, such as the working directory.
    modules = _folders(sys.path)
    request: list[Path] = []

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not request or isinstance(arguments[0], int):
            return
        name = os.fsdecode(arguments[0])
        place = os.path.realpath(name)
        is_module = place.startswith(modules) and place.endswith((".py", ".pyc", ".so", ".dylib"))
        is_program = is_module or place.startswith(installed) or place == os.devnull
        if not is_program and not _belongs(Path(place), request[0]):
            other = os.path.basename(name)[:80]
            raise Refused(f"it names another file, {other!r}, which is not opened: export it as one file")

    @contextlib.contextmanager
    def allow(path: Path) -> Iterator[None]:
        request.append(path)
        try:
            yield
        finally:
            request.clear()

    sys.addaudithook(check)
    return allow


def _folders(places: Iterable[str]) -> tuple[str, ...]:
    """Give the real paths of folders, so that a path starts with one of them if it is in it."""
    return tuple(os.path.join(os.path.realpath(os.path.expanduser(place)), "") for place in places if place)


def _belongs(place: Path, path: Path) -> bool:
    """Tell whether a place, without symbolic links, is of the file at a path or pairs with it."""
    if place == Path(os.path.realpath(path)):
        return True
    pair = {place.suffix.lower(), path.suffix.lower()} <= set(_PAIRED)
    return pair and place.parent == Path(os.path.realpath(path.parent)) and place.is_file()
