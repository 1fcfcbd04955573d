"""Finds runs whose process is dead while Dagster still counts them as running."""

import time

import dagster as dg

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.jobs import ingest_session, process_session
from tem_pipeline.orchestration.resources import PARTITION_TAG
from tem_pipeline.storage import SESSION_KEY, Layout, is_local, session_lock

_SESSION_JOBS = (ingest_session.name, process_session.name)


def fail_abandoned_runs(
    instance: dg.DagsterInstance, layout: Layout, older_than_s: float = 120, grace_s: float = 2
) -> list[str]:
    """Mark runs whose process is dead as failed, so that they free their slot and are tried again.

    A run holds its session's lock until its process ends, so a run that has started and whose lock is free is
    dead. The launcher's report on its workers isn't enough: Dagster's default launcher gives none, and
    Celery's calls a run healthy after its worker has died.

    Parameters
    ----------
    instance : DagsterInstance
    layout : Layout
    older_than_s : float
        A younger run may not have taken its lock yet.
    grace_s : float
        A run that has just freed its lock gets this time to report its end.

    Returns
    -------
    list of str
        Identifiers of the runs that were marked.
    """
    # The lock of a data root on S3 is a file of this machine: it says nothing of runs on others.
    if not is_local(layout.data_root) and instance.run_launcher.supports_check_run_worker_health:
        return []
    abandoned = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        run, key = record.dagster_run, record.dagster_run.tags.get(PARTITION_TAG, "")
        if run.job_name not in _SESSION_JOBS or not SESSION_KEY.fullmatch(key):
            continue
        if record.start_time is None or time.time() - record.start_time < older_than_s:
            continue
        if not _is_free(layout, key):
            continue
        time.sleep(grace_s)
        now = instance.get_run_by_id(run.run_id)
        if now is not None and now.status == dg.DagsterRunStatus.STARTED:
            instance.report_run_failed(now, "the run's process is gone: it was killed, or the machine was")
            abandoned.append(run.run_id)
    return abandoned


def _is_free(layout: Layout, key: str) -> bool:
    try:
        with session_lock(layout, key, timeout_s=0):
            return True
    except UserError:
        return False
