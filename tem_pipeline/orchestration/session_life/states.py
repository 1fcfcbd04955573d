"""The states of a session: the one table of them, and the function that determines a session's state.

`make docs` prints the table into docs/operations.md. `survey` reads the folders and tables that it needs.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from tem_pipeline.orchestration.session_life.observations import ObservedFolder
from tem_pipeline.orchestration.session_life.session_tables import RecordedFailure, RecordedTables
from tem_pipeline.text import encodable

StateName = Literal["arriving", "complete", "ingested", "processed", "partly refused", "failed", "parked"]


class Transition(NamedTuple):
    """A way out of a state: the states that may follow, when, and who decides."""

    to: tuple[StateName, ...]
    when: str
    who: str


class State(NamedTuple):
    """A state: what it means, what a person has to do, and the ways out of it."""

    name: StateName
    means: str
    to_do: str
    ways: tuple[Transition, ...]


def _processed_by(who: str) -> Transition:
    return Transition(("processed", "partly refused"), "`process_session` succeeds", who)


def _failed_by(who: str) -> Transition:
    return Transition(("failed",), "a run fails, there is no image, or the folder can't be listed", who)


_SENSOR, _NIGHT, _PERSON = "sensor", "nightly schedule", "a person"
_ALL = f"sensor with `TEM_PROCESS_ON_ARRIVAL`, {_NIGHT}, {_PERSON}"
_NIGHT_OR_PERSON = f"{_NIGHT}, {_PERSON}"
_PARKED = Transition(("parked",), "runs of this content have failed on `TEM_ATTEMPTS` nights", _NIGHT)
_FILES_CHANGE = Transition(("arriving",), "files are added, changed or removed", _PERSON)

STATES = (
    State(
        "arriving",
        "the copy is still under way, or a file in the folder looks like it",
        "if it stays: look at the file that the reason names",
        (
            Transition(("complete",), "no change for `TEM_SETTLING_S`, or `.complete` is written", "sensor"),
            Transition(
                ("ingested", "processed", "partly refused", "failed", "parked"),
                "the same, and the files are those of the last run: the earlier state returns",
                "sensor",
            ),
        ),
    ),
    State(
        "complete",
        "the session waits for its run",
        "nothing; if it stays: is the daemon running?",
        (
            Transition(("ingested",), "`ingest_session` succeeds", "sensor"),
            _processed_by(_ALL),
            _failed_by(f"{_SENSOR}, {_NIGHT}, {_PERSON}"),
            _PARKED,
            _FILES_CHANGE,
        ),
    ),
    State(
        "ingested",
        "the session waits for the night",
        "nothing, or launch `process_session`",
        (_processed_by(_NIGHT_OR_PERSON), _failed_by(_NIGHT_OR_PERSON), _PARKED, _FILES_CHANGE),
    ),
    State(
        "processed",
        "every table holds the folder's content",
        "nothing",
        (_failed_by(_PERSON), _FILES_CHANGE),
    ),
    State(
        "partly refused",
        "processed, but some files can't be used",
        "read the reasons; the files stay where they are",
        (_failed_by(_PERSON), _FILES_CHANGE),
    ),
    State(
        "failed",
        "the last run failed, or the folder can't be used",
        "read the reason; a failed run is tried again the next night, a crashed one at once",
        (
            Transition(
                ("ingested",),
                "`ingest_session` succeeds: a crashed run is asked for again, up to 3 times",
                _SENSOR,
            ),
            _processed_by(_ALL),
            _PARKED,
            _FILES_CHANGE,
        ),
    ),
    State(
        "parked",
        "runs have failed on `TEM_ATTEMPTS` (3) nights",
        "remove the cause, then run it by hand",
        (_processed_by(_PERSON), _failed_by(_PERSON), _FILES_CHANGE),
    ),
)


@dataclass(frozen=True)
class SessionState:
    """One line of `tem-pipeline sessions`."""

    session: str
    name: str
    state: StateName
    reason: str | None
    changed_at: datetime | None
    ingested_at: datetime | None
    processed_at: datetime | None
    images: int | None
    refused: int | None
    particles: int | None


def session_state(
    key: str,
    observed: ObservedFolder | None,
    tables: RecordedTables,
    failure: RecordedFailure | None,
    limit: int,
    time_zone: str = "UTC",
) -> SessionState:
    """Determine a session's state.

    Parameters
    ----------
    key : str
    observed : ObservedFolder or None
        None if incoming/ has no folder of this session.
    tables : RecordedTables
    failure : RecordedFailure or None
    limit : int
        Number of failed attempts after which a session is parked.
    time_zone : str
        Time zone of the nightly run.
    """
    state, reason = _judge(observed, tables, failure, limit, time_zone)
    return SessionState(
        session=key,
        name=(encodable(observed.folder.name) if observed else tables.name) or key,
        state=state,
        reason=reason,
        changed_at=observed.changed_at if observed else None,
        ingested_at=tables.written.get("raw_tem_images"),
        processed_at=tables.written.get("size_distributions"),
        images=tables.images,
        refused=tables.refused,
        particles=tables.particles,
    )


def _judge(
    observed: ObservedFolder | None,
    tables: RecordedTables,
    failure: RecordedFailure | None,
    limit: int,
    time_zone: str,
) -> tuple[StateName, str | None]:
    if observed and observed.fault:
        return "failed", observed.fault
    if observed and observed.waiting:
        return "arriving", observed.waiting
    ingested = tables.fingerprints.get("raw_tem_images")
    content = (observed.fingerprint if observed else None) or ingested
    if tables.no_image and content == ingested and not _changed_since_ingested(observed, tables):
        return "failed", tables.no_image
    if failure and _is_of_now(failure, content, tables):
        return "parked" if failure.failed_attempts >= limit else "failed", failure.reason
    if ingested is None:
        return "complete", None
    if content != ingested or _changed_since_ingested(observed, tables):
        return "complete", "its content has changed since it was ingested"
    if any(fingerprint != ingested for fingerprint in tables.fingerprints.values()):
        return "ingested", f"waits for the nightly run at 02:00 {time_zone}; or launch process_session"
    if tables.refused:
        more = tables.refused - len(tables.refusals)
        listed = "; ".join(tables.refusals) + (f"; and {more} more" if more > 0 else "")
        return "partly refused", f"{tables.refused} refused: {listed}"
    return "processed", None


def _is_of_now(failure: RecordedFailure, content: str | None, tables: RecordedTables) -> bool:
    """Tell whether a failure still counts: not if it was of other content, or a table was written since."""
    same_content = failure.fingerprint is None or content is None or failure.fingerprint == content
    return same_content and all(failure.failed_at >= written for written in tables.written.values())


def _changed_since_ingested(observed: ObservedFolder | None, tables: RecordedTables) -> bool:
    """Judge by file times, where the folder's content isn't known."""
    ingested_at = tables.written.get("raw_tem_images")
    if observed is None or observed.fingerprint or observed.changed_at is None or ingested_at is None:
        return False
    return observed.changed_at > ingested_at


def states_as_markdown() -> str:
    """Print `STATES` as a Markdown table."""
    lines = ["| state | means | to do | next state, when, and who decides |", "|---|---|---|---|"]
    for name, means, to_do, ways in STATES:
        listed = "<br>".join(f"**{', '.join(way.to)}**: {way.when} ({way.who})" for way in ways)
        lines.append(f"| {name} | {means} | {to_do} | {listed} |")
    return "\n".join(lines)
