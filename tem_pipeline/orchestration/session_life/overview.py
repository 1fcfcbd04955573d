"""The page of sessions in Dagster's UI: the asset `session_states`, kept current by a sensor."""

import hashlib
import json
import time
from datetime import datetime

import dagster as dg
import pandas as pd
import pyarrow as pa

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration import previews
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.session_life.arrivals import stopwatch
from tem_pipeline.orchestration.session_life.folders import OutOfTimeError
from tem_pipeline.orchestration.session_life.states import SessionState, as_record, session_states
from tem_pipeline.storage import write_table
from tem_pipeline.tables import STATES_SCHEMA

STATES_TABLE = "session_states"
# Every change of a state lays the page into Dagster's event log.
ROWS_SHOWN = 500
# Dagster gives a tick 60 s.
TICK_SECONDS = 30.0
_ORDER = ("failed", "parked", "partly refused", "arriving", "complete", "ingested", "processed")

session_states_asset = dg.AssetSpec(
    STATES_TABLE,
    group_name="overview",
    kinds={"parquet"},
    description="Every session with its state, the reason, times, images and particles.",
)


def states_page(states: list[SessionState]) -> dict[str, dg.MarkdownMetadataValue | int]:
    """Give what the asset's page shows: how many sessions are in which state, and the table of them.

    Sessions that somebody has to look at come first, then those whose tables are the newest.
    """
    counts = {name: sum(state.state == name for state in states) for name in _ORDER}
    by_time = sorted(states, key=_latest, reverse=True)
    rows = sorted(by_time, key=lambda state: _ORDER.index(state.state))
    columns = ["session", "state", "images", "particles", "reason", "changed", "ingested", "processed"]
    frame = pd.DataFrame(
        [
            [
                state.name,
                state.state,
                *map(_number, (state.images, state.particles)),
                state.reason,
                *map(_minute, (state.changed_at, state.ingested_at, state.processed_at)),
            ]
            for state in rows
        ],
        columns=columns,
    )
    return {
        "sessions": previews.table(frame, ROWS_SHOWN),
        **{name: count for name, count in counts.items() if count},
    }


def _latest(state: SessionState) -> float:
    times = [state.changed_at, state.ingested_at, state.processed_at]
    return max((moment.timestamp() for moment in times if moment), default=0.0)


def _number(count: int | None) -> str:
    return "" if count is None else str(count)


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


@dg.sensor(
    name="session_overview",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
    description="Writes the asset session_states anew whenever the state of a session has changed.",
)
def session_overview(
    context: dg.SensorEvaluationContext, platform: Platform
) -> dg.SensorResult | dg.SkipReason:
    """Look at every session; report what changed."""
    try:
        states = session_states(
            platform.layout, platform.settings, time.time(), out_of_time=stopwatch(TICK_SECONDS)
        )
    except OutOfTimeError:
        return dg.SkipReason("the tables are still being read; the next tick goes on")
    except UserError as error:
        return dg.SkipReason(str(error))
    records = [as_record(state) for state in states]
    seen = hashlib.sha256(json.dumps(records).encode()).hexdigest()
    if seen == context.cursor:
        return dg.SkipReason(f"{len(states)} sessions, as before")
    try:
        write_table(platform.layout.table(STATES_TABLE), pa.Table.from_pylist(records, STATES_SCHEMA))
    except UserError as error:
        context.log.error(str(error))
    event = dg.AssetMaterialization(STATES_TABLE, metadata=states_page(states))
    return dg.SensorResult(asset_events=[event], cursor=seen)
