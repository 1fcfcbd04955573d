"""Session folders as they arrive below incoming/: which there are, what changed, what is complete.

Nothing but `resumable_fingerprint` opens a file. Remembering what was seen before is left to
`orchestration.arrivals`.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.reading import SUPPORTED_SUFFIXES, shown
from tem_pipeline.micrographs.sessions import (
    FOREIGN_IMAGE_SUFFIXES,
    SESSION_YAML,
    file_digest,
    is_unfinished,
    session_fingerprint,
    session_key,
)

COMPLETE_MARKER = ".complete"
_IMAGE_SUFFIXES = SUPPORTED_SUFFIXES | FOREIGN_IMAGE_SUFFIXES
_DESKTOP_FILES = frozenset([".ds_store", ".directory"])
_TIA_SERIES = re.compile(r"(.*)_\d+\.ser", re.DOTALL)


@dataclass(frozen=True)
class SessionFolder:
    """A folder directly below incoming/.

    Attributes
    ----------
    name, key : str
        The folder's name as it is, and its `session_key`.
    path : Path
    fault : str or None
        Why it can't be taken, whatever it holds.
    """

    name: str
    key: str
    path: Path
    fault: str | None = None


@dataclass(frozen=True)
class Listing:
    """What a look at a session folder shows, without opening a file.

    Attributes
    ----------
    signature : str
        Changes when a file is added, removed, renamed, written or touched.
    n_images : int
        Files that look like images.
    changed_at : float
        Latest change of a file, seconds since 1970.
    marked : bool
        A `.complete` marker stands there, and no file was written after it.
    unfinished : str or None
        What shows that the copy goes on, for a person.
    folders : dict
        When each folder changed, ns since 1970, by its place below the session's, and
        the same of session.yaml.
    """

    signature: str
    n_images: int
    changed_at: float
    marked: bool
    unfinished: str | None
    folders: dict[str, int] = field(default_factory=dict, compare=False)


def list_session_folders(incoming: str | Path) -> list[SessionFolder]:
    """List the session folders directly below incoming/, by name.

    Parameters
    ----------
    incoming : path

    Returns
    -------
    list of SessionFolder
        Folders in a session's folder belong to that session. Files beside sessions, hidden folders and
        folders under the name of an unfinished copy are none. A symbolic link to a folder is one with a
        fault: what it shows may lie outside, or be a session twice. So is a folder whose key another folder
        has for a name.

    Raises
    ------
    UserError
        If incoming/ can't be listed: that never means that there are no sessions.
    """
    root = Path(incoming)
    links: dict[str, bool] = {}
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith(".") or is_unfinished(entry.name):
                    continue
                if entry.is_symlink():
                    if os.path.isdir(entry.path):
                        links[entry.name] = True
                elif entry.is_dir(follow_symlinks=False):
                    links[entry.name] = False
    except OSError as error:
        raise UserError(f"{shown(root)}: the folder cannot be listed ({error.strerror})") from error
    folders = []
    for name in sorted(links):
        key, fault = session_key(name), None
        if links[name]:
            fault = "it is a symbolic link: copy the folder, or process it by its own path"
        elif key != name and key in links:
            fault = f"the folder {key} has its key: rename one of them"
        folders.append(SessionFolder(name, key, root / name, fault))
    return folders


def look_at(folder: str | Path) -> Listing:
    """Look at every file of a session folder, without opening one.

    Symbolic links are looked at, not followed.

    Raises
    ------
    UserError
        If a folder cannot be listed.
    """
    root = os.fspath(folder)
    seen: list[str] = []
    emi: set[str] = set()
    ser: set[str] = set()
    unfinished: str | None = None
    n_images, changed_ns, marker_ns = 0, 0, None
    folders: dict[str, int] = {}
    pending = [root]
    try:
        while pending:
            parent = pending.pop()
            # Before its files are listed: what comes meanwhile is noticed by the next look.
            folders[parent[len(root) + 1 :]] = os.stat(parent).st_mtime_ns
            with os.scandir(parent) as entries:
                for entry in entries:
                    name = entry.name
                    if name == COMPLETE_MARKER and parent == root:
                        marker_ns = entry.stat(follow_symlinks=False).st_ctime_ns
                        continue
                    if name.startswith("."):
                        if not (name.lower() in _DESKTOP_FILES or name.startswith("._")):
                            unfinished = f"the hidden file {shown(name)} is there: a copy may be under way"
                        continue
                    if is_unfinished(name):
                        unfinished = f"{shown(name)} is being written"
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                        continue
                    if status.st_ctime_ns > changed_ns:
                        changed_ns = status.st_ctime_ns
                    path = entry.path
                    if name == SESSION_YAML and parent == root:
                        folders[name] = status.st_mtime_ns
                    seen.append(f"{path}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n")
                    suffix = name[name.rfind(".") :].lower()
                    if suffix in _IMAGE_SUFFIXES:
                        n_images += 1
                        if suffix == ".emi":
                            emi.add(path[:-4].lower())
                        elif suffix == ".ser":
                            match = _TIA_SERIES.fullmatch(path.lower())
                            ser.add(match[1] if match else path[:-4].lower())
    except OSError as error:
        raise UserError(
            f"{shown(error.filename or root)}: the folder cannot be listed ({error.strerror})"
        ) from error
    if alone := emi - ser:
        unfinished = unfinished or f"{shown(os.path.basename(min(alone)))}.emi waits for its .ser"
    seen.sort()
    everything = "".join(line[len(root) :] for line in seen).encode("utf-8", "surrogateescape")
    return Listing(
        hashlib.blake2b(everything, digest_size=16).hexdigest(),
        n_images,
        changed_ns / 1e9,
        marker_ns is not None and marker_ns >= changed_ns,
        unfinished,
        folders,
    )


def same_names(folder: str | Path, folders: Mapping[str, int]) -> bool:
    """Tell at the cost of a few looks whether a session folder still holds the files of an earlier listing.

    Folders change when a file is added, removed, renamed or replaced in them. A file that is written in place
    is not noticed, but for session.yaml, which people edit.

    Parameters
    ----------
    folder : path
    folders : mapping
        `Listing.folders` of the earlier listing.
    """
    root = os.fspath(folder)
    try:
        return all(os.stat(f"{root}/{place}").st_mtime_ns == then for place, then in folders.items())
    except OSError:
        return False


def still_arriving(listing: Listing, unchanged_for_s: float, settling_s: float) -> str | None:
    """Say why a session isn't complete yet, or None when it is.

    Parameters
    ----------
    listing : Listing
    unchanged_for_s : float
        How long this listing's signature has been seen.
    settling_s : float
        How long it must have been, unless the session is marked.
    """
    if listing.n_images == 0:
        return "it holds no image"
    if listing.marked:
        return None
    if listing.unfinished:
        return listing.unfinished
    if unchanged_for_s < settling_s:
        return f"its files changed less than {settling_s:g} s ago"
    return None


class OutOfTimeError(Exception):
    """The time for fingerprints is over; what has been hashed so far is kept."""


@dataclass
class Digests:
    """Digests of a session's files, kept so that hashing can go on where it stopped.

    Attributes
    ----------
    known : dict
        Size and SHA-256 by place below the session's folder.
    """

    known: dict[str, tuple[int, str]] = field(default_factory=dict)


def resumable_fingerprint(folder: Path, digests: Digests, out_of_time: Callable[[], bool]) -> str:
    """Give `session_fingerprint`, in as many calls as it takes.

    Parameters
    ----------
    folder : Path
    digests : Digests
        Of the same listing of the folder; added to.
    out_of_time : callable
        Asked before each file but the first, so that every call gets on.

    Raises
    ------
    OutOfTimeError
        When files remain.
    UserError
        If a folder cannot be listed or a file cannot be read.
    """
    hashed = 0

    def digest(path: Path) -> tuple[int, str]:
        nonlocal hashed
        place = path.relative_to(folder).as_posix()
        if place not in digests.known:
            if hashed and out_of_time():
                raise OutOfTimeError
            digests.known[place] = file_digest(path)
            hashed += 1
        return digests.known[place]

    return session_fingerprint(folder, digest)
