"""Reads micrographs from the files of microscopes, cameras and their programs.

Each format has its reader in `readers`, `judging` decides which data sets are micrographs, and `ingestion`
which images are measured. Files are not trusted: every error of a library becomes a one-line message.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.hashes import is_mostly_holes
from tem_pipeline.micrographs.judging import Micrograph, judge_signals
from tem_pipeline.micrographs.readers.digital_micrograph import read_digital_micrograph
from tem_pipeline.micrographs.readers.emd import read_emd
from tem_pipeline.micrographs.readers.hdf5 import read_hspy
from tem_pipeline.micrographs.readers.mrc import read_mrc
from tem_pipeline.micrographs.readers.pictures import read_picture
from tem_pipeline.micrographs.readers.signals import Refused, Signal, reason_of
from tem_pipeline.micrographs.readers.tia import read_tia, series_base
from tem_pipeline.micrographs.readers.tiff import read_tiff
from tem_pipeline.text import printable

__all__ = [
    "ONLY_MAPS",
    "SUPPORTED_SUFFIXES",
    "Micrograph",
    "MicrographError",
    "group_acquisitions",
    "read_micrographs",
]

# Readers import their libraries when called, because together these take over a second to load.
_READERS: dict[str, Callable[[Path], list[Signal]]] = {
    ".dm3": read_digital_micrograph,
    ".dm4": read_digital_micrograph,
    ".emd": read_emd,
    ".ser": read_tia,
    ".emi": read_tia,
    ".mrc": read_mrc,
    ".hspy": read_hspy,
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".png": read_picture,
    ".jpg": read_picture,
    ".jpeg": read_picture,
}

SUPPORTED_SUFFIXES = frozenset(_READERS)

ONLY_MAPS = "it holds elemental maps only: export the micrograph itself"


class MicrographError(UserError):
    """A file has no usable micrograph. The message names the file, the reason and what to do.

    Attributes
    ----------
    reason : str
        The message without the file's name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(printable(f"{path.name}: {reason}"))
        self.reason = printable(reason)


def read_micrographs(
    path: str | Path, *, measurable_only: bool = True, as_stored: bool = False
) -> list[Micrograph]:
    """Read every image in real space that a file holds.

    Parameters
    ----------
    path : path
        With one of `SUPPORTED_SUFFIXES`. Reading an `.emi` gives the images of its `NAME_1.ser …`. The unit
        of a `.ser` is taken from the `.emi` beside it, if there is one.
    measurable_only : bool
        Leave out images with a `Micrograph.fault`.
    as_stored : bool
        Give the values of masks as they are stored, even if the file says that 0 shows as white.

    Returns
    -------
    list of Micrograph
        At least one. A 3-D data set gives one per index of its first axis.

    Raises
    ------
    MicrographError
        One line: the file, what is wrong, what to do.
    """
    path = Path(path)
    try:
        with _silenced_libraries():
            micrographs, refusals = judge_signals(path, _read_signals(path), as_stored=as_stored)
    except Exception as error:
        raise MicrographError(path, reason_of(error, path)) from error
    if measurable_only:
        faults = [m.fault for m in micrographs if m.fault]
        micrographs = [m for m in micrographs if not m.fault]
        refusals = faults + refusals
    if not micrographs:
        raise MicrographError(path, "; ".join(dict.fromkeys(refusals)) or "it holds no image")
    return micrographs


def group_acquisitions(files: Iterable[Path]) -> list[list[Path]]:
    """Group files that may belong to one acquisition, and leave out files that are read through another.

    Parameters
    ----------
    files : iterable of Path

    Returns
    -------
    list of list of Path
        In the order of `files`. A `NAME_1.ser` whose `NAME.emi` is among them is left out, because reading
        the `.emi` reads it. Without an `.emi`, `NAME_1.ser` and `NAME_2.ser` form one group. Every other file
        is its own group.
    """
    files = list(files)
    present = {(f.parent, f.name.casefold()) for f in files}
    groups: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        base = series_base(file)
        if base and (file.parent, f"{base}.emi".casefold()) in present:
            continue
        groups.setdefault((file.parent, f"{base}_*.ser" if base else file.name), []).append(file)
    return list(groups.values())


def _read_signals(path: Path) -> list[Signal]:
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        known = " ".join(sorted(SUPPORTED_SUFFIXES))
        raise Refused(f"format {suffix or 'without a suffix'} is not read: use one of {known}")
    if not path.is_file():
        raise Refused("there is no such file" if not path.exists() else "it is not a file")
    if path.stat().st_size == 0:
        raise Refused("the file is empty (0 bytes): copy it again")
    if is_mostly_holes(path):
        size_gb = path.stat().st_size / 1e9
        raise Refused(f"it is {size_gb:.3g} GB long, but hardly any of that is on the disk: copy it again")
    return _READERS[suffix](path)


@contextlib.contextmanager
def _silenced_libraries() -> Iterator[None]:
    """Keep libraries from printing: the result or the error says everything that matters."""
    import rsciio  # noqa: F401 - sets its own level when first imported

    loggers = [logging.getLogger(name) for name in ("rsciio", "tifffile", "PIL", "h5py")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
