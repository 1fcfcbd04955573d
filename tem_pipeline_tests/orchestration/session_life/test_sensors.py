import os
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from tem_pipeline.micrographs.sessions import session_fingerprint, session_key
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import PARTITION_TAG, Platform
from tem_pipeline.orchestration.session_life import observations, sensors
from tem_pipeline.orchestration.session_life.folders import take_snapshot
from tem_pipeline.orchestration.session_life.observations import ObservationLog, observe
from tem_pipeline.orchestration.session_life.requests import ATTEMPT_TAG, FINGERPRINT_TAG
from tem_pipeline.orchestration.session_life.sensors import build_arrival_sensor
from tem_pipeline.settings import load_settings
from tem_pipeline.storage import read_table
from tem_pipeline_tests.orchestration.conftest import deliver, without_capabilities

Tick = Callable[[], list[dg.RunRequest]]

pytestmark = pytest.mark.usefixtures("settle_at_once")


@pytest.fixture
def evaluate(instance: dg.DagsterInstance, platform: Platform):
    def evaluate():
        sensor = build_arrival_sensor(load_settings())
        return sensor(dg.build_sensor_context(instance=instance), platform=platform)

    return evaluate


@pytest.fixture
def tick(evaluate) -> Tick:
    def tick() -> list[dg.RunRequest]:
        result = evaluate()
        return list(result.run_requests or []) if isinstance(result, dg.SensorResult) else []

    return tick


def test_a_session_is_asked_for_until_it_has_run_and_never_again(tick, run, incoming, files, platform):
    deliver(files, incoming / "Pt C 1")
    first = tick()
    key = session_key("Pt C 1")
    assert [(request.job_name, request.partition_key) for request in first] == [("ingest_session", key)]
    assert key in str(first[0].run_key)
    assert session_fingerprint(incoming / "Pt C 1") in str(first[0].run_key)
    # The daemon may have been killed since, so the same request is made again, with the same key.
    assert [request.run_key for request in tick()] == [first[0].run_key]
    assert run(first[0])
    assert tick() == []
    assert set(read_table(platform.layout.table("raw_tem_images", key))["session_name"]) == {"Pt C 1"}


def test_a_registered_partition_without_a_run_is_asked_for(tick, incoming, files, instance):
    instance.add_dynamic_partitions(str(SESSIONS.name), ["a"])
    deliver(files, incoming / "a")
    assert [request.partition_key for request in tick()] == ["a"]


def test_new_partitions_are_registered_with_the_request(evaluate, incoming, files):
    deliver(files, incoming / "a")
    result = evaluate()
    assert result.dynamic_partitions_requests[0].partition_keys == ["a"]


def test_added_images_are_asked_for_and_touched_files_are_not(tick, run, incoming, files, platform):
    deliver(files[:2], incoming / "a")
    assert run(tick()[0])
    os.utime(incoming / "a" / files[0].name)
    assert tick() == []
    deliver(files[2:], incoming / "a")
    (again,) = tick()
    assert again.tags[FINGERPRINT_TAG] == session_fingerprint(incoming / "a")
    assert run(again)
    assert tick() == []
    manifest = read_table(platform.layout.table("raw_tem_images", "a"))
    assert sorted(manifest["file"]) == sorted(file.name for file in files)


def test_content_that_comes_back_gets_a_new_run_key(tick, run, incoming, files):
    deliver(files[:2], incoming / "a")
    keys = []
    for change in (
        lambda: None,
        lambda: deliver(files[2:], incoming / "a"),
        lambda: (incoming / "a" / files[2].name).unlink(),
    ):
        change()
        (request,) = tick()
        keys.append(request.run_key)
        assert run(request)
        assert tick() == []
    assert len(set(keys)) == 3


def test_a_session_that_failed_is_left_to_the_night(tick, run, incoming, files):
    deliver(files, incoming / "a")
    (incoming / "a/session.yaml").write_text("mode: wrong")
    assert not run(tick()[0])
    assert tick() == []
    (incoming / "a/session.yaml").write_text("mode: haadf")
    assert run(tick()[0])


