"""Processes chosen sessions again, for instance with a new champion. This happens only if a person asks.

A job finds the chosen sessions. A sensor then asks for their runs, which wait in the queue behind new
sessions.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.sessions import session_key
from tem_pipeline.orchestration.jobs import process_session
from tem_pipeline.orchestration.partitions import add_sessions
from tem_pipeline.orchestration.resources import SESSION_FOLDER_TAG, Platform
from tem_pipeline.storage import Layout, read_table, sessions_with_tables
from tem_pipeline.text import counted

_CHOSEN = "sessions"


class SessionChoice(dg.Config):
    """Which sessions to process again."""

    sessions: list[str] = Field(default=[], description="names of session folders, or their keys")
    samples: list[str] = Field(default=[], description="every session of these samples (sample_id)")
    all_sessions: bool = Field(default=False, description="every session that was ever ingested")


def chosen_sessions(
    layout: Layout, sessions: Sequence[str], samples: Sequence[str], all_sessions: bool
) -> dict[str, str | None]:
    """Find the chosen sessions among those that were ingested.

    Parameters
    ----------
    layout : Layout
    sessions, samples : sequence of str
        Names or keys of sessions; sample_id of samples.
    all_sessions : bool

    Returns
    -------
    dict
        By key the folder that the session was read from, None if it is below incoming/.

    Raises
    ------
    UserError
        If nothing is chosen, or if a session or sample of that name was never ingested.
    """
    if not (sessions or samples or all_sessions):
        raise UserError("no session is chosen: name sessions or samples, or set all_sessions")
    known = sessions_with_tables(layout, "raw_tem_images")
    keys = {name if name in known else session_key(name): name for name in sessions}
    unknown = sorted(name for key, name in keys.items() if key not in known)
    chosen, found_samples = {}, set()
    for key in sorted(known if samples or all_sessions else keys.keys() & known):
        manifest = read_table(layout.table("raw_tem_images", key), ["sample_id", "session_folder"])
        sample, folder = manifest.iloc[0] if len(manifest) else (key, None)
        found_samples.add(sample)
        if all_sessions or key in keys or sample in samples:
            chosen[key] = layout.outside_folder(folder)
    unknown += sorted(set(samples) - found_samples)
    if unknown:
        raise UserError(f"{', '.join(map(repr, unknown))}: nothing of that name was ingested yet")
    return chosen


@dg.op(name="choose_sessions")
def choose_sessions(context: dg.OpExecutionContext, config: SessionChoice, platform: Platform) -> None:
    """Find the chosen sessions and hand them to the sensor."""
    chosen = chosen_sessions(platform.layout, config.sessions, config.samples, config.all_sessions)
    add_sessions(context.instance, list(chosen))
    context.log.info(f"{counted(len(chosen), 'session')} will be processed again")
    context.add_output_metadata({_CHOSEN: dg.MetadataValue.json(chosen)})


@dg.job(description="Processes chosen sessions again, after new ones. Choose them in the configuration.")
def reprocess_sessions() -> None:
    """Choose sessions; the sensor `reprocess_requests` asks for their runs."""
    choose_sessions()


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="reprocess_requests",
    monitored_jobs=[reprocess_sessions],
    request_job=process_session,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Asks for the runs of the sessions that a run of reprocess_sessions has chosen.",
)
def reprocess_requests(context: dg.RunStatusSensorContext) -> Iterator[dg.RunRequest]:
    """Ask for one run per chosen session."""
    run_id = context.dagster_run.run_id
    for entry in context.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_OUTPUT):
        output = entry.dagster_event.step_output_data if entry.dagster_event else None
        chosen: Any = output.metadata[_CHOSEN].value if output else {}
        for key, folder in chosen.items():
            yield dg.RunRequest(
                run_key=f"{run_id}:{key}",
                partition_key=key,
                tags={"dagster/priority": "-1", **({SESSION_FOLDER_TAG: folder} if folder else {})},
            )
