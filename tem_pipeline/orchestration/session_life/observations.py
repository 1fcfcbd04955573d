"""Remembers from tick to tick how long each session folder has been unchanged, and what its content is.

The log is one small file, `arrivals.json`. It may be lost without harm: sessions settle and are hashed again.
"""

import json
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import nsmallest
from pathlib import Path

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.session_life.folders import (
    SessionFolder,
    folder_times_are,
    list_session_folders,
    resumable_fingerprint,
    still_arriving,
    take_snapshot,
)
from tem_pipeline.orchestration.session_life.session_tables import NO_IMAGE
from tem_pipeline.orchestration.session_life.tick_time import OutOfTimeError
from tem_pipeline.storage import Layout, write_bytes

LOG_FILE = "arrivals.json"
LOG_VERSION = 3
# A file that is overwritten in place in a finished session is noticed after this time.
FULL_SCAN_INTERVAL_S = 600.0
# In that time, 20 ticks of 30 s scan 10,000 finished sessions, and no tick takes long.
FULL_SCANS_PER_TICK = 500


@dataclass
class Observation:
    """What is remembered of one session folder. Times are in seconds since 1970."""

    signature: str  # of the latest snapshot
    since: float  # when this signature was seen first
    fingerprint: str | None = None  # of the content, once the folder was complete and all files were hashed
    digests: dict[str, tuple[int, str]] = field(default_factory=dict)  # of the files hashed until then
    finished: bool = False  # as long as the folder stays as it is, the sensor has nothing to ask for
    folder_times: dict[str, int] = field(default_factory=dict)  # of the latest snapshot
    scanned_at: float = 0.0  # time of the latest snapshot


@dataclass
class ObservationLog:
    """The observations of all session folders by name, and the name to continue with at the next tick."""

    sessions: dict[str, Observation] = field(default_factory=dict)
    next_name: str = ""


@dataclass(frozen=True)
class ObservedFolder:
    """A session folder as it is now."""

    folder: SessionFolder
    fault: str | None = None  # why it can't be processed
    waiting: str | None = None  # why it isn't complete
    fingerprint: str | None = None  # of its content, if it is complete and was hashed
    changed_at: datetime | None = None  # latest change of a file, if files were looked at


