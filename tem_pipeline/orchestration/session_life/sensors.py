"""Watches incoming/ and the runs of sessions; what is to be done is decided in `requests`."""

import time
from pathlib import Path

import dagster as dg

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.jobs import ingest_session, process_session
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
from tem_pipeline.orchestration.session_life.failures import fail_abandoned_runs, session_failures
from tem_pipeline.orchestration.session_life.requests import (
    SESSION_TABLES,
    attempt_on_arrival,
    left_to_the_night,
    past_runs,
    run_request,
)
from tem_pipeline.settings import Settings, load_settings
from tem_pipeline.storage import Layout, table_fingerprint

# Dagster gives a tick 60 s: these go to looking at folders, those to looking at runs. The file that is being
# hashed when they are over is hashed to its end.
TICK_SECONDS = 20.0
REQUEST_SECONDS = 10.0
REQUESTS_A_TICK = 100


def requests_on_arrival(
    instance: dg.DagsterInstance, layout: Layout, settings: Settings, memory: Memory, arrivals: list[Arrival]
) -> list[dg.RunRequest]:
    """Ask for a run of every complete session whose content nobody has taken yet.

    What doesn't fit into this tick is where the next one starts.
    """
    out_of_time = stopwatch(REQUEST_SECONDS)
    job = process_session.name if settings.process_on_arrival else ingest_session.name
    tables = SESSION_TABLES if settings.process_on_arrival else SESSION_TABLES[:1]
    requests: list[dg.RunRequest] = []
    for arrival in arrivals:
        seen = memory.sessions.get(arrival.folder.name)
        fingerprint, key = arrival.fingerprint, arrival.folder.key
        if fingerprint is None or seen is None or seen.taken == fingerprint:
            continue
        if len(requests) == REQUESTS_A_TICK or out_of_time():
            memory.next_name = arrival.folder.name
            break
        # A run that isn't over may still be lost, and one that is asked for may never start, as this process
        # may be killed any moment: only what is done, or left to the night, is not looked at again.
        seen.taken = None
        if all(table_fingerprint(layout.table(asset, key)) == fingerprint for asset in tables):
            seen.taken = fingerprint
            continue
        runs = past_runs(instance, key, settings.abandoned_after_s)
        attempt = attempt_on_arrival(fingerprint, runs)
        if attempt is not None:
            requests.append(run_request(job, key, fingerprint, attempt))
        elif left_to_the_night(fingerprint, runs):
            seen.taken = fingerprint
    return requests


@dg.sensor(
    jobs=[ingest_session, process_session],
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=load_settings().arrival_interval_s,
    description="Takes up session folders once they are complete, and again when their content changes.",
)
def new_microscope_sessions(
    context: dg.SensorEvaluationContext, platform: Platform
) -> dg.SensorResult | dg.SkipReason:
    """Register complete sessions and ask for their runs."""
    settings, layout, out_of_time = platform.settings, platform.layout, stopwatch(TICK_SECONDS)
    for run_id in fail_abandoned_runs(context.instance, layout, settings.abandoned_after_s):
        context.log.warning(f"run {run_id}: its process is gone")
    memory = load_memory(layout)
    try:
        arrivals = observe(Path(str(layout.incoming)), memory, time.time(), settings.settling_s, out_of_time)
    except UserError as error:
        return dg.SkipReason(str(error))
    requests = requests_on_arrival(context.instance, layout, settings, memory, arrivals)
    try:
        save_memory(layout, memory)
    except UserError as error:
        # Without a memory nothing settles; what a marker completes is still taken.
        context.log.error(str(error))
    if not requests:
        waiting = sum(arrival.waiting is not None for arrival in arrivals)
        faulty = sum(arrival.fault is not None for arrival in arrivals)
        more = f", more after {memory.next_name}" if memory.next_name else ""
        return dg.SkipReason(
            f"nothing new in {len(arrivals)} folders: {waiting} arriving, {faulty} with a fault{more}"
        )
    keys = [str(request.partition_key) for request in requests]
    return dg.SensorResult(
        run_requests=requests, dynamic_partitions_requests=[SESSIONS.build_add_request(keys)]
    )


SENSORS = [new_microscope_sessions, session_failures]
