"""Shows all sessions in Dagster's pages: a sensor keeps the asset `session_states` current."""

import time
from collections import Counter
from datetime import datetime

import dagster as dg
import pandas as pd
import pyarrow as pa

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration import previews
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.session_life.states import SessionState, StateName
from tem_pipeline.orchestration.session_life.survey import as_record, from_record, look_at_sessions
from tem_pipeline.orchestration.session_life.tick_time import stopwatch
from tem_pipeline.storage import AnyPath, read_table, write_table
from tem_pipeline.tables import STATES_SCHEMA, conform
from tem_pipeline.text import counted

STATES_TABLE = "session_states"
# Each time a state changes, the whole page is written into Dagster's event log.
ROWS_SHOWN = 200
# Dagster ends a tick after 60 s.
TICK_SECONDS = 30.0
# Sessions that need a person come first.
_ORDER: tuple[StateName, ...] = (
    *("failed", "parked", "partly refused"),
    *("arriving", "complete", "ingested", "processed"),
)

session_states_asset = dg.AssetSpec(
    STATES_TABLE,
    group_name="overview",
    kinds={"parquet"},
    description="Every session with its state, the reason, times, images and particles.",
)


def states_page(states: list[SessionState]) -> dict[str, dg.MarkdownMetadataValue | int]:
    """Give what the asset's page shows: the number of sessions in each state, and a table of the sessions.

    Sessions in the same state are sorted by their latest change, the newest first.
    """
    rows = sorted(states, key=lambda state: (_ORDER.index(state.state), -_latest(state)))
    cells = [
        [
            *(state.name, state.state, state.images, state.particles, state.reason),
            *map(_minute, (state.changed_at, state.ingested_at, state.processed_at)),
        ]
        for state in rows
    ]
    columns = ["session", "state", "images", "particles", "reason", "changed", "ingested", "processed"]
    frame = pd.DataFrame(cells, columns=columns, dtype=object)
    return {"sessions": previews.table(frame, ROWS_SHOWN), **Counter(state.state for state in rows)}


def _latest(state: SessionState) -> float:
    times = [state.changed_at, state.ingested_at, state.processed_at]
    return max((moment.timestamp() for moment in times if moment), default=0.0)


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


@dg.sensor(
    name="session_overview",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
    description="Updates the asset session_states when the state of a session has changed.",
)
def session_overview(
    context: dg.SensorEvaluationContext, platform: Platform
) -> dg.SensorResult | dg.SkipReason:
    """Look at the sessions, and update the table and the page if a state has changed.

    The table is what the next tick compares with. So a state that couldn't be written is written later.
    """
    path = platform.layout.table(STATES_TABLE)
    former = _former_states(path)
    try:
        states, next_key = look_at_sessions(
            platform.layout,
            platform.settings,
            time.time(),
            former or [],
            context.cursor or "",
            stopwatch(TICK_SECONDS),
        )
        records = [as_record(state) for state in states]
        changed = former is None or records != [as_record(state) for state in former]
        if changed:
            write_table(path, conform(records, STATES_SCHEMA))
    except UserError as error:
        return dg.SkipReason(str(error))
    more = f"; the next tick continues at {next_key}" if next_key else ""
    if not changed:
        return dg.SensorResult(
            skip_reason=f"{counted(len(states), 'session')}, as before{more}", cursor=next_key
        )
    event = dg.AssetMaterialization(STATES_TABLE, metadata=states_page(states))
    return dg.SensorResult(
        asset_events=[event],
        cursor=next_key,
        # Dagster calls a tick without a run skipped, and shows this as its reason.
        skip_reason=f"wrote the table of {counted(len(states), 'session')}: a state has changed{more}",
    )


def _former_states(path: AnyPath) -> list[SessionState] | None:
    """Read the states that the table shows; None if there is no table, or one of another version."""
    try:
        return [from_record(row) for row in read_table(path).to_dict("records")]
    except (UserError, OSError, pa.ArrowException, TypeError, ValueError):
        return None
