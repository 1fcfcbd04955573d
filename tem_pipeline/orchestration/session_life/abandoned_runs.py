"""Finds runs whose process is dead while Dagster still counts them as running."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import dagster as dg

from tem_pipeline.orchestration.jobs import ingest_session, process_session, train_models
from tem_pipeline.orchestration.resources import PARTITION_TAG
from tem_pipeline.storage import SESSION_KEY, Layout, is_free, is_local, session_lock, training_lock

_SESSION_JOBS = (ingest_session.name, process_session.name)


def fail_abandoned_runs(
    instance: dg.DagsterInstance, layout: Layout, older_than_s: float = 120, grace_s: float = 2
) -> list[str]:
    """Mark runs whose process is dead as failed, so that they free their slot and are tried again.

    A run holds its session's lock, or that of the training tables, until its process ends. So a run that has
    started and whose lock is free is dead. The launcher's report on its workers isn't enough: Dagster's
    default launcher gives none, and Celery's calls a run healthy after its worker has died.

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
        run = record.dagster_run
        lock = _lock_of(run, layout)
        if lock is None or record.start_time is None or time.time() - record.start_time < older_than_s:
            continue
        if not is_free(lock()):
            continue
        time.sleep(grace_s)
        now = instance.get_run_by_id(run.run_id)
        # A run that waited for the lock may have taken it in the meantime.
        if now is not None and now.status == dg.DagsterRunStatus.STARTED and is_free(lock()):
            instance.report_run_failed(now, "the run's process is gone: it was killed, or the machine was")
            abandoned.append(run.run_id)
    return abandoned


def _lock_of(run: dg.DagsterRun, layout: Layout) -> Callable[[], AbstractContextManager[None]] | None:
    """Give the lock that a run holds from its first step to its last, None if it holds none."""
    key = run.tags.get(PARTITION_TAG, "")
    if run.job_name == train_models.name:
        return partial(training_lock, layout, timeout_s=0)
    if run.job_name in _SESSION_JOBS and SESSION_KEY.fullmatch(key):
        return partial(session_lock, layout, key, timeout_s=0)
    return None
