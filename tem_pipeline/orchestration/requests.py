"""Decides which sessions are to be run: from their folders, the tables that exist and the runs of the past.

A session is never new because its partition isn't registered yet: that is no evidence of a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from tem_pipeline.orchestration.resources import PARTITION_TAG, SESSION_FOLDER_TAG
from tem_pipeline.storage import Layout, table_fingerprint

FINGERPRINT_TAG = "tem_pipeline/session_fingerprint"
ATTEMPT_TAG = "tem_pipeline/attempt"
SESSION_TABLES = ("raw_tem_images", "predicted_masks", "particle_table", "size_distributions")
PROCESS_JOB = "process_session"
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
        Its process died, and Dagster doesn't launch it again.
    """

    job: str
    fingerprint: str | None
    attempt: int
    status: dg.DagsterRunStatus
    crashed: bool = False


def past_runs(instance: dg.DagsterInstance, key: str) -> list[PastRun]:
    """List the latest runs of a session, the newest first."""
    runs = instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: key}), limit=_RECENT_RUNS)
    return [
        PastRun(
            run.job_name,
            run.tags.get(FINGERPRINT_TAG),
            int(run.tags.get(ATTEMPT_TAG, "0")),
            run.status,
            # A failed step is a fault of data or disk; a crash that will be retried is left to Dagster.
            run.status == dg.DagsterRunStatus.FAILURE
            and run.tags.get("dagster/failure_reason") != "STEP_FAILURE"
            and run.tags.get("dagster/will_retry") == "false",
        )
        for run in runs
    ]


def recorded_fingerprints(layout: Layout, key: str) -> dict[str, str | None]:
    """Read for each table of a session which content it was made from."""
    return {asset: table_fingerprint(layout.table(asset, key)) for asset in SESSION_TABLES}


def attempt_on_arrival(fingerprint: str, ingested: str | None, runs: Sequence[PastRun]) -> int | None:
    """Say whether a complete session is to be taken.

    Parameters
    ----------
    fingerprint : str
        Of the folder's content.
    ingested : str or None
        Fingerprint of the manifest.
    runs : sequence of PastRun
        The newest first.

    Returns
    -------
    int or None
        Number of the attempt; None when the manifest holds this content, or when the latest run was for it:
        then that run is under way, or the nightly run tries again.
    """
    latest = runs[0] if runs else None
    attempt = _next_attempt(fingerprint, runs)
    lost = latest is not None and latest.crashed and attempt <= CRASHES_ON_ARRIVAL
    if ingested == fingerprint or (latest and latest.fingerprint == fingerprint and not lost):
        return None
    return attempt


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
    tags = {
        FINGERPRINT_TAG: fingerprint,
        ATTEMPT_TAG: str(attempt),
        # A run that crashed is taken up from its start: its folder may have changed since.
        "dagster/retry_strategy": "ALL_STEPS",
    }
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
