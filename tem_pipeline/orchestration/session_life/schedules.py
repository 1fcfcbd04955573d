"""The nightly schedule. `requests` decides which runs are needed."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import dagster as dg

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.sessions import session_key
from tem_pipeline.orchestration.jobs import process_session
from tem_pipeline.orchestration.partitions import add_sessions
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.session_life.observations import (
    ObservationLog,
    ObservedFolder,
    load_log,
    observe,
    save_log,
)
from tem_pipeline.orchestration.session_life.requests import attempt_at_night, past_runs, run_request
from tem_pipeline.orchestration.session_life.session_tables import FAILURE_TABLE, recorded_fingerprints
from tem_pipeline.orchestration.session_life.tick_time import stopwatch
from tem_pipeline.settings import Settings
from tem_pipeline.storage import Layout, read_table, sessions_with_tables
from tem_pipeline.text import counted

# Dagster ends a tick after 60 s. Sessions that there was no time for are left to the next night.
OBSERVING_SECONDS = 20.0
TICK_SECONDS = 45.0


def build_nightly_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Build the schedule that processes sessions at 02:00 in the laboratory's time zone."""
    return dg.schedule(
        job=process_session,
        cron_schedule="0 2 * * *",
        execution_timezone=settings.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Processes every session whose tables are missing or were made from other content.",
    )(nightly_sessions)


def nightly_sessions(
    context: dg.ScheduleEvaluationContext, platform: Platform
) -> list[dg.RunRequest] | dg.SkipReason:
    """Ask for one run per session that has to be processed, and register the partitions."""
    settings, layout, out_of_time = platform.settings, platform.layout, stopwatch(TICK_SECONDS)
    log = load_log(layout)
    try:
        observed = observe(
            Path(str(layout.incoming)),
            log,
            time.time(),
            settings.settling_s,
            stopwatch(OBSERVING_SECONDS),
            full_scan_interval_s=0,
        )
        save_log(layout, log)
    except UserError as error:
        return dg.SkipReason(str(error))
    requests = requests_at_night(context.instance, layout, log, observed, settings.attempts, out_of_time)
    if not requests:
        return dg.SkipReason(f"nothing to process in {counted(len(observed), 'folder')}")
    keys = [str(request.partition_key) for request in requests]
    add_sessions(context.instance, keys)
    return requests


def requests_at_night(
    instance: dg.DagsterInstance,
    layout: Layout,
    log: ObservationLog,
    observed: list[ObservedFolder],
    limit: int,
    out_of_time: Callable[[], bool],
) -> list[dg.RunRequest]:
    """Ask for a run of every complete session that isn't processed, or was processed from other content.

    Sessions that were ingested from a folder outside incoming/ are processed from there.

    Parameters
    ----------
    instance : DagsterInstance
        Holds the past runs.
    layout : Layout
    log : ObservationLog
    observed : list of ObservedFolder
        The folders below incoming/ as they are now.
    limit : int
        Number of failed attempts at the same content after which a session is parked.
    out_of_time : callable
        Once it returns True, the other sessions are left to the next night.
    """
    wanted: dict[str, tuple[str, str | None]] = {
        folder.folder.key: (folder.fingerprint, None) for folder in observed if folder.fingerprint
    }
    below_incoming = {session_key(name) for name in log.sessions} | {one.folder.key for one in observed}
    for key in sessions_with_tables(layout, "raw_tem_images") - below_incoming:
        if outside := _folder_outside(layout, key):
            wanted[key] = outside
    requests = []
    for key, (fingerprint, path) in sorted(wanted.items()):
        if out_of_time():
            break
        recorded = recorded_fingerprints(layout, key)
        if _is_done(layout, key, recorded, fingerprint) or _has_no_image(layout, key, recorded, fingerprint):
            continue
        attempt = attempt_at_night(fingerprint, recorded, past_runs(instance, key), limit)
        if attempt is not None:
            requests.append(run_request(process_session.name, key, fingerprint, attempt, path))
    return requests


def _is_done(layout: Layout, key: str, recorded: Mapping[str, str | None], fingerprint: str) -> bool:
    """Tell whether every table holds the content, and no run ever failed.

    If one did, the past runs have to be read: the last may have failed at the report, after the tables.
    """
    complete = all(found == fingerprint for found in recorded.values())
    return complete and not layout.table(FAILURE_TABLE, key).exists()


def _has_no_image(layout: Layout, key: str, recorded: Mapping[str, str | None], fingerprint: str) -> bool:
    """Tell whether the content was read and has no image: another night would not change that."""
    if recorded["raw_tem_images"] != fingerprint:
        return False
    return not (read_table(layout.table("raw_tem_images", key), ["status"])["status"] == "ok").any()


def _folder_outside(layout: Layout, key: str) -> tuple[str, str] | None:
    """Give fingerprint and folder of a session that is not done and whose folder outside incoming/ exists."""
    recorded = recorded_fingerprints(layout, key)
    ingested = recorded["raw_tem_images"]
    if ingested is None or _is_done(layout, key, recorded, ingested):
        return None
    folders = read_table(layout.table("raw_tem_images", key), ["session_folder"])["session_folder"]
    outside = None if folders.empty else layout.outside_folder(folders.iloc[0])
    return (ingested, outside) if outside and Path(outside).is_dir() else None
