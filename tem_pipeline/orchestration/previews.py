"""Pictures and small tables as metadata for Dagster's pages."""

import base64
import re

import dagster as dg
import pandas as pd

from tem_pipeline.text import counted, printable

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
LONGEST_CELL = 200
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>()#!|&~:@]")


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
    return escaped(value)


def escaped(value: object) -> str:
    """Make text from outside show as it is in Markdown: no link, picture, code, HTML or new line.

    File names and reasons can hold anything, and Dagster's pages draw Markdown.
    """
    text = " ".join(printable(value).split())[:LONGEST_CELL]
    text = _MARKDOWN.sub(lambda mark: f"&#{ord(mark[0])};", text)
    return text.replace("www.", "www&#46;")  # pages make links of bare addresses too
