"""Decides which sessions are to be run: from their folders, the tables that exist and the runs of the past.

A session is never new because its partition isn't registered yet: that is no evidence of a run.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from tem_pipeline.orchestration.resources import PARTITION_TAG, SESSION_FOLDER_TAG
from tem_pipeline.storage import Layout, table_fingerprint

FINGERPRINT_TAG = "tem_pipeline/session_fingerprint"
ATTEMPT_TAG = "tem_pipeline/attempt"
SESSION_TABLES = ("raw_tem_images", "predicted_masks", "particle_table", "size_distributions")
PROCESS_JOB = "process_session"
# A run that crashed is taken up from its start: its folder may have changed since.
RESTART_TAGS = {"dagster/retry_strategy": "ALL_STEPS"}
_RECENT_RUNS = 50
CRASHES_ON_ARRIVAL = 3


@dataclass(frozen=True)
class PastRun:
    """A run of a session.

    Attributes
    ----------
    job : str
    fingerprint : str or None
        Content that it was asked for; None where a person launched it.
    attempt : int
    status : DagsterRunStatus
    crashed : bool
        Its process died.
    lost : bool
        It crashed, and Dagster didn't launch it again.
    """

    job: str
    fingerprint: str | None
    attempt: int
    status: dg.DagsterRunStatus
    crashed: bool = False
    lost: bool = False


def past_runs(instance: dg.DagsterInstance, key: str, retried_within_s: float = 120) -> list[PastRun]:
    """List the latest runs of a session, the newest first.

    Parameters
    ----------
    instance : DagsterInstance
    key : str
        The session's key.
    retried_within_s : float
        Dagster launches a run that crashed again at once; after so long it won't any more.
    """
    records = instance.get_run_records(dg.RunsFilter(tags={PARTITION_TAG: key}), limit=_RECENT_RUNS)
    long_ago = time.time() - retried_within_s
    runs = []
    for record in records:
        run = record.dagster_run
        # A failed step is a fault of data or disk: that is left to the night.
        crashed = (
            run.status == dg.DagsterRunStatus.FAILURE
            and run.tags.get("dagster/failure_reason") != "STEP_FAILURE"
        )
        over = run.tags.get("dagster/will_retry") == "false" or (record.end_time or 0) < long_ago
        runs.append(
            PastRun(
                run.job_name,
                run.tags.get(FINGERPRINT_TAG),
                int(run.tags.get(ATTEMPT_TAG, "0")),
                run.status,
                crashed,
                crashed and over,
            )
        )
    return runs


def recorded_fingerprints(layout: Layout, key: str) -> dict[str, str | None]:
    """Read for each table of a session which content it was made from."""
    return {asset: table_fingerprint(layout.table(asset, key)) for asset in SESSION_TABLES}


def attempt_on_arrival(fingerprint: str, runs: Sequence[PastRun]) -> int | None:
    """Say whether a complete session, whose tables hold other content or none, is to be taken.

    Parameters
    ----------
    fingerprint : str
        Of the folder's content.
    runs : sequence of PastRun
        The newest first.

    Returns
    -------
    int or None
        Number of the attempt; None when a run for this content is under way, or when the latest run was for
        it: then the nightly run tries again.
    """
    if any(run.fingerprint == fingerprint and not _ended(run.status) for run in runs):
        return None
    attempt = _next_attempt(fingerprint, runs)
    if runs and runs[0].fingerprint == fingerprint:
        return attempt if runs[0].lost and attempt <= CRASHES_ON_ARRIVAL else None
    return attempt


def left_to_the_night(fingerprint: str, runs: Sequence[PastRun]) -> bool:
    """Say whether the latest run was for this content and is over for good, whatever came of it."""
    if not runs or runs[0].fingerprint != fingerprint or not _ended(runs[0].status):
        return False
    return not runs[0].crashed or (runs[0].lost and attempt_on_arrival(fingerprint, runs) is None)


def attempt_at_night(
    fingerprint: str, recorded: Mapping[str, str | None], runs: Sequence[PastRun], limit: int
) -> int | None:
    """Say whether a complete session is to be processed.

    Parameters
    ----------
    fingerprint : str
        Of the folder's content.
    recorded : mapping
        Fingerprint by table.
    runs : sequence of PastRun
        The newest first.
    limit : int
        Attempts at the same content that may fail.

    Returns
    -------
    int or None
        Number of the attempt; None when every table holds this content and the latest run hasn't failed, a
        run is under way, or the session is parked.
    """
    latest = next((run for run in runs if run.job == PROCESS_JOB), None)
    # The report stands in no table: a run that failed at it leaves every table complete.
    failed = latest is not None and latest.status == dg.DagsterRunStatus.FAILURE
    if not failed and all(found == fingerprint for found in recorded.values()):
        return None
    if any(
        run.fingerprint == fingerprint and run.job == PROCESS_JOB and not _ended(run.status) for run in runs
    ):
        return None
    if failed_attempts(fingerprint, runs) >= limit:
        return None
    return _next_attempt(fingerprint, runs)


def failed_attempts(fingerprint: str, runs: Sequence[PastRun]) -> int:
    """Count how often processing this content failed; a crash and its retries are one attempt."""
    return len(
        {
            run.attempt
            for run in runs
            if run.fingerprint == fingerprint
            and run.job == PROCESS_JOB
            and run.status == dg.DagsterRunStatus.FAILURE
        }
    )


def run_request(
    job: str, key: str, fingerprint: str, attempt: int, folder: str | None = None
) -> dg.RunRequest:
    """Ask for a run of a session.

    Parameters
    ----------
    job : str
    key : str
        The session's key.
    fingerprint : str
        Of its content.
    attempt : int
    folder : str, optional
        Where the session lies outside incoming/.
    """
    tags = {FINGERPRINT_TAG: fingerprint, ATTEMPT_TAG: str(attempt), **RESTART_TAGS}
    if folder is not None:
        tags[SESSION_FOLDER_TAG] = folder
    return dg.RunRequest(run_key=f"{key}:{fingerprint}:{attempt}", job_name=job, partition_key=key, tags=tags)


def _next_attempt(fingerprint: str, runs: Sequence[PastRun]) -> int:
    return 1 + max((run.attempt for run in runs if run.fingerprint == fingerprint), default=0)


def _ended(status: dg.DagsterRunStatus) -> bool:
    return status in (
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    )
