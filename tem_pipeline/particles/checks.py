"""The rules that a particle table must keep, checked before it is written."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.modes import MODES
from tem_pipeline.tables import PARTICLE_SCHEMA, conform

CALIBRATIONS = ("metadata", "session", "scale_bar", "missing")
IMAGE_QUALITIES = ("good", "review")

PARTICLE_SCHEMA_IN_MEMORY = pa.schema(
    [
        field.with_type(pa.dictionary(pa.int32(), pa.string()))
        if field.type == pa.string() and field.name != "particle_id"
        else field
        for field in PARTICLE_SCHEMA
    ],
    metadata=PARTICLE_SCHEMA.metadata,
)
"""`PARTICLE_SCHEMA` with repeated text as categories: while a table is made, text takes most of its memory.
Files have `PARTICLE_SCHEMA`."""

NM_COLUMNS = {
    "area_nm2": ("area_px", 2),
    **{
        f"{name}_nm": (f"{name}_px", 1)
        for name in (
            "equivalent_diameter",
            "perimeter",
            "feret_max",
            "feret_min",
            "centroid_y",
            "centroid_x",
            "shell_outer_diameter",
            "shell_thickness",
            "shell_thickness_sd",
            "core_offset",
        )
    },
}
"""Columns in nm with the column in px that they come from, and the power of the pixel size between them."""

Rule = tuple[str, str, Any]
"""A column, what must hold for it, and for each row whether it does."""


def check_particle_table(frame: pd.DataFrame | pa.Table) -> None:
    """Check that a particle table means what its columns say, before it is written.

    Lengths in nm are null exactly if the calibration is missing, and otherwise the length in px times the
    pixel size; diameters and areas agree; shape factors are finite and within their bounds; whole particles
    have an edge weight of at least 1 and cut particles have none; identifiers are unique.

    Parameters
    ----------
    frame : DataFrame or Table
        With the columns of `PARTICLE_SCHEMA`.

    Raises
    ------
    UserError
        Naming the column, the rows and the rule.
    """
    table = conform(frame, PARTICLE_SCHEMA_IN_MEMORY).to_pandas()
    rules = [*_value_rules(table), *_core_rules(table), *_shell_rules(table), *_nm_rules(table)]
    faults = [f"{name}: {rule} (rows {_rows(kept)})" for name, rule, kept in rules if not np.all(kept)]
    if faults:
        more = f"; and {len(faults) - 3} more faults" if len(faults) > 3 else ""
        raise UserError(f"the particle table breaks its rules: column {'; column '.join(faults[:3])}{more}")


def _value_rules(table: pd.DataFrame) -> Iterator[Rule]:
    """Say which values single columns may have."""
    yield "particle_id", "must be unique", ~table["particle_id"].duplicated(keep=False)
    for name, allowed in (
        ("mode", MODES),
        ("calibration", CALIBRATIONS),
        ("image_quality", IMAGE_QUALITIES),
    ):
        yield name, f"must be one of {', '.join(allowed)}", table[name].isin(allowed)
    yield "label", "must be at least 1", table["label"] >= 1
    for name in ("calibration_uncertainty", "confidence"):
        yield name, "must be between 0 and 1", table[name].isna() | table[name].between(0, 1)
    yield "eccentricity", "must be between 0 and 1", table["eccentricity"].between(0, 1)
    for name in (
        *("area_px", "equivalent_diameter_px", "perimeter_px", "feret_max_px", "feret_min_px"),
        *("circularity", "roundness", "aspect_ratio", "solidity"),
    ):
        kept = np.isfinite(table[name]) & (table[name] > 0)
        yield name, "must be finite and greater than 0", kept
    for name in ("aspect_ratio", "solidity"):
        yield name, "must be at most 1", table[name] <= 1 + 1e-9


def _core_rules(table: pd.DataFrame) -> Iterator[Rule]:
    """Say how the columns of the core depend on each other."""
    scale = table["pixel_size_nm"]
    yield (
        "pixel_size_nm",
        "must be positive, and null exactly if calibration is missing",
        (scale.isna() == (table["calibration"] == "missing")) & ~(scale <= 0),
    )
    yield (
        "equivalent_diameter_px",
        "must be 2 √(area / π)",
        _agree(table["equivalent_diameter_px"], 2 * np.sqrt(table["area_px"] / np.pi)),
    )
    yield (
        "feret_min_px",
        "must not exceed feret_max_px",
        table["feret_min_px"] <= table["feret_max_px"] + 1e-9,
    )
    yield (
        "edge_weight",
        "must be at least 1 for whole particles and null at the edge",
        np.where(table["touches_edge"], table["edge_weight"].isna(), table["edge_weight"] >= 1),
    )


def _shell_rules(table: pd.DataFrame) -> Iterator[Rule]:
    """Say how the columns of the shell depend on each other."""
    measured = table["shell_outer_diameter_px"].notna()
    weight = table["shell_edge_weight"]
    yield (
        "shell_edge_weight",
        "must be at least 1 if the whole particle was measured, else null",
        np.where(measured, weight >= 1, weight.isna()),
    )
    cores = table["cores_in_shell"]
    yield (
        "cores_in_shell",
        "must be at least 1 if there is a shell_label that the frame does not cut, else null",
        np.where(table["shell_label"].notna() & weight.notna(), cores >= 1, cores.isna()),
    )
    thickness = table["shell_thickness_px"]
    yield (
        "shell_thickness_px",
        "must not be negative, and must be null without a whole shell",
        np.where(measured, ~(thickness < 0), thickness.isna()),
    )


def _nm_rules(table: pd.DataFrame) -> Iterator[Rule]:
    """Say how lengths and areas in nm come from those in px."""
    missing, scale = table["calibration"] == "missing", table["pixel_size_nm"]
    for name, (pixels, power) in NM_COLUMNS.items():
        yield (
            name,
            f"must be null exactly if calibration is missing or {pixels} is null",
            table[name].isna() == (missing | table[pixels].isna()),
        )
        yield (
            name,
            f"must be {pixels} times the pixel size{' squared' if power == 2 else ''}",
            table[name].isna() | _agree(table[name], table[pixels] * scale**power),
        )


def _agree(left: pd.Series, right: pd.Series) -> np.ndarray:
    return np.isclose(left, right, rtol=1e-6, atol=1e-9)


def _rows(kept: Any) -> str:
    """Name the rows that break a rule."""
    rows = np.flatnonzero(~np.asarray(kept))
    return ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
