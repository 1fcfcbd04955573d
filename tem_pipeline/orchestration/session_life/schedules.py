"""The nightly run: what is to be processed is decided in `requests`."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import dagster as dg

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.sessions import session_key
from tem_pipeline.orchestration.jobs import process_session
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.session_life.arrivals import (
    Arrival,
    Memory,
    load_memory,
    observe,
    save_memory,
    stopwatch,
)
from tem_pipeline.orchestration.session_life.requests import (
    attempt_at_night,
    past_runs,
    recorded_fingerprints,
    run_request,
)
from tem_pipeline.orchestration.session_life.states import FAILURE_TABLE
from tem_pipeline.settings import load_settings
from tem_pipeline.storage import Layout, read_table, sessions_of

# Dagster gives a tick 60 s. What can't be looked at until then is left to the next night.
LOOKING_SECONDS = 20.0
TICK_SECONDS = 45.0


def requests_at_night(
    instance: dg.DagsterInstance,
    layout: Layout,
    memory: Memory,
    arrivals: list[Arrival],
    limit: int,
    out_of_time: Callable[[], bool] = lambda: False,
) -> list[dg.RunRequest]:
    """Ask for a run of every complete session that isn't processed, or from other content.

    Sessions that were processed from a folder outside incoming/ are completed from there.
    """
    wanted: dict[str, tuple[str, str | None]] = {
        arrival.folder.key: (arrival.fingerprint, None) for arrival in arrivals if arrival.fingerprint
    }
    below_incoming = {session_key(name) for name in memory.sessions} | {a.folder.key for a in arrivals}
    for key in sessions_of(layout, "raw_tem_images") - below_incoming:
        if found := _folder_outside(layout, key):
            wanted[key] = found
    requests = []
    for key, (fingerprint, folder) in sorted(wanted.items()):
        if out_of_time():
            break
        recorded = recorded_fingerprints(layout, key)
        if _complete(recorded, fingerprint) and not _ever_failed(layout, key):
            continue
        attempt = attempt_at_night(fingerprint, recorded, past_runs(instance, key), limit)
        if attempt is not None:
            requests.append(run_request(process_session.name, key, fingerprint, attempt, folder))
    return requests


def _complete(recorded: Mapping[str, str | None], fingerprint: str) -> bool:
    return all(found == fingerprint for found in recorded.values())


def _ever_failed(layout: Layout, key: str) -> bool:
    """Tell whether the session's runs are to be looked at: its last one may have failed after its tables."""
    return layout.table(FAILURE_TABLE, key).exists()


def _folder_outside(layout: Layout, key: str) -> tuple[str, str] | None:
    """Give fingerprint and folder of a session whose tables aren't complete and whose folder still exists."""
    recorded = recorded_fingerprints(layout, key)
    ingested = recorded["raw_tem_images"]
    if ingested is None or (_complete(recorded, ingested) and not _ever_failed(layout, key)):
        return None
    folders = read_table(layout.table("raw_tem_images", key), ["session_folder"])["session_folder"]
    if folders.empty or not Path(folders.iloc[0]).is_dir():
        return None
    return ingested, folders.iloc[0]


@dg.schedule(
    job=process_session,
    cron_schedule="0 2 * * *",
    execution_timezone=load_settings().time_zone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Processes every session whose tables are missing or were made from other content.",
)
def nightly_sessions(
    context: dg.ScheduleEvaluationContext, platform: Platform
) -> list[dg.RunRequest] | dg.SkipReason:
    """Ask for one run a session that is to be processed."""
    settings, layout, out_of_time = platform.settings, platform.layout, stopwatch(TICK_SECONDS)
    looked_long_enough = stopwatch(LOOKING_SECONDS)
    memory = load_memory(layout)
    try:
        arrivals = observe(
            Path(str(layout.incoming)),
            memory,
            time.time(),
            settings.settling_s,
            looked_long_enough,
            thorough_look_s=0,
        )
        save_memory(layout, memory)
    except UserError as error:
        return dg.SkipReason(str(error))
    requests = requests_at_night(context.instance, layout, memory, arrivals, settings.attempts, out_of_time)
    if not requests:
        return dg.SkipReason(f"nothing to process in {len(arrivals)} folders")
    context.instance.add_dynamic_partitions(
        str(SESSIONS.name), [str(request.partition_key) for request in requests]
    )
    return requests


SCHEDULES = [nightly_sessions]
