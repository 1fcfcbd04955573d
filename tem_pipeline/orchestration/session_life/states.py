"""The state of every session in plain words, from its folder, its tables and its last failure."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow.parquet as pq
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.sessions import printable
from tem_pipeline.orchestration.session_life.arrivals import Memory, load_memory
from tem_pipeline.orchestration.session_life.folders import (
    OutOfTimeError,
    SessionFolder,
    list_session_folders,
    look_at,
    still_arriving,
)
from tem_pipeline.orchestration.session_life.requests import SESSION_TABLES, recorded_fingerprints
from tem_pipeline.settings import Settings
from tem_pipeline.storage import TABLE_FILE, AnyPath, Layout, is_local, read_table, sessions_of

FAILURE_TABLE = "session_failures"
State = Literal["arriving", "complete", "ingested", "processed", "partly refused", "failed", "parked"]
REFUSALS_SHOWN = 3


@dataclass(frozen=True)
class Found:
    """What a session's folder shows.

    Attributes
    ----------
    name : str
    fault, waiting : str or None
        Why it can't be taken; why it isn't complete.
    fingerprint : str or None
        Of its content; None where that isn't known.
    changed : bool
        Its files aren't those that the tables were made from, as far as is known.
    changed_at : datetime or None
        When a file changed last.
    """

    name: str
    fault: str | None = None
    waiting: str | None = None
    fingerprint: str | None = None
    changed: bool = False
    changed_at: datetime | None = None


@dataclass(frozen=True)
class Tables:
    """What a session's tables show.

    Attributes
    ----------
    recorded : mapping
        Fingerprint of the content by table, None where there is no table.
    written : mapping
        When each table was written, where it is there.
    images, refused, particles : int or None
    refusals : tuple of str
        The first few, with their reasons.
    name : str or None
        Name of the session's folder as the manifest has it.
    """

    recorded: Mapping[str, str | None]
    written: Mapping[str, datetime]
    images: int | None = None
    refused: int | None = None
    particles: int | None = None
    refusals: tuple[str, ...] = ()
    name: str | None = None


@dataclass(frozen=True)
class Failure:
    """The last failed run of a session."""

    run_id: str
    fingerprint: str | None
    failed_at: datetime
    failed_attempts: int
    reason: str


@dataclass(frozen=True)
class SessionState:
    """One line of `tem-pipeline sessions`."""

    session: str
    name: str
    state: State
    reason: str | None
    changed_at: datetime | None
    ingested_at: datetime | None
    processed_at: datetime | None
    images: int | None
    refused: int | None
    particles: int | None


def session_state(
    key: str, found: Found | None, tables: Tables, failure: Failure | None, limit: int
) -> SessionState:
    """Say in which state a session is.

    Parameters
    ----------
    key : str
    found : Found or None
        None where there is no folder below incoming/.
    tables : Tables
    failure : Failure or None
    limit : int
        Failed attempts after which a session is parked.
    """
    ingested = tables.recorded.get("raw_tem_images")
    state, reason = _judge(found, ingested, tables, failure, limit)
    return SessionState(
        key,
        (found.name if found else tables.name) or key,
        state,
        reason,
        found.changed_at if found else None,
        tables.written.get("raw_tem_images"),
        tables.written.get(SESSION_TABLES[-1]),
        tables.images,
        tables.refused,
        tables.particles,
    )


def _judge(
    found: Found | None, ingested: str | None, tables: Tables, failure: Failure | None, limit: int
) -> tuple[State, str | None]:
    if found and found.fault:
        return "failed", found.fault
    if found and found.waiting:
        return "arriving", found.waiting
    content = (found.fingerprint if found else None) or ingested
    changed = found is not None and (found.changed or content != ingested)
    # A failure of other content, or before a table was written, is over.
    if (
        failure
        and (failure.fingerprint is None or content is None or failure.fingerprint == content)
        and failure.failed_at >= max(tables.written.values(), default=failure.failed_at)
    ):
        return "parked" if failure.failed_attempts >= limit else "failed", failure.reason
    if ingested is None or changed:
        return "complete", "its content has changed since it was ingested" if ingested else None
    if any(recorded != ingested for recorded in tables.recorded.values()):
        return "ingested", None
    if tables.refused:
        more = tables.refused - len(tables.refusals)
        listed = "; ".join(tables.refusals) + (f"; and {more} more" if more > 0 else "")
        return "partly refused", f"{tables.refused} refused: {listed}"
    return "processed", None


def session_states(
    layout: Layout, settings: Settings, now: float, out_of_time: Callable[[], bool] = lambda: False
) -> list[SessionState]:
    """Give the state of every session that has a folder or a table.

    Parameters
    ----------
    layout : Layout
    settings : Settings
    now : float
        Seconds since 1970.
    out_of_time : callable, optional
        Asked before each session. What was read of tables is remembered by this process, so that a call that
        ran out of time is of use to the next.

    Raises
    ------
    UserError
        When incoming/ can't be listed.
    OutOfTimeError
        When the time is over.
    """
    memory = load_memory(layout)
    folders = {
        folder.key if not folder.fault else folder.name: folder
        for folder in list_session_folders(Path(str(layout.incoming)))
    }
    keys = folders.keys() | sessions_of(layout, "raw_tem_images") | sessions_of(layout, FAILURE_TABLE)
    roots = {asset: layout.partition(asset) for asset in (*SESSION_TABLES, FAILURE_TABLE)}
    states = []
    for key in sorted(keys):
        if out_of_time():
            raise OutOfTimeError
        folder = folders.get(key)
        if folder is not None and folder.fault:
            name = printable(folder.name)
            nothing = Tables({}, {})
            states.append(session_state(name, Found(name, folder.fault), nothing, None, settings.attempts))
            continue
        tables, failure = _read_as_of(layout, key, tuple(_stamp(root, key) for root in roots.values()))
        found = None
        if folder is not None:
            found = _look(folder, memory, tables.written.get("raw_tem_images"), settings, now)
        states.append(session_state(key, found, tables, failure, settings.attempts))
    return states


def _stamp(root: AnyPath, key: str) -> tuple[int, int] | None:
    """Give what changes whenever a session's table is replaced."""
    try:
        # Thousands of them are looked at: making paths of them would take longer than looking.
        place = f"{root}/session={key}/{TABLE_FILE}"
        status = os.stat(place) if is_local(root) else UPath(place).stat()
    except FileNotFoundError:
        return None
    return int(status.st_mtime * 1e6), status.st_size


