"""Pictures and small tables as metadata for Dagster's pages."""

import base64
import math
import re

import dagster as dg
import pandas as pd

from tem_pipeline.text import counted, printable

# Columns of a small table of statistics.
STATISTICS = [
    "unit",
    "n_counted",
    "mean_corrected",
    "standard_deviation_corrected",
    "median_corrected",
    "d32_corrected",
]
LARGEST_PICTURE_BYTES = 100_000
LONGEST_CELL = 200
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>()#!|&~:@]")


def sizes(distributions: pd.DataFrame) -> dict[str, str | int | float]:
    """Give the equivalent diameter of a session in one line, and its numbers, which Dagster can plot.

    Calibrated images go first. The uncertainty is expanded (k = 2), of all known sources.
    """
    rows = distributions[
        (distributions["measurand"] == "equivalent_diameter") & (distributions["n_counted"] > 0)
    ]
    if rows.empty:
        return {"result": "no whole particle was counted", "n": 0}
    row = rows.sort_values("unit", key=lambda unit: unit != "nm", kind="stable").iloc[0]
    n, unit, mean = int(row["n_counted"]), row["unit"], row["mean_corrected"]
    relative = row["relative_uncertainty_combined"]
    plus_minus = "" if pd.isna(relative) else f" ± {_to_two_digits(mean * relative)}"
    digits = 2 if not plus_minus else len(plus_minus.partition(".")[2])
    numbers = {
        f"mean ({unit})": mean,
        f"sd ({unit})": row["standard_deviation_corrected"],
        f"D[3,2] ({unit})": row["d32_corrected"],
    }
    return {
        "result": f"{mean:.{digits}f}{plus_minus} {unit}, n = {n}",
        "n": n,
        **{name: rounded(value) for name, value in numbers.items() if pd.notna(value)},
    }


def _to_two_digits(value: float) -> str:
    """Write a positive number with two significant digits, without an exponent."""
    value = float(f"{value:.1e}")
    digits = 0 if value >= 10 or value <= 0 else min(6, 1 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"


def rounded(value: float) -> float:
    """Round a number to four significant digits, as it is shown on a page."""
    return float(f"{value:.4g}")


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
