"""Pictures and small tables as metadata, for people who look at Dagster's pages."""

import base64

import dagster as dg
import pandas as pd

# What a small table of statistics shows.
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
    """Show a PNG. It lies in the event log, so it must stay below 100 kB."""
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
        lines.append(f"\n… and {len(frame) - rows} more rows")
    return dg.MetadataValue.md("\n".join(lines))


def _cell(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    # Names and reasons come from outside: they must not end the table's cell.
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")[:200]