def test_a_lost_or_broken_log_does_no_harm(tick, run, incoming, files, platform):
    deliver(files, incoming / "a")
    assert run(tick()[0])
    assert tick() == []
    for content in (b"{", b"[]", b'{"version": 1}', b"\xff"):
        Path(str(platform.layout.state / "arrivals.json")).write_bytes(content)
        assert tick() == []


def test_a_failed_listing_skips_the_tick_and_forgets_nothing(evaluate, tick, incoming, files, platform):
    deliver(files, incoming / "a")
    tick()
    log = Path(str(platform.layout.state / "arrivals.json")).read_bytes()
    incoming.rename(incoming.with_name("gone"))
    skipped = evaluate()
    assert isinstance(skipped, dg.SkipReason)
    assert "cannot be listed" in str(skipped.skip_message)
    assert Path(str(platform.layout.state / "arrivals.json")).read_bytes() == log


def test_faulty_folders_do_not_hold_up_other_sessions(evaluate, tick, incoming, files, tmp_path):
    deliver(files, incoming / "good")
    deliver(files, tmp_path / "outside")
    (incoming / "link").symlink_to(tmp_path / "outside")
    (incoming / "empty").mkdir()
    (incoming / "README.md").write_text("not a session")
    assert [request.partition_key for request in tick()] == ["good"]


def test_an_arriving_session_waits(tick, incoming, files, monkeypatch):
    monkeypatch.setenv("TEM_SETTLING_S", "1000")
    deliver(files, incoming / "a")
    assert tick() == []
    assert tick() == []
    (incoming / "a/.complete").touch()
    assert len(tick()) == 1


def test_many_folders_are_asked_for_in_small_steps(tick, incoming, files, instance, monkeypatch):
    monkeypatch.setattr(sensors, "OBSERVING_SECONDS", 0.0)
    monkeypatch.setattr(sensors, "REQUESTS_PER_TICK", 2)
    for number in range(7):
        deliver(files, incoming / f"s{number}")
    seen = set()
    for _ in range(40):
        requests = tick()
        assert len(requests) <= 2
        seen |= {str(request.partition_key) for request in requests}
    assert seen == {f"s{number}" for number in range(7)}


def test_a_setting_processes_sessions_on_arrival(tick, incoming, files, monkeypatch):
    monkeypatch.setenv("TEM_PROCESS_ON_ARRIVAL", "true")
    deliver(files, incoming / "a")
    assert [request.job_name for request in tick()] == ["process_session"]


def test_a_run_under_way_is_not_doubled(tick, incoming, files, instance, definitions):
    deliver(files, incoming / "a")
    (request,) = tick()
    instance.add_dynamic_partitions(str(SESSIONS.name), ["a"])
    instance.create_run_for_job(
        definitions.resolve_job_def("ingest_session"), tags={**request.tags, PARTITION_TAG: "a"}
    )
    assert tick() == []


# --- runs that crashed --------------------------------------------------------------------------------------


@pytest.fixture
def crash(instance: dg.DagsterInstance, definitions: dg.Definitions):
    """Record the requested run as crashed, as if its process had been killed."""

    def crash(request: dg.RunRequest, **tags: str) -> None:
        job = definitions.resolve_job_def(str(request.job_name))
        run = instance.create_run_for_job(
            job, tags={**request.tags, PARTITION_TAG: str(request.partition_key)}
        )
        instance.report_run_failed(run, "killed")
        instance.add_run_tags(run.run_id, tags)

    return crash


def test_a_crashed_run_that_dagster_gives_up_is_asked_for_three_times(tick, crash, incoming, files):
    deliver(files, incoming / "a")
    keys = set()
    for _ in range(3):
        (request,) = tick()
        keys.add(request.run_key)
        crash(request, **{"dagster/will_retry": "false"})
    assert len(keys) == 3
    assert tick() == []
    deliver(files[:1], incoming / "b")
    assert [request.partition_key for request in tick()] == ["b"]


