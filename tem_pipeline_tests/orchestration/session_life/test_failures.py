"""Failed runs are recorded and told; runs whose process is dead are found."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import dagster as dg
import pytest

from tem_pipeline.orchestration.resources import PARTITION_TAG, Platform
from tem_pipeline.orchestration.session_life.abandoned_runs import fail_abandoned_runs
from tem_pipeline.orchestration.session_life.failures import session_failures
from tem_pipeline.orchestration.session_life.requests import ATTEMPT_TAG, FINGERPRINT_TAG
from tem_pipeline.orchestration.session_life.session_tables import FAILURE_TABLE
from tem_pipeline.storage import read_table, session_lock
from tem_pipeline_tests.orchestration.conftest import deliver

pytestmark = pytest.mark.usefixtures("settle_at_once")
FAILURE, STARTED = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED


def test_the_reason_of_a_failure_is_recorded_in_one_line(
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
    """Record a failed run of the session `a` and show it to the failure sensor, once or several times."""

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
    """A server that records what it is told, and answers with the status that the test sets."""
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
        yield SimpleNamespace(told=told, answer=answer)
        server.shutdown()


def test_the_webhook_hears_once_of_each_failure_that_is_not_retried(report, webhook):
    report(will_retry=True)
    assert webhook.told == []
    report(will_retry=False, times=3)  # as if the daemon was killed before it noted the event
    assert webhook.told == [{"text": "TEM session a failed: the machine was killed"}]
    report(will_retry=False)
    assert len(webhook.told) == 2


def test_the_reason_is_recorded_even_if_the_webhook_fails(report, webhook, platform):
    webhook.answer.status = 500
    report(will_retry=False)
    assert len(webhook.told) == 1
    assert read_table(platform.layout.table(FAILURE_TABLE, "a"))["reason"].tolist() == [
        "the machine was killed"
    ]


@pytest.mark.parametrize("launcher_reports_health", [False, True])
def test_a_run_whose_lock_is_free_is_failed_and_no_other(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    platform: Platform,
    monkeypatch,
    launcher_reports_health: bool,
):
    """Whatever the launcher says of its workers: Celery's calls a run healthy after its worker has died."""
    health = property(lambda launcher: launcher_reports_health)
    monkeypatch.setattr(type(instance.run_launcher), "supports_check_run_worker_health", health)

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
