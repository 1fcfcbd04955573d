"""What has been seen of incoming/ so far: which session has settled, and what its content is.

It is remembered in a small file, which may be lost: then sessions settle and are hashed again.
"""

import json
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import nsmallest
from pathlib import Path

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.session_life.folders import (
    Digests,
    OutOfTimeError,
    SessionFolder,
    list_session_folders,
    look_at,
    resumable_fingerprint,
    same_names,
    still_arriving,
)
from tem_pipeline.storage import Layout, write_bytes

MEMORY_FILE = "arrivals.json"
MEMORY_VERSION = 2
# A file that is written in place, in a session that is done, is noticed after so long.
THOROUGH_LOOK_S = 600.0
# 20 ticks of half a minute look at 10,000 sessions in that time, and none of them takes long for it.
THOROUGH_LOOKS_A_TICK = 500


@dataclass
class Seen:
    """What is remembered of one folder.

    Attributes
    ----------
    signature : str
        Of the listing that was seen last.
    since : float
        When it was seen first, seconds since 1970.
    fingerprint : str or None
        Of the content, once the folder was complete and has been read.
    digests : dict
        Of the files read so far, until there is a fingerprint.
    taken : str or None
        Fingerprint for which a run or a table was found: nothing is to be asked for.
    folders : dict
        `Listing.folders` of that listing.
    looked_at : float
        When every file was looked at last, seconds since 1970.
    """

    signature: str
    since: float
    fingerprint: str | None = None
    digests: dict[str, tuple[int, str]] = field(default_factory=dict)
    taken: str | None = None
    folders: dict[str, int] = field(default_factory=dict)
    looked_at: float = 0.0


@dataclass
class Memory:
    """What is remembered of every folder, by name, and the name to go on with."""

    sessions: dict[str, Seen] = field(default_factory=dict)
    next_name: str = ""


@dataclass(frozen=True)
class Arrival:
    """A session folder as it was found just now.

    Attributes
    ----------
    folder : SessionFolder
    fault : str or None
        Why it can't be taken.
    waiting : str or None
        Why it isn't complete.
    fingerprint : str or None
        Of its content, if it is complete.
    """

    folder: SessionFolder
    fault: str | None = None
    waiting: str | None = None
    fingerprint: str | None = None


def stopwatch(seconds: float) -> Callable[[], bool]:
    """Start a clock; it tells whether so many seconds have gone by."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def load_memory(layout: Layout) -> Memory:
    """Read what is remembered; nothing is, where the file is gone, broken or of another version."""
    try:
        content = json.loads((layout.state / MEMORY_FILE).read_bytes())
        if content["version"] != MEMORY_VERSION:
            return Memory()
        sessions = {name: Seen(**seen) for name, seen in content["sessions"].items()}
        return Memory(sessions, content["next_name"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Memory()


def save_memory(layout: Layout, memory: Memory) -> None:
    """Write what is remembered, in one step, if it has changed."""
    sessions = {name: vars(seen) for name, seen in memory.sessions.items()}
    content = json.dumps({"version": MEMORY_VERSION, "next_name": memory.next_name, "sessions": sessions})
    target = layout.state / MEMORY_FILE
    if not target.exists() or target.read_bytes() != content.encode():
        write_bytes(target, content.encode())


def observe(
    incoming: str | Path,
    memory: Memory,
    now: float,
    settling_s: float,
    out_of_time: Callable[[], bool],
    thorough_look_s: float = THOROUGH_LOOK_S,
) -> list[Arrival]:
    """Look at the folders below incoming/ and keep in mind what was seen.

    Parameters
    ----------
    incoming : path
    memory : Memory
        Changed in place.
    now : float
        Seconds since 1970.
    settling_s : float
    out_of_time : callable
        Once it says so the rest is left to the next call, which goes on there.
    thorough_look_s : float
        Of a session that is done not every file is looked at more often than this, and at no more than
        `THOROUGH_LOOKS_A_TICK` such sessions in one call, those first that have waited longest; 0: at all.

    Returns
    -------
    list of Arrival
        The folders looked at.

    Raises
    ------
    UserError
        If incoming/ can't be listed; nothing is forgotten then.
    """
    folders = list_session_folders(incoming)
    names = [folder.name for folder in folders]
    for name in memory.sessions.keys() - set(names):
        del memory.sessions[name]
    due = _due(memory, now, thorough_look_s)
    start = bisect_left(names, memory.next_name)
    memory.next_name = ""
    arrivals = []
    for folder in folders[start:] + folders[:start]:
        if arrivals and out_of_time():
            memory.next_name = folder.name
            break
        if folder.fault:
            arrivals.append(Arrival(folder, fault=folder.fault))
            continue
        try:
            seen = memory.sessions.get(folder.name)
            if seen and _is_done(seen) and folder.name not in due and same_names(folder.path, seen.folders):
                arrivals.append(Arrival(folder, fingerprint=seen.fingerprint))
                continue
            arrivals.append(_observe_folder(folder, memory, now, settling_s, out_of_time))
        except UserError as error:
            arrivals.append(Arrival(folder, fault=str(error)))
    return arrivals


def _is_done(seen: Seen) -> bool:
    return seen.taken is not None and seen.taken == seen.fingerprint


def _due(memory: Memory, now: float, thorough_look_s: float) -> set[str]:
    """Name the sessions that are done of which every file is to be looked at again."""
    waiting = [
        (seen.looked_at, name)
        for name, seen in memory.sessions.items()
        if _is_done(seen) and not 0 <= now - seen.looked_at < thorough_look_s
    ]
    if thorough_look_s:
        waiting = nsmallest(THOROUGH_LOOKS_A_TICK, waiting)
    return {name for _, name in waiting}


def _observe_folder(
    folder: SessionFolder, memory: Memory, now: float, settling_s: float, out_of_time: Callable[[], bool]
) -> Arrival:
    listing = look_at(folder.path)
    seen = memory.sessions.get(folder.name)
    if seen is None or seen.signature != listing.signature:
        seen = Seen(listing.signature, now, taken=seen.taken if seen else None)
        memory.sessions[folder.name] = seen
    seen.folders, seen.looked_at = listing.folders, now
    seen.since = min(seen.since, now)  # the clock may have been set back
    waiting = still_arriving(listing, now - seen.since, settling_s)
    if waiting is None and seen.fingerprint is None:
        try:
            fingerprint = resumable_fingerprint(folder.path, Digests(seen.digests), out_of_time)
        except OutOfTimeError:
            return Arrival(folder, waiting="its files are being read")
        if look_at(folder.path).signature != listing.signature:
            seen.digests = {}
            return Arrival(folder, waiting="its files changed while they were read")
        seen.fingerprint, seen.digests = fingerprint, {}
    return Arrival(folder, waiting=waiting, fingerprint=None if waiting else seen.fingerprint)
