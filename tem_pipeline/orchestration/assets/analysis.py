"""The assets over all sessions: summaries of samples, and their relation to measured activity.

Assets have no return annotation: with `MaterializeResult` Dagster would assume that they have no value.
Figures are imported where they are drawn, because matplotlib takes half as long to load as Dagster.
"""

import re
from typing import Any

import dagster as dg
import pandas as pd

from tem_pipeline.orchestration import previews
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.table_origins import stale_reason
from tem_pipeline.particles.activity_tables import read_activity, unknown_samples
from tem_pipeline.particles.distributions import sample_summary as summarise_samples
from tem_pipeline.particles.structure_activity import structure_activity_of
from tem_pipeline.storage import Layout, read_table, sessions_with_tables, write_bytes

GROUP: dict[str, Any] = {
    "group_name": "analysis",
    "key_prefix": "analysis",
    "io_manager_key": "tables",
    "kinds": {"parquet"},
}
_RELATIONS_SHOWN = [
    "activity_unit",
    "conditions",
    "descriptor",
    "n_samples",
    "pearson",
    "pearson_p_corrected",
    "spearman",
    "exponent",
    "reason",
]
_SESSION_TABLES = ("particle_table", "raw_tem_images", "predicted_masks")


@dg.asset(**GROUP, deps=list(_SESSION_TABLES))
def sample_summary(platform: Platform):
    """Statistics of each sample over the fields of all its sessions."""
    layout = platform.layout
    found = sorted(sessions_with_tables(layout, *_SESSION_TABLES))
    stale = {key: _stale(layout, key) for key in found}
    sessions = [key for key in found if stale[key] is None]
    waiting = pd.DataFrame(
        [(key, reason) for key, reason in stale.items() if reason], columns=["session", "reason"]
    )
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
            "sessions left out": len(waiting),
            "left out until they are processed": previews.table(waiting),
            "diameters": previews.table(
                diameters[["sample_id", "n_sessions", *previews.STATISTICS, "dispersion", "differences"]]
            ),
        },
    )


def _stale(layout: Layout, session: str) -> str | None:
    """Say why a session's tables don't belong together: it was ingested again and waits for the night."""
    return next((reason for name in _SESSION_TABLES if (reason := stale_reason(layout, name, session))), None)


@dg.asset(
    **GROUP,
    deps=[dg.AssetKey(["analysis", "sample_summary"])],
    check_specs=[
        dg.AssetCheckSpec(
            "activity_rows_used",
            asset=["analysis", "structure_activity"],
            description="Every row of activity/*.csv is readable and belongs to a sample with particles.",
        )
    ],
)
def structure_activity(platform: Platform):
    """Samples joined with activity/*.csv: correlations with intervals, fitted lines, and figures."""
    from tem_pipeline.reports.figures import figure_png, structure_activity_figure

    sample_summary = read_table(platform.layout.table("analysis/sample_summary"))
    measurements, problems = read_activity(platform.layout.data_root / "activity")
    problems = pd.concat([problems, unknown_samples(sample_summary, measurements)], ignore_index=True)
    related = structure_activity_of(sample_summary, measurements)
    folder = platform.layout.reports / "structure_activity"
    pictures = {}
    for (unit, conditions), rows in related.groupby(["activity_unit", "conditions"], sort=False):
        name = re.sub(r"[^A-Za-z0-9]+", "-", f"{unit} {conditions}").strip("-")[:60]
        name = f"{len(pictures) + 1}-{name}.png"
        figure = structure_activity_figure(rows)
        write_bytes(folder / name, figure_png(figure, dpi=110))
        pictures[name] = figure
    for old in folder.glob("*.png") if folder.is_dir() else ():
        if old.name not in pictures:
            old.unlink(missing_ok=True)
    first = next(iter(pictures.values()), None)
    return dg.MaterializeResult(
        value=related,
        metadata={
            "activities used": len(measurements) - len(unknown_samples(sample_summary, measurements)),
            "correlations": previews.table(related[_RELATIONS_SHOWN], 40),
            "pictures": dg.MetadataValue.path(str(folder)),
            **({"first picture": previews.picture(figure_png(first, dpi=50))} if first else {}),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="activity_rows_used",
                passed=problems.empty,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"rows left out": previews.table(problems, 50)},
            )
        ],
    )


ANALYSIS_ASSETS: list[Any] = [sample_summary, structure_activity]
