import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import dagster as dg
import pytest

from docs.states import PAGE, TABLE
from tem_pipeline.orchestration.resources import PARTITION_TAG, Platform
from tem_pipeline.orchestration.session_life.failures import record_failure
from tem_pipeline.orchestration.session_life.folders import SessionFolder
from tem_pipeline.orchestration.session_life.observations import ObservedFolder
from tem_pipeline.orchestration.session_life.requests import (
    ATTEMPT_TAG,
    FINGERPRINT_TAG,
    attempt_at_night,
    attempt_on_arrival,
)
from tem_pipeline.orchestration.session_life.session_tables import (
    SESSION_TABLES,
    RecordedFailure,
    RecordedTables,
)
from tem_pipeline.orchestration.session_life.states import (
    STATES,
    StateName,
    session_state,
    states_as_markdown,
)
from tem_pipeline.orchestration.session_life.survey import as_lines, session_states
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER, EARLIER = NOW + timedelta(seconds=1), NOW - timedelta(days=1)
DONE = RecordedTables(dict.fromkeys(SESSION_TABLES, "F"), dict.fromkeys(SESSION_TABLES, NOW), 3, 0, 40)
INGESTED = RecordedTables(
    {**dict.fromkeys(SESSION_TABLES), "raw_tem_images": "F"}, {"raw_tem_images": NOW}, 3, 0
)
NO_IMAGE = replace(INGESTED, images=0, no_image="no image: the folder holds none")
NOTHING = RecordedTables(dict.fromkeys(SESSION_TABLES), {})


def observed(**facts) -> ObservedFolder:
    return ObservedFolder(SessionFolder("a", "a", Path("a")), **facts)


def failure(
    attempts: int, reason: str, failed_at: datetime = LATER, content: str | None = "F"
) -> RecordedFailure:
    return RecordedFailure("r", content, failed_at, attempts, reason)


@pytest.mark.parametrize(
    ("folder", "tables", "failed", "state", "reason"),
    [
        (observed(waiting="a.part is being written"), NOTHING, None, "arriving", "a.part"),
        (observed(waiting="its files changed"), DONE, None, "arriving", "changed"),
        (observed(fault="it is a symbolic link"), NOTHING, None, "failed", "link"),
        (observed(fingerprint="F"), NOTHING, None, "complete", None),
        (observed(fingerprint="G"), DONE, None, "complete", "changed"),
        (observed(changed_at=LATER), DONE, None, "complete", "changed"),
        (observed(changed_at=EARLIER), DONE, None, "processed", None),
        (observed(fingerprint="F", changed_at=LATER), DONE, None, "processed", None),
        (observed(fingerprint="F"), INGESTED, None, "ingested", "nightly run at 02:00 UTC"),
        (observed(fingerprint="F"), DONE, None, "processed", None),
        (None, DONE, None, "processed", None),
        (observed(fingerprint="F"), INGESTED, failure(1, "no champion"), "failed", "no champion"),
        (observed(fingerprint="F"), INGESTED, failure(3, "no champion"), "parked", "no champion"),
        (observed(fingerprint="F"), NOTHING, failure(0, "bad yaml"), "failed", "bad yaml"),
        (observed(fingerprint="G"), INGESTED, failure(3, "no champion"), "complete", "changed"),
        (observed(fingerprint="F"), DONE, failure(3, "old", EARLIER), "processed", None),
        (None, NOTHING, failure(0, "disk full", content=None), "failed", "disk full"),
        (observed(fingerprint="F"), NO_IMAGE, None, "failed", "no image"),
        (observed(fingerprint="F"), NO_IMAGE, failure(3, "session a: no image"), "failed", "no image"),
        (observed(fingerprint="G"), NO_IMAGE, None, "complete", "changed"),
        (None, NO_IMAGE, None, "failed", "no image"),
    ],
)
def test_each_session_has_one_state_and_its_reason(folder, tables, failed, state, reason):
    judged = session_state("a", folder, tables, failed, limit=3)
    assert judged.state == state
    assert reason in str(judged.reason) if reason else judged.reason is None


