import json
import shutil
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import dagster as dg
import pytest

from tem_pipeline.micrographs.sessions import session_fingerprint
from tem_pipeline.orchestration.resources import PARTITION_TAG, SESSION_FOLDER_TAG, Platform
from tem_pipeline.orchestration.session_life import schedules
from tem_pipeline.orchestration.session_life.failures import (
    FAILURE_TABLE,
    fail_abandoned_runs,
    record_failure,
    session_failures,
)
from tem_pipeline.orchestration.session_life.requests import (
    ATTEMPT_TAG,
    FINGERPRINT_TAG,
    PastRun,
    attempt_at_night,
    recorded_fingerprints,
)
from tem_pipeline.settings import load_settings
from tem_pipeline.storage import read_table, session_lock
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion

pytestmark = pytest.mark.usefixtures("settle_at_once")
FAILURE, SUCCESS, STARTED = (
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.STARTED,
)


def test_a_night_processes_each_session_once_whatever_the_champion(
    night, run, incoming, files, platform: Platform
):
    lay_champion(platform)
    for name in ("a", "b"):
        deliver(files, incoming / name)
    requests = night()
    assert [(request.job_name, request.partition_key) for request in requests] == [
        ("process_session", "a"),
        ("process_session", "b"),
    ]
    assert all(run(request) for request in requests)
    assert set(recorded_fingerprints(platform.layout, "a").values()) == {session_fingerprint(incoming / "a")}
    assert night() == []
    lay_champion(platform, version="2")
    assert night() == []


def test_images_added_to_a_processed_session_are_in_its_table_once_each(
    night, run, incoming, files, platform: Platform
):
    lay_champion(platform)
    deliver(files[:2], incoming / "a")
    assert run(night()[0])
    before = read_table(platform.layout.table("particle_table", "a"))
    deliver(files[2:], incoming / "a")
    assert run(night()[0])
    after = read_table(platform.layout.table("particle_table", "a"))
    assert set(after["file"]) == {file.name for file in files}
    assert after["particle_id"].is_unique
    old = after[after["file"].isin(before["file"])]
    assert sorted(old["particle_id"]) == sorted(before["particle_id"])
    assert night() == []


def test_a_session_that_is_only_ingested_or_lost_a_table_is_processed(
    night, run, incoming, files, platform: Platform
):
    lay_champion(platform)
    deliver(files, incoming / "a")
    assert run(night()[0])
    platform.layout.table("size_distributions", "a").unlink()
    (request,) = night()
    assert request.tags[ATTEMPT_TAG] == "2"
    assert run(request)
    assert night() == []


def test_a_session_that_fails_is_tried_three_nights_then_parked_until_its_content_changes(
    night, run, incoming, files, platform: Platform
):
    deliver(files, incoming / "a")
    keys = set()
    for _ in range(3):
        (request,) = night()
        keys.add(request.run_key)
        assert not run(request)  # there is no champion
    assert len(keys) == 3
    assert night() == []
    (incoming / "a" / files[0].name).unlink()
    assert len(night()) == 1
    deliver(files, incoming / "a")
    assert night() == []


def test_a_session_outside_incoming_is_completed_from_its_own_folder(
    night, run, incoming, files, platform: Platform, tmp_path: Path
):
    deliver(files, tmp_path / "elsewhere")
    asked = dg.RunRequest(
        partition_key="elsewhere",
        job_name="ingest_session",
        tags={SESSION_FOLDER_TAG: str(tmp_path / "elsewhere")},
    )
    assert run(asked)
    lay_champion(platform)
    (request,) = night()
    assert request.tags[SESSION_FOLDER_TAG] == str(tmp_path / "elsewhere")
    assert run(request)
    assert night() == []
    platform.layout.table("particle_table", "elsewhere").unlink()
    shutil.rmtree(tmp_path / "elsewhere")
    assert night() == []


def test_a_night_asks_for_what_it_has_time_for_and_the_next_for_the_rest(
    night, run, incoming, files, monkeypatch
):
    for name in ("a", "b", "c"):
        deliver(files[:1], incoming / name)
    left = iter([False, False, True])
    with monkeypatch.context() as patched:
        patched.setattr(schedules, "TICK_SECONDS", "two sessions")
        real = schedules.stopwatch
        patched.setattr(
            schedules,
            "stopwatch",
            lambda seconds: (lambda: next(left)) if seconds == "two sessions" else real(seconds),
        )
        assert [request.partition_key for request in night()] == ["a", "b"]
    assert [request.partition_key for request in night()] == ["a", "b", "c"]


def test_a_crash_and_its_retries_are_one_attempt_and_other_content_counts_for_itself():
    stale = {"raw_tem_images": "F", "predicted_masks": None}
    crashed = [PastRun("process_session", "F", 1, FAILURE)] * 3
    other = [PastRun("process_session", "G", number, FAILURE) for number in (1, 2, 3)]
    ingest = [PastRun("ingest_session", "F", number, FAILURE) for number in (1, 2, 3)]
    assert attempt_at_night("F", stale, crashed, 2) == 2
    assert attempt_at_night("F", stale, [*other, *crashed], 2) == 2
    assert attempt_at_night("F", stale, ingest, 3) == 4
    assert attempt_at_night("F", stale, [PastRun("process_session", "F", 2, STARTED), *crashed], 9) is None
    assert attempt_at_night("F", stale, [PastRun("ingest_session", "F", 1, STARTED)], 9) == 2
    assert attempt_at_night("F", dict.fromkeys(stale, "F"), [], 9) is None


