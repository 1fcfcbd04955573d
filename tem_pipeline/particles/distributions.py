"""Summarises the particles of a session or sample: how many were counted, and their size distribution.

Only whole particles of good images are counted; sizes in nm come only from calibrated images. Statistics are
computed in `statistics`, surface atoms in `metals`.
"""

from typing import Any

import numpy as np
import pandas as pd

from tem_pipeline.particles import uncertainty
from tem_pipeline.particles.metals import METALS, dispersion, surface_area_m2_per_g
from tem_pipeline.particles.statistics import describe
from tem_pipeline.tables import (
    SAMPLE_SUMMARY_SCHEMA,
    SIZE_DISTRIBUTION_SCHEMA,
    conform,
)
from tem_pipeline.text import counted

# Each measurand's kind: only diameters have D[3,2] and volume-weighted quantiles; ratios have no fits.
MEASURANDS = {
    "equivalent_diameter": "diameter",
    "perimeter": "length",
    "feret_max": "length",
    "shell_outer_diameter": "diameter",
    "shell_thickness": "length",
    "circularity": "ratio",
    "aspect_ratio": "ratio",
}
PARTICLE_COLUMNS = (
    *("image_id", "field_id", "calibration", "image_quality", "touches_edge", "was_split", "edge_weight"),
    *("shell_label", "shell_edge_weight"),
    *(
        column
        for name, kind in MEASURANDS.items()
        for column in ([name] if kind == "ratio" else [f"{name}_nm", f"{name}_px"])
    ),
)
"""The columns of `particle_table` that a session's statistics and report need."""
TARGET_HALF_WIDTH = 0.05
# Lengths of the core: the model's diameter error applies to these.
_CORE_LENGTHS = ("equivalent_diameter", "perimeter", "feret_max")


def size_distributions(
    particles: pd.DataFrame,
    manifest: pd.DataFrame,
    quality: pd.DataFrame,
    session_id: str,
    sample_id: str,
    target_half_width: float = TARGET_HALF_WIDTH,
) -> pd.DataFrame:
    """Summarise one session, one row per measurand and unit.

    Parameters
    ----------
    particles : DataFrame
        The session's particle table; may be empty.
    manifest : DataFrame
        One row per image: image_id, field_id, status ("ok" is measured), calibration, height_px, width_px,
        pixel_size_y_nm and, where pixels aren't square, pixel_size_x_nm; calibration_uncertainty and metal
        where they are known.
    quality : DataFrame
        image_id and image_quality ("good" or "review") of the measured images; one that isn't listed is good.
        Where it is known, model_diameter_error, relative.
    session_id, sample_id : str
    target_half_width : float
        Relative half-width of the median's interval that is enough.

    Returns
    -------
    DataFrame
        With the columns of `SIZE_DISTRIBUTION_SCHEMA`. Calibrated images give rows in nm, images whose
        calibration is missing rows in px, both together ratios; measurands of shells have rows where there
        are shells; a session without measured images gives rows in nm with zero counts.
        An image without particles changes the number of images and fields, their area and the density,
        nothing else.
    """
    rows = _rows(particles, _judged(manifest, quality), target_half_width)
    frame = pd.DataFrame([{"session_id": session_id, "sample_id": sample_id, **row} for row in rows])
    return conform(frame, SIZE_DISTRIBUTION_SCHEMA).to_pandas()


def sample_summary(
    particles: pd.DataFrame,
    manifest: pd.DataFrame,
    quality: pd.DataFrame,
    target_half_width: float = TARGET_HALF_WIDTH,
) -> pd.DataFrame:
    """Summarise every sample over all its sessions, one row per measurand and unit.

    Parameters
    ----------
    particles, manifest, quality : DataFrame
        As in `size_distributions`, of any number of sessions, each with the column session_id; the manifest
        also with sample_id.
    target_half_width : float

    Returns
    -------
    DataFrame
        With the columns of `SAMPLE_SUMMARY_SCHEMA`. Fields of different sessions are different fields. An
        image that is in two sessions of a sample counts once. `differences` says how the sessions differ.
    """
    rows: list[dict[str, Any]] = []
    for sample_id, of_sample in manifest.groupby("sample_id", sort=True):
        sessions = sorted(of_sample["session_id"].unique())
        tables = [
            _across_sessions(table[table["session_id"].isin(sessions)])
            for table in (particles, of_sample, quality)
        ]
        images = _judged(tables[1], tables[2])
        again = images.get("pixel_sha256", pd.Series(None, index=images.index, dtype=object))
        again = again.notna() & again.duplicated()
        images = images[~again]
        common = {
            "sample_id": sample_id,
            "sessions": sessions,
            "n_sessions": len(sessions),
            "differences": _differences(images, int(again.sum())),
        }
        rows += [{**common, **row} for row in _rows(tables[0], images, target_half_width)]
    frame = pd.DataFrame(rows, columns=None if rows else SAMPLE_SUMMARY_SCHEMA.names)
    return conform(frame, SAMPLE_SUMMARY_SCHEMA).to_pandas()


