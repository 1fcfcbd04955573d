import shutil
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from tem_pipeline.micrographs.sessions import session_fingerprint
from tem_pipeline.orchestration.resources import SESSION_FOLDER_TAG, Platform
from tem_pipeline.orchestration.session_life import schedules
from tem_pipeline.orchestration.session_life.failures import record_failure
from tem_pipeline.orchestration.session_life.requests import (
    ATTEMPT_TAG,
    FINGERPRINT_TAG,
    attempt_at_night,
)
from tem_pipeline.orchestration.session_life.schedules import build_nightly_schedule
from tem_pipeline.orchestration.session_life.sensors import build_arrival_sensor
from tem_pipeline.orchestration.session_life.session_tables import recorded_fingerprints
from tem_pipeline.settings import Settings
from tem_pipeline.storage import read_table
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


def test_images_added_to_a_processed_session_are_measured_once_each(
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


def test_a_session_that_lost_a_table_is_processed_again(night, run, incoming, files, platform: Platform):
    lay_champion(platform)
    deliver(files, incoming / "a")
    assert run(night()[0])
    platform.layout.table("size_distributions", "a").unlink()
    (request,) = night()
    assert request.tags[ATTEMPT_TAG] == "2"
    assert run(request)
    assert night() == []


def test_a_failing_session_is_tried_three_nights_until_it_changes(
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


def test_a_session_outside_incoming_is_processed_from_its_own_folder(
    night, run, incoming, files, platform: Platform, tmp_path: Path
):
    deliver(files, tmp_path / "elsewhere")
    asked = dg.RunRequest(
        partition_key="elsewhere",
        job_name="ingest_session",
        tags={SESSION_FOLDER_TAG: str(tmp_path / "elsewhere")},
    )
    assert run(asked, named=[tmp_path / "elsewhere"])
    lay_champion(platform)
    (request,) = night()
    assert request.tags[SESSION_FOLDER_TAG] == str(tmp_path / "elsewhere")
    assert run(request)
    assert night() == []
    platform.layout.table("particle_table", "elsewhere").unlink()
    shutil.rmtree(tmp_path / "elsewhere")
    assert night() == []


def test_a_night_without_time_for_all_leaves_the_rest_to_the_next(night, run, incoming, files, monkeypatch):
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


def test_a_crash_and_its_retries_are_one_attempt_at_one_content():
    def past_run(job: str, fingerprint: str, attempt: int, status: dg.DagsterRunStatus) -> dg.RunRecord:
        tags = {FINGERPRINT_TAG: fingerprint, ATTEMPT_TAG: str(attempt)}
        now = datetime.now(UTC)
        return dg.RunRecord(1, dg.DagsterRun(job, tags=tags, status=status), now, now)

    stale = {"raw_tem_images": "F", "predicted_masks": None}
    crashed = [past_run("process_session", "F", 1, FAILURE)] * 3
    other = [past_run("process_session", "G", number, FAILURE) for number in (1, 2, 3)]
    ingest = [past_run("ingest_session", "F", number, FAILURE) for number in (1, 2, 3)]
    assert attempt_at_night("F", stale, crashed, 2) == 2
    assert attempt_at_night("F", stale, [*other, *crashed], 2) == 2
    assert attempt_at_night("F", stale, ingest, 3) == 4
    assert attempt_at_night("F", stale, [past_run("process_session", "F", 2, STARTED), *crashed], 9) is None
    assert attempt_at_night("F", stale, [past_run("ingest_session", "F", 1, STARTED)], 9) == 2
    assert attempt_at_night("F", dict.fromkeys(stale, "F"), [], 9) is None


def test_a_run_that_failed_at_the_report_is_run_again(
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
    record_failure(platform.layout, failed, 1, "the report's place is taken by a folder")


def test_settings_give_the_time_zone_and_the_interval():
    settings = Settings(time_zone="Europe/Berlin", arrival_interval_s=7)
    assert build_nightly_schedule(settings).execution_timezone == "Europe/Berlin"
    assert build_arrival_sensor(settings).minimum_interval_seconds == 7


def test_a_crashed_run_restarts_from_its_first_step(definitions: dg.Definitions):
    for name in ("ingest_session", "process_session"):
        assert definitions.resolve_job_def(name).run_tags["dagster/retry_strategy"] == "ALL_STEPS"


def test_the_nightly_run_is_at_two_and_on(definitions: dg.Definitions):
    schedule = definitions.resolve_schedule_def("nightly_sessions")
    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    for name in ("new_microscope_sessions", "session_failures"):
        assert definitions.resolve_sensor_def(name).default_status == dg.DefaultSensorStatus.RUNNING
