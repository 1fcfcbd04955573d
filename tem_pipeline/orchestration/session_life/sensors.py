"""The sensor that watches incoming/. `requests` decides which runs are needed."""

import time
from pathlib import Path

import dagster as dg

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.jobs import ingest_session, process_session
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.session_life.abandoned_runs import fail_abandoned_runs
from tem_pipeline.orchestration.session_life.observations import (
    ObservationLog,
    ObservedFolder,
    load_log,
    observe,
    save_log,
)
from tem_pipeline.orchestration.session_life.requests import attempt_on_arrival, past_runs, run_request
from tem_pipeline.orchestration.session_life.session_tables import SESSION_TABLES
from tem_pipeline.orchestration.session_life.tick_time import stopwatch
from tem_pipeline.settings import Settings
from tem_pipeline.storage import Layout, table_fingerprint
from tem_pipeline.text import counted

# Dagster ends a tick after 60 s. Hashing a file is never interrupted.
OBSERVING_SECONDS = 20.0
REQUESTING_SECONDS = 10.0
REQUESTS_PER_TICK = 100


def build_arrival_sensor(settings: Settings) -> dg.SensorDefinition:
    """Build the sensor that looks at incoming/ every `arrival_interval_s`."""
    return dg.sensor(
        jobs=[ingest_session, process_session],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=settings.arrival_interval_s,
        description="Asks for a run of each session that is complete, and again when its content changes.",
    )(new_microscope_sessions)


def new_microscope_sessions(
    context: dg.SensorEvaluationContext, platform: Platform
) -> dg.SensorResult | dg.SkipReason:
    """Ask for the runs of complete sessions and register their partitions."""
    settings, layout = platform.settings, platform.layout
    for run_id in fail_abandoned_runs(context.instance, layout, settings.abandoned_after_s):
        context.log.warning(f"run {run_id}: its process is gone")
    log = load_log(layout)
    try:
        observed = observe(
            Path(str(layout.incoming)), log, time.time(), settings.settling_s, stopwatch(OBSERVING_SECONDS)
        )
    except UserError as error:
        return dg.SkipReason(str(error))
    requests = requests_on_arrival(context.instance, layout, settings, log, observed)
    try:
        save_log(layout, log)
    except UserError as error:
        # Without the log no session settles, but sessions with a `.complete` marker are still processed.
        context.log.error(str(error))
    if not requests:
        waiting = sum(folder.waiting is not None for folder in observed)
        faulty = sum(folder.fault is not None for folder in observed)
        more = f"; the next tick continues at {log.next_name}" if log.next_name else ""
        return dg.SkipReason(
            f"nothing new in {counted(len(observed), 'folder')}: "
            f"{waiting} arriving, {faulty} with a fault{more}"
        )
    keys = [str(request.partition_key) for request in requests]
    return dg.SensorResult(
        run_requests=requests, dynamic_partitions_requests=[SESSIONS.build_add_request(keys)]
    )


def requests_on_arrival(
    instance: dg.DagsterInstance,
    layout: Layout,
    settings: Settings,
    log: ObservationLog,
    observed: list[ObservedFolder],
) -> list[dg.RunRequest]:
    """Ask for a run of every complete session whose tables don't hold its content.

    A session is finished in the log once its tables hold its content or the night decides. Until then every
    tick asks again: the run may be lost, or never start, as any process may be killed at any moment. Looking
    this up for each session at every tick, in its tables or in Dagster's run history, would be too slow.

    Parameters
    ----------
    instance : DagsterInstance
        Holds the past runs.
    layout : Layout
    settings : Settings
    log : ObservationLog
        Changed in place.
    observed : list of ObservedFolder
        The folders that this tick has looked at.
    """
    out_of_time = stopwatch(REQUESTING_SECONDS)
    job = process_session.name if settings.process_on_arrival else ingest_session.name
    tables = SESSION_TABLES if settings.process_on_arrival else SESSION_TABLES[:1]
    requests: list[dg.RunRequest] = []
    for folder in observed:
        name, key, fingerprint = folder.folder.name, folder.folder.key, folder.fingerprint
        if fingerprint is None or log.sessions[name].finished:
            continue
        if len(requests) == REQUESTS_PER_TICK or out_of_time():
            log.next_name = name
            break
        if all(table_fingerprint(layout.table(table, key)) == fingerprint for table in tables):
            log.sessions[name].finished = True
            continue
        decision = attempt_on_arrival(fingerprint, past_runs(instance, key), settings.abandoned_after_s)
        if isinstance(decision, int):
            requests.append(run_request(job, key, fingerprint, decision))
        elif decision == "leave it to the night":
            log.sessions[name].finished = True
    return requests
