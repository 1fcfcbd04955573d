"""Deletes old runs and old pages from Dagster's records. The tables of the lake are never touched."""

from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from sqlalchemy import select

from tem_pipeline.orchestration.jobs import process_session
from tem_pipeline.orchestration.resources import PARTITION_TAG, Platform
from tem_pipeline.orchestration.session_life.overview import STATES_TABLE
from tem_pipeline.orchestration.session_life.tick_time import stopwatch

TICK_SECONDS = 30.0
_RUNS_AT_ONCE = 200
_FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


def delete_old_runs(
    instance: dg.DagsterInstance, before: datetime, cursor: str | None = None, seconds: float = TICK_SECONDS
) -> tuple[int, str | None]:
    """Delete finished runs, with their events, that no page and no decision needs any more.

    A run is kept if it made the latest version of an asset or of a session's part of it: without it Dagster
    would call that version missing. A failed run of a session is kept until the session is processed, because
    failed nights are counted.

    Parameters
    ----------
    instance : DagsterInstance
    before : datetime
        Runs that were created later are kept.
    cursor : str, optional
        The run to continue after, as the former call gave it.
    seconds : float
        Time that the call may take, about.

    Returns
    -------
    int
        Number of deleted runs.
    str or None
        The run that the next call continues after; None if all were looked at.
    """
    out_of_time, deleted = stopwatch(seconds), 0
    old = dg.RunsFilter(statuses=_FINISHED, created_before=before)
    while records := instance.get_run_records(old, limit=_RUNS_AT_ONCE, cursor=cursor):
        for record in records:
            run = record.dagster_run
            if not (_made_the_latest(instance, run) or _counts_as_failed_night(instance, run)):
                instance.delete_run(run.run_id)
                deleted += 1
            else:
                cursor = run.run_id
            if out_of_time():
                return deleted, cursor
    return deleted, None


def _made_the_latest(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        event = entry.dagster_event
        if event is None or event.asset_key is None:
            continue
        partitions = [event.partition] if event.partition else None
        latest = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=event.asset_key, asset_partitions=partitions), limit=1
        ).records
        if latest and latest[0].run_id == run.run_id:
            return True
    return False


def _counts_as_failed_night(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    key = run.tags.get(PARTITION_TAG)
    if run.status != dg.DagsterRunStatus.FAILURE or key is None:
        return False
    processed = dg.RunsFilter(
        job_name=process_session.name,
        statuses=[dg.DagsterRunStatus.SUCCESS],
        tags={PARTITION_TAG: key},
    )
    later = instance.get_run_records(processed, limit=1)
    failed = instance.get_run_record_by_id(run.run_id)
    return not later or failed is None or later[0].storage_id < failed.storage_id


def delete_old_pages(instance: dg.DagsterInstance, before: datetime) -> None:
    """Delete former pages of `session_states`. Sensors write them without a run; the latest page is kept."""
    storage, events = instance.event_log_storage, SqlEventLogStorageTable
    if not isinstance(storage, SqlEventLogStorage):
        return
    key = dg.AssetKey(STATES_TABLE).to_string()
    # SQLite keeps these events in two files, PostgreSQL in one table.
    for connect in (lambda: storage.run_connection(RUNLESS_RUN_ID), storage.index_connection):
        with connect() as connection:
            pages = (events.c.asset_key == key) & (events.c.run_id == RUNLESS_RUN_ID)
            latest = connection.execute(
                select(events.c.id).where(pages).order_by(events.c.id.desc()).limit(1)
            ).scalar()
            if latest is not None:
                naive = before.astimezone(UTC).replace(tzinfo=None)
                old = pages & (events.c.id < latest) & (events.c.timestamp < naive)
                connection.execute(events.delete().where(old))


@dg.sensor(
    name="old_runs",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=3600,
    description="Deletes runs and pages that are older than TEM_KEEP_RUNS_DAYS and that nothing needs.",
)
def old_runs(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SkipReason:
    """Delete old runs and old pages; the next tick continues where the time was used up."""
    days = platform.settings.keep_runs_days
    before = datetime.now(UTC) - timedelta(days=days)
    deleted, cursor = delete_old_runs(context.instance, before, context.cursor or None)
    delete_old_pages(context.instance, before)
    context.update_cursor(cursor or "")
    return dg.SkipReason(f"deleted {deleted} runs older than {days} days")
