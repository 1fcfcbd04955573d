"""Gives the state of every session: reads the folders and the tables, and lets `states` judge them."""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from upath import UPath

from tem_pipeline.orchestration.session_life.folders import list_session_folders
from tem_pipeline.orchestration.session_life.observations import load_log, observe_one
from tem_pipeline.orchestration.session_life.session_tables import (
    FAILURE_TABLE,
    SESSION_TABLES,
    RecordedFailure,
    RecordedTables,
    read_failure,
    read_tables,
)
from tem_pipeline.orchestration.session_life.states import SessionState, session_state
from tem_pipeline.settings import Settings
from tem_pipeline.storage import TABLE_FILE, AnyPath, Layout, is_local, sessions_with_tables
from tem_pipeline.text import counted, encodable, printable


def session_states(layout: Layout, settings: Settings, now: float) -> list[SessionState]:
    """Give the state of every session that has a folder or a table.

    Parameters
    ----------
    now : float
        Seconds since 1970.

    Raises
    ------
    UserError
        If incoming/ can't be listed.
    """
    return look_at_sessions(layout, settings, now, [], "", lambda: False)[0]


def look_at_sessions(
    layout: Layout,
    settings: Settings,
    now: float,
    former: Iterable[SessionState],
    start: str,
    out_of_time: Callable[[], bool],
) -> tuple[list[SessionState], str]:
    """Give the state of every session, as far as the time allows. On a slow disk several calls are needed.

    Parameters
    ----------
    now : float
        Seconds since 1970.
    former : iterable of SessionState
        As the former call gave them. A session that there is no time for keeps its former state.
    start : str
        The key to begin with, as the former call gave it.
    out_of_time : callable
        Asked before each session but the first, so that every call gets further.

    Returns
    -------
    list of SessionState
        In the order of their keys.
    str
        The key that the next call begins with; empty if there was time for all sessions.

    Raises
    ------
    UserError
        If incoming/ can't be listed.
    """
    log = load_log(layout)
    folders = list_session_folders(Path(str(layout.incoming)))
    # The key of a folder with a fault may belong to another folder, whose tables these are.
    by_key = {folder.name if folder.fault else folder.key: folder for folder in folders}
    recorded = sessions_with_tables(layout, "raw_tem_images") | sessions_with_tables(layout, FAILURE_TABLE)
    roots = [layout.partition(table) for table in (*SESSION_TABLES, FAILURE_TABLE)]
    known = {state.session: state for state in former}
    states: dict[str, SessionState] = {}
    keys = sorted(by_key.keys() | recorded)
    first = bisect_left(keys, start)
    next_key = ""
    for key in keys[first:] + keys[:first]:
        if states and (next_key or out_of_time()):
            next_key = next_key or key
            if key in known:
                states[key] = known[key]
            continue
        folder = by_key.get(key)
        observed = observe_one(folder, log, now, settings.settling_s) if folder else None
        name = key
        if folder is not None and folder.fault:
            name, tables, failure = encodable(folder.name), RecordedTables({}, {}), None
        else:
            tables, failure = _read_as_of(layout, key, tuple(_stamp(root, key) for root in roots))
        states[key] = session_state(name, observed, tables, failure, settings.attempts, settings.time_zone)
    return [states[key] for key in keys if key in states], next_key


def _stamp(root: AnyPath, key: str) -> tuple[int, int] | None:
    """Give the time and size of a session's table: they change whenever it is replaced."""
    try:
        # There may be tens of thousands of them, and a path object costs more than the stat call.
        place = f"{root}/session={key}/{TABLE_FILE}"
        status = os.stat(place) if is_local(root) else UPath(place).stat()
    except FileNotFoundError:
        return None
    return int(status.st_mtime * 1e6), status.st_size


@lru_cache(maxsize=50_000)
def _read_as_of(layout: Layout, key: str, stamps: tuple) -> tuple[RecordedTables, RecordedFailure | None]:
    return read_tables(layout, key), read_failure(layout, key)


def as_record(state: SessionState) -> dict[str, Any]:
    """Give a state as JSON holds it, with times as ISO 8601 in UTC."""
    return {
        name: value.isoformat(timespec="seconds") if isinstance(value, datetime) else value
        for name, value in asdict(state).items()
    }


def from_record(record: Mapping[str, Any]) -> SessionState:
    """Make the state that `as_record` wrote."""
    values: dict[str, Any] = {name: None if pd.isna(value) else value for name, value in record.items()}
    for name in ("changed_at", "ingested_at", "processed_at"):
        values[name] = datetime.fromisoformat(values[name]) if values[name] else None
    for name in ("images", "refused", "particles"):
        values[name] = None if values[name] is None else int(values[name])
    return SessionState(**values)


def as_lines(states: list[SessionState]) -> list[str]:
    """Give one line per session, for a person."""
    if not states:
        return ["no session yet: copy a folder of microscope files below incoming/"]
    shown = [
        state.session if state.name == state.session else f"{state.name} (key {state.session})"
        for state in states
    ]
    width = max(map(len, shown))
    lines = []
    for name, state in zip(shown, states, strict=True):
        numbers = [counted(state.images, "image")] if state.images is not None else []
        numbers += [counted(state.particles, "particle")] if state.particles is not None else []
        time = state.processed_at or state.ingested_at or state.changed_at
        numbers += [f"{time:%Y-%m-%d %H:%M} UTC"] if time else []
        reason = f"  {state.reason}" if state.reason else ""
        line = f"{name:{width}}  {state.state:14}  {', '.join(numbers)}{reason}"
        # File names come from outside: they must not end the line or send commands to the terminal.
        lines.append(printable(line))
    return lines