@dataclass(frozen=True)
class Life:
    """Everything that decides a session's state, and the nights on which it failed."""

    content: str = "F"
    arriving: bool = True
    tables: RecordedTables = NOTHING
    failure: RecordedFailure | None = None
    failed_nights: tuple[str, ...] = ()

    @property
    def state(self) -> StateName:
        folder = observed(waiting="a copy") if self.arriving else observed(fingerprint=self.content)
        return session_state("a", folder, self.tables, self.failure, limit=3).state

    def run(self, tables: tuple[str, ...], refused: int) -> "Life":
        """Let a run write tables, later than the last failure."""
        written = RecordedTables(
            {**self.tables.fingerprints, **dict.fromkeys(tables, self.content)},
            {**self.tables.written, **dict.fromkeys(tables, NOW)},
            refused=refused,
            no_image=None if self.content in "FG" else "no image",
        )
        before = replace(self.failure, failed_at=EARLIER) if self.failure else None
        return replace(self, tables=written, failure=before)

    def fail(self, by_night: bool) -> "Life":
        """Let a run fail. Only those of the night count, and carry the content's fingerprint."""
        nights = tuple(sorted((*self.failed_nights, self.content))) if by_night else self.failed_nights
        content = self.content if by_night else None
        attempts = nights.count(self.content) if by_night else 0
        return replace(self, failed_nights=nights, failure=failure(attempts, "full", LATER, content))

    def next(self) -> Iterator["Life"]:
        """Go through everything that may happen next."""
        yield from (replace(self, arriving=True, content=content) for content in "FGN")
        if self.arriving:
            yield replace(self, arriving=False)
            return
        if self.content == "N":  # a folder without an image
            yield self.run(SESSION_TABLES[:1], 0)
            return
        of_other_content = self.tables.fingerprints["raw_tem_images"] != self.content
        by_hand = self.failure is not None and self.failure.fingerprint is None
        if self.state == "complete" or (self.state == "failed" and by_hand and of_other_content):
            yield self.run(SESSION_TABLES[:1], 0)
        if self.state not in ("processed", "partly refused"):
            yield from (self.run(SESSION_TABLES, refused) for refused in (0, 1))
        if self.state in ("complete", "ingested", "failed") and self.failed_nights.count(self.content) < 3:
            yield self.fail(by_night=True)
        if self.state in ("processed", "partly refused", "parked"):
            yield self.fail(by_night=False)


def test_a_session_goes_exactly_the_ways_that_the_table_shows():
    ways, seen, todo = set(), {repr(Life())}, [Life()]
    while todo:
        life = todo.pop()
        for after in life.next():
            ways.add((life.state, after.state))
            if repr(after) not in seen:
                seen.add(repr(after))
                todo.append(after)
    shown = {(state.name, to) for state in STATES for way in state.ways for to in way.to}
    assert {way for way in ways if way[0] != way[1]} == shown


def past(*runs: tuple[str, str, str]) -> list[Any]:
    """Make the records of runs for the content F, the newest first: job, status and reason of failure."""
    records = []
    for number, (job, status, reason) in enumerate(reversed(runs), start=1):
        tags = {FINGERPRINT_TAG: "F", ATTEMPT_TAG: str(number), "dagster/will_retry": "false"}
        tags |= {"dagster/failure_reason": reason} if reason else {}
        run = dg.DagsterRun(job, tags=tags, status=dg.DagsterRunStatus[status])
        records.insert(0, SimpleNamespace(dagster_run=run, end_time=0))
    return records