def load_log(layout: Layout) -> ObservationLog:
    """Read the log. It is empty if the file is missing, broken or of another version."""
    try:
        content = json.loads((layout.state / LOG_FILE).read_bytes())
        if content["version"] != LOG_VERSION:
            return ObservationLog()
        sessions = {name: Observation(**observation) for name, observation in content["sessions"].items()}
        return ObservationLog(sessions, content["next_name"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ObservationLog()


def save_log(layout: Layout, log: ObservationLog) -> None:
    """Write the log in one step, if it has changed."""
    sessions = {name: vars(observation) for name, observation in log.sessions.items()}
    content = json.dumps({"version": LOG_VERSION, "next_name": log.next_name, "sessions": sessions}).encode()
    target = layout.state / LOG_FILE
    if not target.exists() or target.read_bytes() != content:
        write_bytes(target, content)


def observe(
    incoming: str | Path,
    log: ObservationLog,
    now: float,
    settling_s: float,
    out_of_time: Callable[[], bool],
    full_scan_interval_s: float = FULL_SCAN_INTERVAL_S,
) -> list[ObservedFolder]:
    """Look at the session folders below incoming/ and update the log.

    Parameters
    ----------
    incoming : path
    log : ObservationLog
        Changed in place.
    now : float
        Seconds since 1970.
    settling_s : float
        Seconds without a change after which a session is complete.
    out_of_time : callable
        Once it returns True, the other folders are left to the next call, which continues there.
    full_scan_interval_s : float
        Minimum seconds between full scans of a finished session. One call scans at most
        `FULL_SCANS_PER_TICK` of them, those first that have waited longest. 0 scans all.

    Returns
    -------
    list of ObservedFolder
        The folders that this call has looked at.

    Raises
    ------
    UserError
        If incoming/ can't be listed. The log is unchanged then.
    """
    folders = list_session_folders(incoming)
    names = [folder.name for folder in folders]
    for name in log.sessions.keys() - set(names):
        del log.sessions[name]
    to_scan = _finished_sessions_to_scan(log, now, full_scan_interval_s)
    start = bisect_left(names, log.next_name)
    log.next_name = ""
    observed = []
    for folder in folders[start:] + folders[:start]:
        if observed and out_of_time():
            log.next_name = folder.name
            break
        known = log.sessions.get(folder.name)
        if folder.fault:
            observed.append(ObservedFolder(folder, fault=folder.fault))
        elif (
            known
            and known.finished
            and folder.name not in to_scan
            and folder_times_are(folder.path, known.folder_times)
        ):
            observed.append(ObservedFolder(folder, fingerprint=known.fingerprint))
        else:
            observed.append(_scan(folder, log, now, settling_s, out_of_time))
    return observed


def _finished_sessions_to_scan(log: ObservationLog, now: float, full_scan_interval_s: float) -> set[str]:
    waiting = [
        (observation.scanned_at, name)
        for name, observation in log.sessions.items()
        if observation.finished and not 0 <= now - observation.scanned_at < full_scan_interval_s
    ]
    if full_scan_interval_s:
        waiting = nsmallest(FULL_SCANS_PER_TICK, waiting)
    return {name for _, name in waiting}


def _scan(
    folder: SessionFolder,
    log: ObservationLog,
    now: float,
    settling_s: float,
    out_of_time: Callable[[], bool],
) -> ObservedFolder:
    """Look at every file of a folder, and hash the files once it is complete."""
    try:
        snapshot = take_snapshot(folder.path)
        known = log.sessions.get(folder.name)
        if known is None or known.signature != snapshot.signature:
            known = log.sessions[folder.name] = Observation(snapshot.signature, now)
        known.folder_times, known.scanned_at = snapshot.folder_times, now
        known.since = min(known.since, now)  # the clock may have been set back
        waiting = still_arriving(snapshot, now - known.since, settling_s)
        if waiting is None and snapshot.n_images == 0:
            return ObservedFolder(folder, fault=NO_IMAGE)
        if waiting is None and known.fingerprint is None:
            fingerprint = resumable_fingerprint(folder.path, known.digests, out_of_time)
            known.digests = {}
            if take_snapshot(folder.path).signature != snapshot.signature:
                return ObservedFolder(folder, waiting="its files changed while they were read")
            known.fingerprint = fingerprint
    except OutOfTimeError:
        return ObservedFolder(folder, waiting="its files are being read")
    except UserError as error:
        return ObservedFolder(folder, fault=str(error))
    return ObservedFolder(folder, waiting=waiting, fingerprint=None if waiting else known.fingerprint)


def observe_one(folder: SessionFolder, log: ObservationLog, now: float, settling_s: float) -> ObservedFolder:
    """Look at one session folder as `observe` does, but change nothing in the log and open no file.

    Parameters
    ----------
    folder : SessionFolder
    log : ObservationLog
    now : float
        Seconds since 1970.
    settling_s : float
        Seconds without a change after which a session is complete.
    """
    if folder.fault:
        return ObservedFolder(folder, fault=folder.fault)
    try:
        snapshot = take_snapshot(folder.path)
    except UserError as error:
        return ObservedFolder(folder, fault=str(error))
    known = log.sessions.get(folder.name)
    if known is not None and known.signature != snapshot.signature:
        known = None
    # If nobody has watched the folder yet, the times of its files tell how long it has been unchanged.
    since = known.since if known else snapshot.changed_at or max(snapshot.folder_times.values()) / 1e9
    waiting = still_arriving(snapshot, now - since, settling_s)
    return ObservedFolder(
        folder,
        fault=NO_IMAGE if waiting is None and snapshot.n_images == 0 else None,
        waiting=waiting,
        fingerprint=known.fingerprint if known else None,
        changed_at=datetime.fromtimestamp(snapshot.changed_at, UTC) if snapshot.changed_at else None,
    )
