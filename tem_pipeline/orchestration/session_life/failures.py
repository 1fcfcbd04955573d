"""Failed runs of sessions: the reason in one line, kept in the lake and told to whoever wants to know."""

import json
import re
import time
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
import pyarrow as pa

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.jobs import ingest_session, process_session
from tem_pipeline.orchestration.resources import PARTITION_TAG, Platform
from tem_pipeline.orchestration.session_life.requests import FINGERPRINT_TAG, failed_attempts, past_runs
from tem_pipeline.orchestration.session_life.states import FAILURE_TABLE, read_failure
from tem_pipeline.storage import SESSION_KEY, Layout, session_lock, write_table
from tem_pipeline.tables import FAILURE_SCHEMA

SESSION_JOBS = (ingest_session.name, process_session.name)
LONGEST_REASON = 500
_WILL_RETRY_TAG = "dagster/will_retry"


def failure_reason(events: Sequence[dg.DagsterEvent]) -> str:
    """Say in one line why a run failed: what our own error says, else the innermost cause.

    It is the first failure that counts; those after it are mostly its consequences.

    Parameters
    ----------
    events : sequence of DagsterEvent
        Of the run; those that are no failures are passed over.
    """
    failures = [event for event in events if event.is_failure or event.is_step_failure]
    for event in failures:
        error = getattr(event.event_specific_data, "error", None)
        if error is not None:
            while error.cause is not None and error.cls_name != UserError.__name__:
                error = error.cause
            # Our own errors are written for people: their class says nothing more.
            reason = re.sub(r"^tem_pipeline\.[\w.]+: ", "", error.message.strip())
            return " ".join(reason.split())[:LONGEST_REASON]
    messages = [event.message for event in failures if event.message]
    return (
        " ".join(messages[-1].split())[:LONGEST_REASON]
        if messages
        else "the run failed; see it in Dagster's UI"
    )


def record_failure(layout: Layout, run: dg.DagsterRun, attempts: int, reason: str) -> None:
    """Write why the latest run of a session failed."""
    key = run.tags[PARTITION_TAG]
    row = {
        "session_id": key,
        "session_fingerprint": run.tags.get(FINGERPRINT_TAG),
        "job": run.job_name,
        "run_id": run.run_id,
        "failed_at": datetime.now(UTC),
        "failed_attempts": attempts,
        "reason": reason,
    }
    write_table(layout.table(FAILURE_TABLE, key), pa.Table.from_pylist([row], FAILURE_SCHEMA))


def notify(url: str, session: str, reason: str) -> str | None:
    """Post a failure to a webhook as ``{"text": …}``, which chat programs show.

    Returns
    -------
    str or None
        Why it couldn't be posted: that must never be another failure.
    """
    body = json.dumps({"text": f"TEM session {session} failed: {reason}"}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5):
            return None
    except (OSError, ValueError) as error:
        return f"the webhook could not be told: {error}"


@dg.run_failure_sensor(
    name="session_failures",
    monitored_jobs=[ingest_session, process_session],
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    description="Keeps the reason of each failed run of a session; tells the webhook, where one is set.",
)
def session_failures(context: dg.RunFailureSensorContext, platform: Platform) -> None:
    """Record why a session's run failed."""
    run = context.dagster_run
    key = run.tags.get(PARTITION_TAG)
    if key is None or not SESSION_KEY.fullmatch(key):
        return
    reason = failure_reason([*context.get_step_failure_events(), context.failure_event])
    fingerprint = run.tags.get(FINGERPRINT_TAG)
    attempts = failed_attempts(fingerprint, past_runs(context.instance, key)) if fingerprint else 0
    url = platform.settings.webhook_url
    last = read_failure(platform.layout, key)
    # A tick that was cut short is made again: what it had written down it had told.
    told = last is not None and last.run_id == run.run_id
    if url and not told and run.tags.get(_WILL_RETRY_TAG) != "true":
        problem = notify(url, key, reason)
        if problem:
            context.log.error(problem)
    try:
        record_failure(platform.layout, run, attempts, reason)
    except UserError as error:
        context.log.error(str(error))


def fail_abandoned_runs(
    instance: dg.DagsterInstance, layout: Layout, older_than_s: float = 120, grace_s: float = 2
) -> list[str]:
    """Mark runs whose process is gone as failed, so that they free their slot and are tried again.

    A run holds its session's lock until its process dies. Where nobody holds the lock, a run that was started
    some time ago is dead: killed together with the code server that would have told, by a power cut or by
    the kernel. Launchers that look after their runs themselves are left to do so.

    Returns
    -------
    list of str
        Identifiers of those runs.
    """
    if instance.run_launcher.supports_check_run_worker_health:
        return []
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    abandoned = []
    for record in instance.get_run_records(started):
        run, key = record.dagster_run, record.dagster_run.tags.get(PARTITION_TAG, "")
        if run.job_name not in SESSION_JOBS or not SESSION_KEY.fullmatch(key):
            continue
        if record.start_time is None or time.time() - record.start_time < older_than_s:
            continue
        try:
            with session_lock(layout, key, timeout_s=0):
                pass
        except UserError:
            continue
        time.sleep(grace_s)  # a run that has just freed its lock says next that it is done
        now = instance.get_run_by_id(run.run_id)
        if now is not None and now.status == dg.DagsterRunStatus.STARTED:
            instance.report_run_failed(now, "the run's process is gone: it was killed, or the machine was")
            abandoned.append(run.run_id)
    return abandoned