def test_a_crash_is_left_to_dagster_while_it_may_retry(tick, crash, incoming, files, monkeypatch):
    deliver(files, incoming / "a")
    crash(tick()[0], **{"dagster/will_retry": "true"})
    assert tick() == []
    # The daemon may have been killed before it retried.
    monkeypatch.setenv("TEM_ABANDONED_AFTER_S", "1")
    time.sleep(1.1)
    assert [request.tags[ATTEMPT_TAG] for request in tick()] == ["2"]


def test_a_run_under_way_is_not_doubled_after_a_run_of_other_content(
    tick, crash, incoming, files, instance, definitions
):
    deliver(files[:1], incoming / "a")
    (old,) = tick()
    deliver(files, incoming / "a")
    (new,) = tick()
    instance.create_run_for_job(
        definitions.resolve_job_def("ingest_session"), tags={**new.tags, PARTITION_TAG: "a"}
    )
    crash(old, **{"dagster/will_retry": "true"})
    assert tick() == []


def test_a_full_run_that_crashed_after_its_manifest_is_asked_for_again(
    tick, run, crash, incoming, files, monkeypatch
):
    monkeypatch.setenv("TEM_PROCESS_ON_ARRIVAL", "true")
    deliver(files, incoming / "a")
    (request,) = tick()
    assert run(dg.RunRequest(partition_key="a", job_name="ingest_session"))
    crash(request, **{"dagster/will_retry": "false"})
    assert [again.job_name for again in tick()] == ["process_session"]


# --- full scans ---------------------------------------------------------------------------------------------


def test_full_scans_of_finished_sessions_take_turns(tick, run, incoming, files, monkeypatch):
    for name in ("a", "b", "c"):
        deliver(files[:1], incoming / name)
    for request in tick():
        assert run(request)
    assert tick() == []
    monkeypatch.setattr(observations, "FULL_SCANS_PER_TICK", 1)
    later = time.time() + observations.FULL_SCAN_INTERVAL_S + 1
    monkeypatch.setattr(sensors.time, "time", lambda: later)
    looks: list[str] = []
    monkeypatch.setattr(
        observations, "take_snapshot", lambda folder: looks.append(folder.name) or take_snapshot(folder)
    )
    for expected in (["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c"]):
        assert tick() == []
        assert looks == expected


def test_a_finished_session_is_scanned_after_a_change_or_a_long_time(tick, run, incoming, files, monkeypatch):
    deliver(files[:2], incoming / "a")
    (incoming / "a/session.yaml").write_text("mode: haadf")
    assert run(tick()[0])
    assert tick() == []

    def is_looked_at() -> bool:
        looks: list[object] = []
        with monkeypatch.context() as patched:
            patched.setattr(
                observations, "take_snapshot", lambda folder: looks.append(folder) or take_snapshot(folder)
            )
            tick()
        return bool(looks)

    assert not is_looked_at()
    (incoming / "a/session.yaml").write_text("mode: bright_field")  # in place, as some editors do
    assert is_looked_at()
    assert run(tick()[0])
    assert tick() == []
    with (incoming / "a" / files[0].name).open("ab") as grown:
        grown.write(b"more")
    assert tick() == []
    monkeypatch.setattr(
        sensors.time, "time", lambda now=time.time: now() + observations.FULL_SCAN_INTERVAL_S + 1
    )
    assert len(tick()) == 1


def test_an_unreadable_folder_has_a_fault_and_others_are_processed(incoming, files):
    for name in ("good", "locked"):
        deliver(files, incoming / name)
    (incoming / "locked").chmod(0)
    with without_capabilities():
        found = observe(incoming, ObservationLog(), time.time(), 0, lambda: False)
    (incoming / "locked").chmod(0o755)
    assert {arrival.folder.name: bool(arrival.fault) for arrival in found} == {"good": False, "locked": True}
    fault = next(str(arrival.fault) for arrival in found if arrival.fault)
    assert "cannot be listed (Permission denied)" in fault
