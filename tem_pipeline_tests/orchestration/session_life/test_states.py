import json
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from tem_pipeline.orchestration.resources import PARTITION_TAG, Platform
from tem_pipeline.orchestration.session_life.failures import record_failure
from tem_pipeline.orchestration.session_life.requests import FINGERPRINT_TAG, SESSION_TABLES
from tem_pipeline.orchestration.session_life.schedules import nightly_sessions
from tem_pipeline.orchestration.session_life.states import (
    Failure,
    Found,
    Tables,
    as_lines,
    session_state,
    session_states,
)
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DONE = Tables(dict.fromkeys(SESSION_TABLES, "F"), dict.fromkeys(SESSION_TABLES, NOW), 3, 0, 40)
INGESTED = Tables({**dict.fromkeys(SESSION_TABLES), "raw_tem_images": "F"}, {"raw_tem_images": NOW}, 3, 0)
NOTHING = Tables(dict.fromkeys(SESSION_TABLES), {})
LATER = NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("found", "tables", "failure", "state", "reason"),
    [
        (Found("a", waiting="a.part is being written"), NOTHING, None, "arriving", "a.part"),
        (Found("a", waiting="its files changed"), DONE, None, "arriving", "changed"),
        (Found("a", fault="it is a symbolic link"), NOTHING, None, "failed", "link"),
        (Found("a", fingerprint="F"), NOTHING, None, "complete", None),
        (Found("a", fingerprint="G"), DONE, None, "complete", "changed"),
        (Found("a", changed=True), DONE, None, "complete", "changed"),
        (Found("a", fingerprint="F"), INGESTED, None, "ingested", None),
        (Found("a", fingerprint="F"), DONE, None, "processed", None),
        (None, DONE, None, "processed", None),
        (
            Found("a", fingerprint="F"),
            INGESTED,
            Failure("r", "F", LATER, 1, "no champion"),
            "failed",
            "no champion",
        ),
        (
            Found("a", fingerprint="F"),
            INGESTED,
            Failure("r", "F", LATER, 3, "no champion"),
            "parked",
            "no champion",
        ),
        (Found("a", fingerprint="F"), NOTHING, Failure("r", "F", LATER, 0, "bad yaml"), "failed", "bad yaml"),
        (
            Found("a", fingerprint="G"),
            INGESTED,
            Failure("r", "F", LATER, 3, "no champion"),
            "complete",
            "changed",
        ),
        (
            Found("a", fingerprint="F"),
            DONE,
            Failure("r", "F", NOW - timedelta(days=1), 3, "old"),
            "processed",
            None,
        ),
        (None, NOTHING, Failure("r", None, LATER, 0, "disk full"), "failed", "disk full"),
    ],
)
def test_each_session_has_one_state_and_its_reason(found, tables, failure, state, reason):
    found_state = session_state("a", found, tables, failure, limit=3)
    assert found_state.state == state
    assert reason in str(found_state.reason) if reason else found_state.reason is None


def test_refused_files_are_counted_and_the_first_are_named():
    tables = Tables(DONE.recorded, DONE.written, 3, 5, 40, ("a.dm3: no micrograph", "b.tif: truncated"))
    found = session_state("a", None, tables, None, 3)
    assert found.state == "partly refused"
    assert found.reason == "5 refused: a.dm3: no micrograph; b.tif: truncated; and 3 more"


@pytest.mark.usefixtures("settle_at_once")
def test_the_states_of_a_laboratory(
    run, incoming, files, platform: Platform, instance: dg.DagsterInstance, tmp_path: Path
):
    lay_champion(platform)
    deliver(files, incoming / "Pt C 1")
    (incoming / "Pt C 1/broken.dm3").write_text("no micrograph")
    deliver(files, incoming / "good")
    requests = nightly_sessions(dg.build_schedule_context(instance=instance), platform=platform)
    assert isinstance(requests, list)
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


def test_names_from_outside_neither_end_a_line_nor_command_the_terminal():
    tables = Tables(DONE.recorded, DONE.written, 3, 1, 40, ("a\n\x1b[2Jb.tif: truncated",))
    (line,) = as_lines([session_state("a", None, tables, None, 3)])
    assert line.isprintable()
