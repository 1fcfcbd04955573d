"""Pictures and small tables as metadata for Dagster's pages."""

import base64

import dagster as dg
import pandas as pd

from tem_pipeline.text import counted

# Columns of a small table of statistics.
STATISTICS = [
    "unit",
    "n_counted",
    "mean_corrected",
    "mean_corrected_low",
    "mean_corrected_high",
    "standard_deviation_corrected",
    "median_corrected",
    "d32_corrected",
    "enough_particles",
    "more_images_needed",
]
LARGEST_PICTURE_BYTES = 100_000


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    """Show a PNG of at most 100 kB, because it is stored in the event log."""
    if len(png) > LARGEST_PICTURE_BYTES:
        return dg.MetadataValue.md(f"the picture is too large to show here ({len(png) // 1000} kB)")
    return dg.MetadataValue.md(f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})")


def table(frame: pd.DataFrame, rows: int = 20) -> dg.MarkdownMetadataValue:
    """Show the first rows of a table."""
    shown = frame.head(rows)
    cells = [list(map(str, shown.columns)), ["---"] * len(shown.columns)]
    cells += [[_cell(value) for value in row] for row in shown.itertuples(index=False)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    if len(frame) > rows:
        lines.append(f"\n… and {counted(len(frame) - rows, 'more row')}")
    return dg.MetadataValue.md("\n".join(lines))


def _cell(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    # Names and reasons come from users, so they must not break the table.
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")[:200]