def _across_sessions(table: pd.DataFrame) -> pd.DataFrame:
    """Make the names of images and fields unique over sessions."""
    names = {
        name: table["session_id"].astype(str) + "/" + table[name].astype(str)
        for name in ("image_id", "field_id")
        if name in table
    }
    return table.assign(**names)


def _differences(images: pd.DataFrame, n_again: int) -> str | None:
    """Describe how the measured images differ between the sessions of a sample."""
    texts = []
    for column, name in (
        ("calibration", "calibration"),
        ("calibration_uncertainty", "calibration uncertainty"),
        ("mode", "mode"),
        ("model", "model"),
        ("metal", "metal"),
    ):
        if column in images:
            of_sessions = images.groupby("session_id")[column].agg(
                lambda values: ", ".join(sorted({"unknown" if pd.isna(v) else f"{v}" for v in values}))
            )
            if len(set(of_sessions)) > 1:
                texts.append(f"{name} ({'; '.join(f'{k}: {v}' for k, v in of_sessions.items())})")
    text = f"sessions differ in {', '.join(texts)}" if texts else ""
    if n_again:
        text += ("; " if text else "") + f"{counted(n_again, 'image')} in several sessions, each counted once"
    return text or None


def _judged(manifest: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """Give the measured images with their quality and what is known about their model."""
    measured = manifest[manifest["status"] == "ok"]
    known = quality.drop_duplicates("image_id").set_index("image_id")
    if {"model_name", "model_version"} <= set(known):
        known["model"] = known["model_name"] + " " + known["model_version"].astype(str)
    added = {
        column: measured["image_id"].map(known[column])
        for column in ("image_quality", "model_diameter_error", "model", "mode")
        if column in known
    }
    return measured.assign(**added)


def _rows(particles: pd.DataFrame, measured: pd.DataFrame, target: float) -> list[dict[str, Any]]:
    """Summarise measured images, one row per measurand and unit."""
    review = measured["image_quality"].eq("review")
    uncalibrated = measured["calibration"].eq("missing")
    n_missing, n_measured = int(uncalibrated.sum()), len(measured)
    selections = {"nm": ~uncalibrated, "px": uncalibrated, "1": pd.Series(True, index=measured.index)}
    if not n_measured or not (~uncalibrated).any():
        del selections["nm" if n_measured else "px"]
    elif not n_missing:
        del selections["px"]
    rows = []
    for unit, of_unit in selections.items():
        images = measured[of_unit & ~review]
        candidates = particles[particles["image_id"].isin(images["image_id"])]
        for measurand, kind in MEASURANDS.items():
            column = measurand if kind == "ratio" else f"{measurand}_{unit}"
            if (kind == "ratio") != (unit == "1"):
                continue
            if measurand.startswith("shell_") and (column not in particles or particles[column].isna().all()):
                continue
            counted, n_edge = _counted(candidates, measurand, column)
            row = {
                "measurand": measurand,
                "unit": unit,
                "n_images": len(images),
                "n_fields": images["field_id"].nunique(),
                "n_images_with_particles": counted["image_id"].nunique(),
                "n_fields_with_particles": counted["field_id"].nunique(),
                "n_counted": len(counted),
                "n_excluded_edge": n_edge,
                "n_split": int(counted["was_split"].astype(bool).sum()),
                "n_review_images": int((of_unit & review).sum()),
                "calibration_note": _calibration_note(unit, n_missing, n_measured),
            }
            if unit == "nm":
                row |= _density(counted, images)
            row |= describe(counted, kind)
            # Images without particles say nothing about sizes.
            shown = images[images["image_id"].isin(counted["image_id"].unique())]
            row |= _budget(row, shown)
            row |= _verdict(row, target)
            row |= _surface(row, images if shown.empty else shown)
            rows.append(row)
    return rows


def _counted(candidates: pd.DataFrame, measurand: str, column: str) -> tuple[pd.DataFrame, int]:
    """Give the counted particles with value and weight, and the number of particles that the frame cuts.

    The weight of a shell comes from its own extents. Its outer diameter counts once, even with several cores.
    """
    if measurand.startswith("shell_"):
        candidates = candidates[candidates["shell_label"].notna()]
        if measurand == "shell_outer_diameter":
            candidates = candidates.drop_duplicates(["image_id", "shell_label"])
        cut, weight = candidates["shell_edge_weight"].isna(), "shell_edge_weight"
    else:
        cut, weight = candidates["touches_edge"].astype(bool), "edge_weight"
    whole = candidates[~cut & candidates[column].notna()]
    whole = whole.assign(value=whole[column].astype(float), weight=whole[weight].astype(float))
    return whole, int(cut.sum())


def _density(counted: pd.DataFrame, images: pd.DataFrame) -> dict[str, Any]:
    height_nm = images["height_px"] * images["pixel_size_y_nm"]
    width_nm = images["width_px"] * images.get("pixel_size_x_nm", images["pixel_size_y_nm"])
    areas = (height_nm * width_nm).astype(float).groupby(images["field_id"]).sum() / 1e6
    area = float(areas.sum())
    if not area:
        return {"imaged_area_um2": area}
    weights = counted.groupby("field_id")["weight"].sum().reindex(areas.index, fill_value=0.0)
    return {
        "imaged_area_um2": area,
        "particles_per_um2": float(weights.sum()) / area,
        "particles_per_um2_standard_error": uncertainty.density_error(weights.to_numpy(), areas.to_numpy()),
    }


def _calibration_note(unit: str, n_missing: int, n_measured: int) -> str | None:
    if not n_missing or unit == "1":
        return None
    images = f"{n_missing} of {counted(n_measured, 'image')}"
    if unit == "px":
        return f"calibration is missing for {images}: sizes are in pixels"
    return f"calibration is missing for {images}, left out here: see the rows in px"


def _largest(images: pd.DataFrame, column: str) -> float | None:
    """Give the largest known value; None unless every image has one."""
    if column not in images or images.empty or images[column].isna().any():
        return None
    return float(images[column].max())


def _budget(row: dict[str, Any], images: pd.DataFrame) -> dict[str, Any]:
    """List the relative expanded uncertainties (k = 2) of the corrected mean, and their sum.

    A calibration error is common to all images, so more images don't reduce it; if images differ, the largest
    counts. Sampling is half the 95 % interval, which allows for few fields.
    """
    if not row["n_counted"]:
        return {}
    calibration: float | None = 0.0
    if row["unit"] == "nm":
        calibration = _largest(images, "calibration_uncertainty")
    segmentation = _largest(images, "model_diameter_error") if row["measurand"] in _CORE_LENGTHS else None
    low, high, mean = (row.get(f"mean_corrected{end}") for end in ("_low", "_high", ""))
    parts = {
        "calibration": None if calibration is None else 2 * calibration,
        "sampling": (high - low) / 2 / mean if low is not None and mean else None,
        "segmentation": None if segmentation is None else 2 * segmentation,
    }
    known = [part for part in parts.values() if part is not None]
    unknown = [name for name, part in parts.items() if part is None]
    return {
        **{f"relative_uncertainty_{name}": part for name, part in parts.items()},
        "relative_uncertainty_combined": float(np.sqrt(np.sum(np.square(known)))) if known else None,
        "uncertainty_note": f"unknown, not in the sum: {', '.join(unknown)}" if unknown else None,
    }


def _verdict(row: dict[str, Any], target: float) -> dict[str, Any]:
    """Decide whether there are enough particles, and how many more images with particles are needed."""
    low, high, median = (row.get(f"median_corrected{end}") for end in ("_low", "_high", ""))
    if low is None or not median:
        return {"target_half_width": target}
    half, n_fields = (high - low) / 2 / median, row["n_fields_with_particles"]
    needed = uncertainty.fields_needed(half, n_fields, target)
    return {
        "target_half_width": target,
        "median_half_width": half,
        "enough_particles": half <= target,
        "more_images_needed": None
        if needed is None
        else uncertainty.images_needed(needed, n_fields, row["n_images_with_particles"]),
    }


def _surface(row: dict[str, Any], images: pd.DataFrame) -> dict[str, Any]:
    """Compute dispersion and metal surface area, or say why there are none."""
    named = sorted(images["metal"].dropna().unique()) if "metal" in images else []
    metal = named[0] if len(named) == 1 else None
    if row["measurand"] != "equivalent_diameter" or row["unit"] != "nm":
        return {"metal": metal}
    if metal is None:
        reason = f"the metals differ: {', '.join(named)}" if named else "session.yaml names no metal"
        return {"metal": None, "metal_note": f"no dispersion: {reason}"}
    if metal not in METALS:
        return {"metal": metal, "metal_note": f"no dispersion: {metal} is none of {', '.join(METALS)}"}
    d32, error = row.get("d32_corrected"), row.get("d32_corrected_standard_error")
    if d32 is None:
        return {"metal": metal, "metal_note": "no dispersion: no particle was counted"}
    surface = {
        "dispersion": dispersion(METALS[metal], d32),
        "metal_surface_area_m2_per_g": surface_area_m2_per_g(METALS[metal], d32),
    }
    errors = {f"{name}_standard_error": error and value * error / d32 for name, value in surface.items()}
    over = "over 1: the formula doesn't hold for so small particles" if surface["dispersion"] > 1 else None
    return {"metal": metal, **surface, **errors, "metal_note": over}
