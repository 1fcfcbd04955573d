"""Reads the tables of catalytic activity, which people write by hand.

A row or file that can't be used never stops the others: it is listed with the reason and what to do.
"""

import csv
import difflib
import io
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from tem_pipeline.errors import UserError
from tem_pipeline.storage import AnyPath
from tem_pipeline.text import one_line, printable

_REQUIRED = ("sample_id", "activity", "unit")
_IGNORED = ("notes", "comment")
_LARGEST_FILE = 5_000_000
_LONGEST_TEXT = 200
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def read_activity(folder: AnyPath) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the activity tables row by row; unusable rows are listed and left out.

    A file is CSV with a header: sample_id, activity, unit; optional standard_error (of the activity, in its
    unit), conditions (text), notes and comment (not read). Every other column is a condition of its own, such
    as temperature_c. Separated by semicolons, numbers may have a decimal comma.

    Parameters
    ----------
    folder : path
        Every `*.csv` in it is read, hidden files left out; it may be missing.

    Returns
    -------
    measurements : DataFrame
        file, line, sample_id, activity, unit, standard_error (NaN where there is none), conditions ("" where
        there are none).
    problems : DataFrame
        file, line (0: the whole file), problem: what is wrong and what to do.
    """
    rows: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    files = [file for file in folder.iterdir() if _is_table(file)] if folder.is_dir() else []
    for file in sorted(files, key=lambda file: file.name):
        name = printable(file.name)
        try:
            for line, row in _read_rows(file):
                if isinstance(row, UserError):
                    problems.append({"file": name, "line": line, "problem": str(row)})
                else:
                    rows.append({"file": name, "line": line, **row})
        except UserError as error:
            problems.append({"file": name, "line": 0, "problem": str(error)})
    measurements = pd.DataFrame(
        rows, columns=["file", "line", "sample_id", "activity", "unit", "standard_error", "conditions"]
    )
    measurements["standard_error"] = measurements["standard_error"].astype(float)
    repeated = measurements.duplicated(["sample_id", "unit", "conditions", "activity", "standard_error"])
    for row in measurements[repeated].itertuples():
        problems.append(
            {
                "file": row.file,
                "line": row.line,
                "problem": f"repeats an earlier row of sample {row.sample_id!r}: remove one of the two",
            }
        )
    return measurements[~repeated].reset_index(drop=True), _problems(problems)


def _is_table(file: AnyPath) -> bool:
    return not file.name.startswith(".") and file.suffix.lower() == ".csv" and file.is_file()


def _read_rows(file: AnyPath) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"it can't be read ({error.strerror}): give this account read permission") from error
    if len(content) > _LARGEST_FILE:
        raise UserError(f"it is larger than {_LARGEST_FILE // 1_000_000} MB: keep only the activities")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"it isn't UTF-8 text (byte {error.start}): save it as CSV UTF-8") from error
    if "\0" in text:
        raise UserError("it holds NUL characters: save it as CSV UTF-8")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    # A row can contain line breaks; its first line is reported.
    line, last = 1, 0
    try:
        for cells in reader:
            line, last = last + 1, reader.line_num
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = _check_header(cells)
                continue
            try:
                yield line, _check_row(header, cells, decimal_comma=delimiter != ",")
            except UserError as error:
                yield line, error
    except csv.Error as error:
        raise UserError(f"from line {last + 1} on it is no CSV ({error}): close its quotes") from error
    if not header:
        raise UserError(f"it is empty: its first line names the columns {', '.join(_REQUIRED)}")


def _check_header(cells: list[str]) -> list[str]:
    names = [re.sub(r"\s+", "_", cell.lower()) for cell in cells]
    for name in _REQUIRED:
        if name not in names:
            raise UserError(
                f"the column {name} is missing: its first line names the columns {', '.join(_REQUIRED)}"
            )
    for name in names:
        if name and names.count(name) > 1:
            raise UserError(f"it has the column {printable(name)[:40]!r} twice: keep one")
    return [_text(name, "a column's name") if name else "" for name in names]


def _check_row(header: list[str], cells: list[str], decimal_comma: bool) -> dict[str, Any]:
    if len(cells) != len(header):
        raise UserError(
            f"it has {len(cells)} cells, the first line {len(header)}: "
            "fill in or remove cells, and put texts with a separator into quotes"
        )
    row = dict(zip(header, cells, strict=True))
    if row.pop("", ""):
        raise UserError("a cell has no column's name above it: name the column in the first line")
    for name in _IGNORED:
        row.pop(name, None)
    for name in _REQUIRED:
        if not row[name]:
            raise UserError(f"{name} is empty: fill it in, or remove the row")
    error = row.pop("standard_error", "")
    standard_error = _number(error, "standard_error", decimal_comma) if error else np.nan
    if standard_error <= 0:
        raise UserError(f"standard_error {error!r} isn't positive: leave it empty where it isn't known")
    return {
        "sample_id": _text(row.pop("sample_id"), "sample_id"),
        "activity": _number(row.pop("activity"), "activity", decimal_comma),
        "unit": _unit(_text(row.pop("unit"), "unit")),
        "standard_error": standard_error,
        "conditions": _conditions(row, decimal_comma),
    }


def _number(text: str, name: str, decimal_comma: bool) -> float:
    written = text.replace(",", ".") if decimal_comma and "." not in text else text
    written = written.replace("\N{MINUS SIGN}", "-")
    number = float(written) if _NUMBER.fullmatch(written) else np.nan
    if not np.isfinite(number):
        raise UserError(f"{name} {printable(text)[:40]!r} is no number: write it like 1.25 or 3e-4")
    return number


def _text(text: str, name: str) -> str:
    if len(text) > _LONGEST_TEXT:
        raise UserError(f"{name} is longer than {_LONGEST_TEXT} characters: shorten it")
    if not text.isprintable():
        raise UserError(f"{name} {printable(text)[:40]!r} holds control characters: write it anew")
    return text


def _unit(text: str) -> str:
    """Normalise a unit: s⁻¹, s−1 and s-1 are the same."""
    return one_line(unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-"))


def _conditions(row: dict[str, str], decimal_comma: bool) -> str:
    free = row.pop("conditions", "")
    parts = [_text(free, "conditions")] if free else []
    for name, value in sorted(row.items()):
        if not value:
            continue
        try:
            value = f"{_number(value, name, decimal_comma):.12g}"
        except UserError:
            value = _text(value, name)
        parts.append(f"{name}={value}")
    return ", ".join(parts)


def _problems(problems: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(problems, columns=["file", "line", "problem"])


def unknown_samples(summaries: pd.DataFrame, measurements: pd.DataFrame) -> pd.DataFrame:
    """List the rows whose sample has no particles, with similar names in case of a typing error.

    Parameters
    ----------
    summaries : DataFrame
        The table `sample_summary`.
    measurements : DataFrame
        As `read_activity` returns them.

    Returns
    -------
    DataFrame
        file, line, problem.
    """
    known = sorted(set(summaries["sample_id"]))
    problems = []
    for row in measurements[~measurements["sample_id"].isin(known)].itertuples():
        alike = difflib.get_close_matches(str(row.sample_id), known, 1, 0.8)
        hint = f"; is it {alike[0]!r}?" if alike else ""
        problems.append(
            {
                "file": row.file,
                "line": row.line,
                "problem": f"no processed session has the sample {row.sample_id!r}{hint}: "
                "process its session, or write the sample's name as in session.yaml",
            }
        )
    return _problems(problems)
