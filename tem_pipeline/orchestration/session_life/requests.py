"""Decides which sessions need a run: from their content, their tables and their past runs.

The list of partitions is no evidence: Dagster registers a partition before it submits the run, and may be
killed in between.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Literal

import dagster as dg

from tem_pipeline.orchestration.jobs import process_session
from tem_pipeline.orchestration.resources import PARTITION_TAG, SESSION_FOLDER_TAG

FINGERPRINT_TAG = "tem_pipeline/session_fingerprint"
# Dagster never starts a second run for a run key, even after a failure, so each attempt needs a new key.
# Runs can't simply be counted: people delete them from Dagster's history.
ATTEMPT_TAG = "tem_pipeline/attempt"
REQUESTS_AFTER_CRASHES = 3
_RECENT_RUNS = 50


def past_runs(instance: dg.DagsterInstance, key: str) -> Sequence[dg.RunRecord]:
    """List the latest runs of a session, the newest first."""
    return instance.get_run_records(dg.RunsFilter(tags={PARTITION_TAG: key}), limit=_RECENT_RUNS)


def attempt_on_arrival(
    fingerprint: str, runs: Sequence[dg.RunRecord], retried_within_s: float
) -> int | Literal["wait", "leave it to the night"]:
    """Decide about a complete session whose tables don't hold its content.

    Dagster's own retries aren't enough: they end after `max_retries`, and one is lost if the daemon is killed
    before it has made it.

    Parameters
    ----------
    fingerprint : str
        Of the folder's content.
    runs : sequence of RunRecord
        The newest first.
    retried_within_s : float
        Dagster retries a crashed run at once or, after this time, never.

    Returns
    -------
    int or str
        Number of the attempt to ask for; "wait" while a run is under way or may be retried by Dagster;
        "leave it to the night" if the run for this content has ended for good.
    """
    if any(_is_for(fingerprint, record) and not record.dagster_run.is_finished for record in runs):
        return "wait"
    attempt = _next_attempt(fingerprint, runs)
    if not runs or not _is_for(fingerprint, runs[0]):
        return attempt
    latest = runs[0].dagster_run
    # A failed step means a fault of data, disk or model, which takes longer to go away.
    if latest.status != dg.DagsterRunStatus.FAILURE or _tag(latest, "failure_reason") == "STEP_FAILURE":
        return "leave it to the night"
    ended_long_ago = (runs[0].end_time or 0) < time.time() - retried_within_s
    if _tag(latest, "will_retry") != "false" and not ended_long_ago:
        return "wait"
    return attempt if attempt <= REQUESTS_AFTER_CRASHES else "leave it to the night"


def attempt_at_night(
    fingerprint: str, recorded: Mapping[str, str | None], runs: Sequence[dg.RunRecord], limit: int
) -> int | None:
    """Decide whether a complete session is processed tonight.

    Parameters
    ----------
    fingerprint : str
        Of the folder's content.
    recorded : mapping
        The content's fingerprint by table.
    runs : sequence of RunRecord
        The newest first.
    limit : int
        Number of attempts at the same content that may fail.

    Returns
    -------
    int or None
        Number of the attempt to ask for. None if the session is processed, is being processed or is parked.
    """
    processing = [record for record in runs if record.dagster_run.job_name == process_session.name]
    # No table tells whether the report was written: a run that failed at it leaves every table complete.
    failed = bool(processing) and _has_failed(processing[0])
    if not failed and all(found == fingerprint for found in recorded.values()):
        return None
    if any(_is_for(fingerprint, record) and not record.dagster_run.is_finished for record in processing):
        return None
    if failed_attempts(fingerprint, runs) >= limit:
        return None
    return _next_attempt(fingerprint, runs)


def failed_attempts(fingerprint: str, runs: Sequence[dg.RunRecord]) -> int:
    """Count how often processing this content failed. A crash and its retries are one attempt."""
    return len(
        {
            _attempt(record)
            for record in runs
            if record.dagster_run.job_name == process_session.name
            and _is_for(fingerprint, record)
            and _has_failed(record)
        }
    )


def run_request(
    job: str, key: str, fingerprint: str, attempt: int, folder: str | None = None
) -> dg.RunRequest:
    """Ask for a run of a session.

    Parameters
    ----------
    job, key, fingerprint : str
        The job's name, the session's key, and the fingerprint of its content.
    attempt : int
    folder : str, optional
        The session's folder, if it is outside incoming/.
    """
    tags = {FINGERPRINT_TAG: fingerprint, ATTEMPT_TAG: str(attempt)}
    if folder is not None:
        tags[SESSION_FOLDER_TAG] = folder
    return dg.RunRequest(run_key=f"{key}:{fingerprint}:{attempt}", job_name=job, partition_key=key, tags=tags)


def _is_for(fingerprint: str, record: dg.RunRecord) -> bool:
    return record.dagster_run.tags.get(FINGERPRINT_TAG) == fingerprint


def _has_failed(record: dg.RunRecord) -> bool:
    return record.dagster_run.status == dg.DagsterRunStatus.FAILURE


def _attempt(record: dg.RunRecord) -> int:
    return int(record.dagster_run.tags.get(ATTEMPT_TAG, "0"))


def _next_attempt(fingerprint: str, runs: Sequence[dg.RunRecord]) -> int:
    return 1 + max((_attempt(record) for record in runs if _is_for(fingerprint, record)), default=0)


def _tag(run: dg.DagsterRun, name: str) -> str | None:
    return run.tags.get(f"dagster/{name}")
