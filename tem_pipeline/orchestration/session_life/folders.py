"""Session folders below incoming/: which ones exist, whether they changed, whether they are complete.

Only `resumable_fingerprint` opens files. `observations` remembers what was seen before.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.hashes import file_digest
from tem_pipeline.micrographs.reading import SUPPORTED_SUFFIXES
from tem_pipeline.micrographs.sessions import (
    FOREIGN_IMAGE_SUFFIXES,
    SESSION_YAML,
    is_unfinished,
    session_fingerprint,
    session_key,
)
from tem_pipeline.orchestration.session_life.tick_time import OutOfTimeError
from tem_pipeline.text import printable

COMPLETE_MARKER = ".complete"
_IMAGE_SUFFIXES = SUPPORTED_SUFFIXES | FOREIGN_IMAGE_SUFFIXES
_DESKTOP_FILES = frozenset([".ds_store", ".directory"])
_TIA_SERIES = re.compile(r"(.*)_\d+\.ser", re.DOTALL)


@dataclass(frozen=True)
class SessionFolder:
    """A folder directly below incoming/."""

    name: str
    key: str  # `session_key` of the name
    path: Path
    fault: str | None = None  # why it is never processed, regardless of its content


@dataclass(frozen=True)
class FolderSnapshot:
    """What can be seen of a session folder without opening its files."""

    signature: str  # changes when a file is added, removed, renamed, written or touched
    n_images: int  # files that look like images
    changed_at: float  # latest change of a file, seconds since 1970
    marked: bool  # there is a `.complete` marker, and no file was written after it
    unfinished: str | None  # the sign that a copy is still under way, for a person
    # Modification times in ns of session.yaml and of each folder, by path below the session folder.
    folder_times: dict[str, int] = field(default_factory=dict, compare=False)


def list_session_folders(incoming: str | Path) -> list[SessionFolder]:
    """List the session folders directly below incoming/, by name.

    Returns
    -------
    list of SessionFolder
        Without files, hidden folders, and folders whose name marks an unfinished copy. Two kinds of folders
        have a fault: symbolic links, which may lead outside or show a session twice, and folders whose key
        is the name of another folder.

    Raises
    ------
    UserError
        If incoming/ can't be listed. That never means that there are no sessions.
    """
    root = Path(incoming)
    is_link: dict[str, bool] = {}
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                link = entry.is_symlink()
                # os.path.isdir() is False for a circle of links, where entry.is_dir() raises.
                folder = os.path.isdir(entry.path) if link else entry.is_dir(follow_symlinks=False)
                if folder and not entry.name.startswith(".") and not is_unfinished(entry.name):
                    is_link[entry.name] = link
    except OSError as error:
        raise UserError(f"{printable(root)}: the folder cannot be listed ({error.strerror})") from error
    folders = []
    for name in sorted(is_link):
        key, fault = session_key(name), None
        if is_link[name]:
            fault = "it is a symbolic link: copy the folder, or process it by its own path"
        elif key != name and key in is_link:
            fault = f"the folder {key} has its key: rename one of them"
        folders.append(SessionFolder(name, key, root / name, fault))
    return folders


def take_snapshot(folder: str | Path) -> FolderSnapshot:
    """Look at every file of a session folder without opening it.

    A symbolic link counts as a file and is not followed.

    Raises
    ------
    UserError
        If a folder can't be listed.
    """
    scan = _Scan(os.fspath(folder))
    pending = [scan.root]
    try:
        while pending:
            pending += _scan_folder(scan, pending.pop())
    except OSError as error:
        raise UserError(
            f"{printable(error.filename or scan.root)}: the folder cannot be listed ({error.strerror})"
        ) from error
    if without_series := scan.emi - scan.ser:
        name = printable(os.path.basename(min(without_series)))
        scan.unfinished = scan.unfinished or f"{name}.emi waits for its .ser"
    everything = "".join(sorted(scan.lines)).encode("utf-8", "surrogateescape")
    return FolderSnapshot(
        signature=hashlib.blake2b(everything, digest_size=16).hexdigest(),
        n_images=scan.n_images,
        changed_at=scan.changed_ns / 1e9,
        marked=scan.marker_ns is not None and scan.marker_ns >= scan.changed_ns,
        unfinished=scan.unfinished,
        folder_times=scan.folder_times,
    )


@dataclass
class _Scan:
    """What `take_snapshot` has found so far; `emi` and `ser` hold paths without suffix and series number."""

    root: str
    lines: list[str] = field(default_factory=list)
    folder_times: dict[str, int] = field(default_factory=dict)
    emi: set[str] = field(default_factory=set)
    ser: set[str] = field(default_factory=set)
    n_images: int = 0
    changed_ns: int = 0
    marker_ns: int | None = None
    unfinished: str | None = None


def _scan_folder(scan: _Scan, parent: str) -> list[str]:
    """Add the files of one folder; give the folders in it."""
    folders = []
    # Read before the files are listed: the next look then notices a file that arrives meanwhile.
    scan.folder_times[parent[len(scan.root) + 1 :]] = os.stat(parent).st_mtime_ns
    with os.scandir(parent) as entries:
        for entry in entries:
            name = entry.name
            if name == COMPLETE_MARKER and parent == scan.root:
                scan.marker_ns = entry.stat(follow_symlinks=False).st_ctime_ns
            elif name.startswith("."):
                if not (name.lower() in _DESKTOP_FILES or name.startswith("._")):
                    hidden = printable(name)
                    scan.unfinished = f"the hidden file {hidden} is there: a copy may be under way"
            elif is_unfinished(name):
                scan.unfinished = f"{printable(name)} is being written"
            elif stat.S_ISDIR((status := entry.stat(follow_symlinks=False)).st_mode):
                folders.append(entry.path)
            else:
                _add_file(scan, entry.path[len(scan.root) :], status)
    return folders


def _add_file(scan: _Scan, place: str, status: os.stat_result) -> None:
    scan.changed_ns = max(scan.changed_ns, status.st_ctime_ns)
    scan.lines.append(f"{place}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n")
    if place[1:] == SESSION_YAML:
        scan.folder_times[SESSION_YAML] = status.st_mtime_ns
    suffix = place[place.rfind(".") :].lower()
    if suffix not in _IMAGE_SUFFIXES:
        return
    scan.n_images += 1
    if suffix == ".emi":
        scan.emi.add(place[:-4].lower())
    elif suffix == ".ser":
        match = _TIA_SERIES.fullmatch(place.lower())
        scan.ser.add(match[1] if match else place[:-4].lower())


def folder_times_are(folder: str | Path, folder_times: Mapping[str, int]) -> bool:
    """Tell by a few file times whether a session folder is as it was at an earlier snapshot.

    A folder's time changes when a file in it is added, removed, renamed or replaced. A file written in place
    goes unnoticed, except session.yaml, which people edit.

    Parameters
    ----------
    folder : path
    folder_times : mapping
        `FolderSnapshot.folder_times` of the earlier snapshot.
    """
    root = os.fspath(folder)
    try:
        return all(os.stat(f"{root}/{place}").st_mtime_ns == time for place, time in folder_times.items())
    except OSError:
        return False


def still_arriving(snapshot: FolderSnapshot, unchanged_for_s: float, settling_s: float) -> str | None:
    """Say why a session isn't complete yet, or None if it is.

    Parameters
    ----------
    snapshot : FolderSnapshot
    unchanged_for_s : float
        Seconds since this signature was seen first.
    settling_s : float
        Seconds without a change after which a session without a marker is complete.
    """
    if snapshot.marked:
        return None
    if snapshot.unfinished:
        return snapshot.unfinished
    if unchanged_for_s < settling_s:
        if snapshot.n_images == 0:
            return "it holds no image yet"
        return f"its files changed less than {settling_s:g} s ago"
    return None


def resumable_fingerprint(
    folder: Path, digests: dict[str, tuple[int, str]], out_of_time: Callable[[], bool]
) -> str:
    """Compute `session_fingerprint`, in several calls if it takes long.

    Parameters
    ----------
    folder : Path
    digests : dict
        Size and SHA-256 of the files hashed so far, by path below the folder. New ones are added.
    out_of_time : callable
        Asked before each file except the first, so that every call makes progress.

    Raises
    ------
    OutOfTimeError
        If files remain to be hashed.
    UserError
        If a folder can't be listed or a file can't be read.
    """
    hashed = 0

    def digest(path: Path) -> tuple[int, str]:
        nonlocal hashed
        place = path.relative_to(folder).as_posix()
        if place not in digests:
            if hashed and out_of_time():
                raise OutOfTimeError
            digests[place] = file_digest(path)
            hashed += 1
        return digests[place]

    return session_fingerprint(folder, digest)
