"""The assets over all sessions: samples summed up.

Assets carry no return annotation: by `MaterializeResult` Dagster would take them to have no value.
"""

from typing import Any

import dagster as dg
import pandas as pd

from tem_pipeline.orchestration import previews
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.particles.distributions import sample_summary as summarise_samples
from tem_pipeline.storage import complete_sessions, read_table

GROUP: dict[str, Any] = {
    "group_name": "analysis",
    "key_prefix": "analysis",
    "io_manager_key": "tables",
    "kinds": {"parquet"},
}
_SESSION_TABLES = ("particle_table", "raw_tem_images", "predicted_masks")


@dg.asset(**GROUP, deps=list(_SESSION_TABLES))
def sample_summary(platform: Platform):
    """The statistics of each sample, over the fields of all its sessions."""
    layout = platform.layout
    sessions = complete_sessions(layout, _SESSION_TABLES)
    particles, manifest, masks = (
        pd.concat([read_table(layout.table(name, key)) for key in sessions], ignore_index=True)
        if sessions
        else pd.DataFrame(columns=["session_id", "sample_id"])
        for name in _SESSION_TABLES
    )
    summary = summarise_samples(particles, manifest, masks, platform.settings.target_half_width)
    diameters = summary[summary["measurand"] == "equivalent_diameter"]
    return dg.MaterializeResult(
        value=summary,
        metadata={
            "sessions": len(sessions),
            "samples": summary["sample_id"].nunique(),
            "diameters": previews.table(
                diameters[["sample_id", "n_sessions", *previews.STATISTICS, "dispersion", "differences"]]
            ),
        },
    )


ANALYSIS_ASSETS: list[Any] = [sample_summary]