def test_a_run_that_failed_at_the_report_is_run_again_though_every_table_is_complete(
    night, run, incoming, files, platform: Platform, instance: dg.DagsterInstance
):
    lay_champion(platform)
    deliver(files, incoming / "a")
    in_the_way = Path(str(platform.layout.report("a")))
    in_the_way.mkdir(parents=True)
    (request,) = night()
    assert not run(request)
    assert set(recorded_fingerprints(platform.layout, "a").values()) == {session_fingerprint(incoming / "a")}
    record_last_failure(instance, platform)
    in_the_way.rmdir()
    (request,) = night()
    assert request.tags[ATTEMPT_TAG] == "2"
    assert run(request)
    assert in_the_way.is_file()
    assert night() == []


def record_last_failure(instance: dg.DagsterInstance, platform: Platform) -> None:
    (failed,) = instance.get_runs(dg.RunsFilter(statuses=[FAILURE]))
    record_failure(platform.layout, failed, 1, "a folder lies in the report's place")


def test_the_nightly_run_is_at_two_and_on(definitions: dg.Definitions):
    schedule = definitions.resolve_schedule_def("nightly_sessions")
    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    for name in ("new_microscope_sessions", "session_failures"):
        assert definitions.resolve_sensor_def(name).default_status == dg.DefaultSensorStatus.RUNNING


# --- failures -----------------------------------------------------------------------------------------------


def test_the_reason_of_a_failure_is_kept_in_one_line(
    night, run, incoming, files, platform: Platform, instance: dg.DagsterInstance
):
    deliver(files, incoming / "a")
    (request,) = night()
    assert not run(request)
    (failed,) = instance.get_runs(dg.RunsFilter(statuses=[FAILURE]))
    events = [entry.dagster_event for entry in instance.all_logs(failed.run_id) if entry.dagster_event]
    event = next(event for event in events if event.is_failure and not event.is_step_event)
    context = dg.build_run_status_sensor_context(
        "session_failures", event, instance, failed
    ).for_run_failure()
    session_failures(context, platform=platform)
    (row,) = read_table(platform.layout.table(FAILURE_TABLE, "a")).to_dict("records")
    assert row["session_fingerprint"] == request.tags[FINGERPRINT_TAG]
    assert row["failed_attempts"] == 1
    assert "champion" in row["reason"]
    assert "\n" not in row["reason"]


@pytest.fixture
def report(definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform):
    """Let a run of the session `a` fail and the failure sensor hear of it, as often as asked."""

    def report(will_retry: bool, times: int = 1) -> None:
        job = definitions.resolve_job_def("process_session")
        run = instance.create_run_for_job(
            job, tags={PARTITION_TAG: "a", FINGERPRINT_TAG: "F", ATTEMPT_TAG: "1"}
        )
        instance.report_run_failed(run, "the machine\nwas killed")
        instance.add_run_tags(run.run_id, {"dagster/will_retry": str(will_retry).lower()})
        failed = instance.get_run_by_id(run.run_id)
        events = [entry.dagster_event for entry in instance.all_logs(run.run_id) if entry.dagster_event]
        event = next(event for event in events if event.is_failure)
        assert failed is not None
        for _ in range(times):
            context = dg.build_run_status_sensor_context("session_failures", event, instance, failed)
            session_failures(context.for_run_failure(), platform=platform)

    return report


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A server that keeps what it is told, and answers as it is told to."""
    told, answer = [], SimpleNamespace(status=200)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answer.status)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("TEM_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/hook")
        load_settings.cache_clear()
        yield SimpleNamespace(told=told, answer=answer)
        server.shutdown()
    load_settings.cache_clear()


def test_the_webhook_is_told_once_a_failure_and_not_of_crashes_that_are_tried_again(report, webhook):
    report(will_retry=True)
    assert webhook.told == []
    report(will_retry=False, times=3)  # a daemon that is killed before it has noted the event hears it again
    assert webhook.told == [{"text": "TEM session a failed: the machine was killed"}]
    report(will_retry=False)
    assert len(webhook.told) == 2


def test_a_webhook_that_is_out_of_order_keeps_no_reason_from_being_recorded(report, webhook, platform):
    webhook.answer.status = 500
    report(will_retry=False)
    assert len(webhook.told) == 1
    assert read_table(platform.layout.table(FAILURE_TABLE, "a"))["reason"].tolist() == [
        "the machine was killed"
    ]


def test_a_run_whose_process_is_gone_is_failed_and_one_that_lives_is_not(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform
):
    def start(key: str) -> str:
        run = instance.create_run_for_job(
            definitions.resolve_job_def("process_session"), tags={PARTITION_TAG: key}
        )
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name), run_id=run.run_id
        )
        return run.run_id

    dead, living = start("dead"), start("living")
    assert fail_abandoned_runs(instance, platform.layout) == []  # they may just be starting
    time.sleep(0.1)
    with session_lock(platform.layout, "living"):
        assert fail_abandoned_runs(instance, platform.layout, older_than_s=0, grace_s=0) == [dead]
    statuses = {run.run_id: run.status for run in instance.get_runs()}
    assert statuses == {dead: FAILURE, living: STARTED}