@lru_cache(maxsize=50_000)
def _read_as_of(layout: Layout, key: str, stamps: tuple) -> tuple[Tables, Failure | None]:
    return read_tables(layout, key), read_failure(layout, key)


def _look(
    folder: SessionFolder, memory: Memory, ingested_at: datetime | None, settings: Settings, now: float
) -> Found:
    name = printable(folder.name)
    try:
        listing = look_at(folder.path)
    except UserError as error:
        return Found(name, fault=str(error))
    seen = memory.sessions.get(folder.name)
    known = seen is not None and seen.signature == listing.signature
    # Where nobody has watched the folder, the times of its files say how long it has been as it is.
    since = seen.since if seen and known else listing.changed_at
    changed_at = datetime.fromtimestamp(listing.changed_at, UTC) if listing.changed_at else None
    return Found(
        name,
        waiting=still_arriving(listing, now - since, settings.settling_s),
        fingerprint=seen.fingerprint if seen and known else None,
        changed=not known and bool(ingested_at and changed_at and changed_at > ingested_at),
        changed_at=changed_at,
    )


def read_tables(layout: Layout, key: str) -> Tables:
    """Read what a session's tables say about it."""
    paths = {asset: layout.table(asset, key) for asset in SESSION_TABLES}
    written = {
        asset: datetime.fromtimestamp(path.stat().st_mtime, UTC)
        for asset, path in paths.items()
        if path.exists()
    }
    facts: dict[str, Any] = {}
    if "raw_tem_images" in written:
        manifest = read_table(paths["raw_tem_images"], ["file", "status", "reason", "session_name"])
        refused = manifest[manifest["status"] == "refused"]
        facts = {
            "images": int((manifest["status"] == "ok").sum()),
            "refused": len(refused),
            "refusals": tuple(f"{row.file}: {row.reason}" for row in refused[:REFUSALS_SHOWN].itertuples()),
            "name": manifest["session_name"].iloc[0] if len(manifest) else None,
        }
    if "particle_table" in written:
        facts["particles"] = _rows(paths["particle_table"])
    return Tables(recorded_fingerprints(layout, key), written, **facts)


def read_failure(layout: Layout, key: str) -> Failure | None:
    """Read the last failure of a session."""
    path = layout.table(FAILURE_TABLE, key)
    if not path.exists():
        return None
    row = read_table(path).iloc[-1]
    fingerprint = row["session_fingerprint"]
    return Failure(
        row["run_id"],
        None if pd.isna(fingerprint) else fingerprint,
        row["failed_at"].to_pydatetime(),
        int(row["failed_attempts"]),
        row["reason"],
    )


def as_record(state: SessionState) -> dict[str, Any]:
    """Give a state as JSON holds it; times are ISO 8601 in UTC."""
    return {
        name: value.isoformat(timespec="seconds") if isinstance(value, datetime) else value
        for name, value in asdict(state).items()
    }


def as_lines(states: list[SessionState]) -> list[str]:
    """Give a line a session for a person."""
    if not states:
        return ["no session yet: copy a folder of microscope files below incoming/"]
    width = max(len(state.session) for state in states)
    lines = []
    for state in states:
        numbers = [f"{state.images} images"] if state.images is not None else []
        numbers += [f"{state.particles} particles"] if state.particles is not None else []
        time = state.processed_at or state.ingested_at or state.changed_at
        numbers += [f"{time:%Y-%m-%d %H:%M} UTC"] if time else []
        reason = f"  {state.reason}" if state.reason else ""
        line = f"{state.session:{width}}  {state.state:14}  {', '.join(numbers)}{reason}"
        # Names of files come from outside: they must neither end the line nor command the terminal.
        lines.append("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line))
    return lines


def _rows(path: AnyPath) -> int:
    with path.open("rb") as file:
        return pq.ParquetFile(file).metadata.num_rows
