"""Writes the result of a query as text for a terminal: the columns to read first, rounded, in its width."""

import difflib
from collections.abc import Sequence

import pandas as pd

from tem_pipeline.errors import UserError
from tem_pipeline.text import printable

# A result with more columns than this was hardly written out by hand: it is `SELECT *`.
MOST_COLUMNS = 12
_LONGEST_CELL = 40
# fmt: off
_FIRST = (
    "session", "sample_id", "image_id", "label", "state", "name", "status",
    "equivalent_diameter_nm", "equivalent_diameter_px", "shell_thickness_nm", "circularity",
    "touches_edge", "measurand", "unit", "n_counted", "mean", "standard_deviation", "median", "d32",
    "mean_low", "mean_high", "activity_unit", "conditions", "descriptor", "n_samples", "pearson",
    "pearson_p_corrected", "n_cores", "median_diameter_px", "confidence", "image_quality",
    "image_quality_reason", "pixel_size_nm", "pixel_size_x_nm", "calibration", "mode", "loss", "dice",
    "mean_iou", "model_version", "promoted", "reason",
)
# fmt: on


def choose_columns(names: Sequence[str], chosen: str | None) -> list[str]:
    """Choose the columns to print.

    Parameters
    ----------
    names : sequence of str
        The result's columns.
    chosen : str, optional
        Names separated by commas, or `all`. By default all of them if they are few, else the most important
        ones, as far as the result has them.

    Raises
    ------
    UserError
        For a name that is no column of the result.
    """
    if chosen == "all" or (chosen is None and len(names) <= MOST_COLUMNS):
        return list(names)
    if chosen is None:
        return [name for name in _FIRST if name in names][:MOST_COLUMNS] or list(names)[:MOST_COLUMNS]
    wanted = [name.strip() for name in chosen.split(",") if name.strip()]
    for name in wanted:
        if name not in names:
            similar = difflib.get_close_matches(name, names, n=3) or list(names)[:10]
            raise UserError(
                f"--columns: the result has no column {name!r}; did you mean {', '.join(similar)}?"
            )
    return wanted or list(names)


def as_text(table: pd.DataFrame, chosen: str | None, width: int) -> str:
    """Write a table for a terminal.

    Parameters
    ----------
    table : DataFrame
    chosen : str, optional
        See `choose_columns`.
    width : int
        Characters per line. By default as many of the columns are shown as fit; chosen columns always are.

    Returns
    -------
    str
        Its last line says how many columns are not shown, if any.
    """
    names = choose_columns(list(table.columns), chosen)
    cells = {name: [_cell(value) for value in table[name]] for name in names}
    if len(table.columns) > MOST_COLUMNS and chosen is None:
        used, fitting = 0, []
        for name in names:
            used += max([len(name), *map(len, cells[name])]) + 1
            if used > width and fitting:
                break
            fitting.append(name)
        names = fitting
    lines = [pd.DataFrame({name: cells[name] for name in names}).to_string(index=False)]
    if not len(table):
        lines = ["no rows; columns: " + ", ".join(names)]
    if chosen is None and len(names) < len(table.columns):
        shown = f"{len(names)} of {len(table.columns)} columns"
        lines.append(f"{shown}; choose others with --columns a,b,c or --columns all")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    text = f"{value:.5g}" if isinstance(value, float) else printable(value)
    return text if len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 1] + "…"