CRASH = ("process_session", "FAILURE", "RUN_EXCEPTION")
FAULT = ("process_session", "FAILURE", "STEP_FAILURE")
HISTORIES = {
    "complete": [past()],
    "ingested": [past(("ingest_session", "SUCCESS", ""))],
    "failed": [past(CRASH), past(FAULT)],
    "parked": [past(FAULT, FAULT, FAULT), past(CRASH, CRASH, CRASH)],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_the_table_names_those_who_may_process_a_session(name):
    deciders = {"a person"}  # `tem-pipeline process` asks nobody
    recorded: dict[str, str | None] = dict.fromkeys(SESSION_TABLES)
    for runs in HISTORIES[name]:
        if isinstance(attempt_on_arrival("F", runs, 60), int):
            deciders.add("sensor with `TEM_PROCESS_ON_ARRIVAL`")
        if attempt_at_night("F", recorded, runs, 3) is not None:
            deciders.add("nightly schedule")
    (state,) = [state for state in STATES if state.name == name]
    (way,) = [way for way in state.ways if "processed" in way.to]
    assert set(way.who.split(", ")) == deciders


def test_the_table_tells_how_often_a_crashed_run_is_asked_for_again():
    crash = ("ingest_session", "FAILURE", "RUN_EXCEPTION")
    asked = 0
    while asked < 50 and isinstance(attempt_on_arrival("F", past(*[crash] * asked), 60), int):
        asked += 1
    (failed,) = [state for state in STATES if state.name == "failed"]
    (way,) = [way for way in failed.ways if way.to == ("ingested",)]
    assert way.who == "sensor"
    assert way.when.endswith(f"up to {asked} times")


def test_the_docs_show_the_table_of_the_states():
    written = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert [state.name for state in STATES] == list(get_args(StateName))
    assert written is not None
    assert written.group() == states_as_markdown(), "run `make docs`"


def test_refused_files_are_counted_and_the_first_are_named():
    refusals = ("a.dm3: no micrograph", "b.tif: truncated")
    judged = session_state("a", None, replace(DONE, refused=5, refusals=refusals), None, 3)
    assert judged.state == "partly refused"
    assert judged.reason == "5 refused: a.dm3: no micrograph; b.tif: truncated; and 3 more"


@pytest.mark.usefixtures("settle_at_once")
def test_the_states_of_a_laboratory(night, run, incoming, files, platform: Platform, tmp_path: Path):
    lay_champion(platform)
    deliver(files, incoming / "Pt C 1")
    (incoming / "Pt C 1/broken.dm3").write_text("no micrograph")
    deliver(files, incoming / "good")
    requests = night()
    assert len(requests) == 2
    assert all(run(request) for request in requests)
    deliver(files, incoming / "copying")
    (incoming / "copying/4.tif.part").write_text("…")
    deliver(files, incoming / "failing")
    tags = {PARTITION_TAG: "failing", FINGERPRINT_TAG: "F"}
    record_failure(platform.layout, dg.DagsterRun("process_session", tags=tags), 3, "no champion")
    (incoming / "link").symlink_to(tmp_path)
    states = session_states(platform.layout, platform.settings, time.time())
    assert {state.name: state.state for state in states} == {
        "Pt C 1": "partly refused",
        "copying": "arriving",
        "failing": "parked",
        "good": "processed",
        "link": "failed",
    }
    good = next(state for state in states if state.name == "good")
    assert good.images == 3
    assert good.particles
    times = [good.changed_at, good.ingested_at, good.processed_at]
    assert times == sorted(time for time in times if time)
    told = subprocess.run(
        [sys.executable, "-m", "tem_pipeline.cli", "sessions", "--json"],
        env={"TEM_DATA_ROOT": str(platform.layout.data_root), "TEM_SETTLING_S": "0", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert Counter(entry["state"] for entry in json.loads(told.stdout)) == Counter(s.state for s in states)
    assert len(as_lines(states)) == 5


def test_names_from_outside_cannot_end_a_line_or_command_the_terminal():
    tables = replace(DONE, refused=1, refusals=("a\n\x1b[2Jb.tif: truncated",))
    (line,) = as_lines([session_state("a", None, tables, None, 3)])
    assert line.isprintable()


def test_the_real_name_of_a_session_is_shown_beside_its_key():
    tables = replace(DONE, name="Überblick", images=1, particles=2)
    (line,) = as_lines([session_state("Uberblick-0123456789ab", None, tables, None, 3)])
    assert line.startswith("Überblick (key Uberblick-0123456789ab)  ")
    assert "1 image, 2 particles" in line
