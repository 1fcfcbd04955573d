"""Records why the latest run of a session failed, in one line, and tells a webhook."""

import json
import re
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.jobs import ingest_session, process_session
from tem_pipeline.orchestration.resources import PARTITION_TAG, Platform
from tem_pipeline.orchestration.session_life.requests import FINGERPRINT_TAG, failed_attempts, past_runs
from tem_pipeline.orchestration.session_life.session_tables import FAILURE_TABLE, read_failure
from tem_pipeline.storage import SESSION_KEY, Layout, write_table
from tem_pipeline.tables import FAILURE_SCHEMA, conform
from tem_pipeline.text import one_line, redacted

LONGEST_REASON = 500
_WILL_RETRY_TAG = "dagster/will_retry"


def failure_reason(events: Sequence[dg.DagsterEvent]) -> str:
    """Say in one line why a run failed: the message of our own error, else of the innermost cause.

    The first failure counts; later ones are mostly its consequences.

    Parameters
    ----------
    events : sequence of DagsterEvent
        Of the run. Those that are no failures are ignored.
    """
    failures = [event for event in events if event.is_failure or event.is_step_failure]
    for event in failures:
        error = getattr(event.event_specific_data, "error", None)
        if error is not None:
            while error.cause is not None and error.cls_name != UserError.__name__:
                error = error.cause
            # Our own errors are written for people, who don't need the name of the class.
            return _one_line(re.sub(r"^tem_pipeline\.[\w.]+: ", "", error.message.strip()))
    messages = [event.message for event in failures if event.message]
    return _one_line(messages[-1]) if messages else "the run failed; see it in Dagster's UI"


def _one_line(text: str) -> str:
    return redacted(one_line(text))[:LONGEST_REASON]


def record_failure(layout: Layout, run: dg.DagsterRun, attempts: int, reason: str) -> None:
    """Write why the latest run of a session failed.

    Parameters
    ----------
    layout : Layout
    run : DagsterRun
        With the session's key in its partition tag.
    attempts : int
        Number of failed attempts with the same content; 0 if a person launched the run.
    reason : str
        In one line.
    """
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
    write_table(layout.table(FAILURE_TABLE, key), conform([row], FAILURE_SCHEMA))


def notify(url: str, session: str, reason: str) -> str | None:
    """Post a failure to a webhook as ``{"text": …}``, which chat programs show.

    Parameters
    ----------
    url : str
        Address of the webhook.
    session : str
        Key of the session.
    reason : str

    Returns
    -------
    str or None
        Why it couldn't be posted. This must not make the sensor fail.
    """
    body = json.dumps({"text": f"TEM session {session} failed: {reason}"}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5):
            return None
    except (OSError, ValueError) as error:
        return redacted(f"the webhook did not accept the message: {error}")


@dg.run_failure_sensor(
    name="session_failures",
    monitored_jobs=[ingest_session, process_session],
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Records the reason of each failed run of a session, and tells the webhook if one is set.",
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
    # Dagster repeats a tick that was cut short. The webhook is told before the failure is recorded.
    told = last is not None and last.run_id == run.run_id
    if url and not told and run.tags.get(_WILL_RETRY_TAG) != "true":
        problem = notify(url, key, reason)
        if problem:
            context.log.error(problem)
    try:
        record_failure(platform.layout, run, attempts, reason)
    except UserError as error:
        context.log.error(str(error))
