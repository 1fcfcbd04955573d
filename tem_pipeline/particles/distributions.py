"""Sums up a session's particles: how many were counted, and how their sizes are distributed.

Only whole particles of good images are counted; sizes in nm come only from calibrated images.
"""

from typing import Any

import numpy as np
import pandas as pd

from tem_pipeline.particles.schema import SIZE_DISTRIBUTION_SCHEMA, conform

MEASURANDS = ("equivalent_diameter", "perimeter")
_FEWEST_BINS, _MOST_BINS = 5, 60


def histogram_edges(values: np.ndarray) -> np.ndarray:
    """Choose a histogram's bins: round numbers, about as wide as Freedman and Diaconis advise.

    Freedman & Diaconis, *Z. Wahrscheinlichkeitstheorie verw. Gebiete* 57 (1981) 453: width 2·IQR/∛N. It is
    rounded to 1, 2 or 5 times a power of ten that gives 5 to 60 bins.

    Parameters
    ----------
    values : ndarray, (n,)
        Finite.

    Returns
    -------
    ndarray
        Ascending edges that hold every value; empty without values.
    """
    if not len(values):
        return np.zeros(0)
    low, high = float(np.min(values)), float(np.max(values))
    if high - low <= 1e-9 * max(abs(high), 1e-12):
        half = 0.05 * abs(high) or 0.5
        return np.array([low - half, high + half])
    quartiles = np.subtract(*np.percentile(values, (75, 25)))
    wanted = 2 * quartiles / np.cbrt(len(values)) or (high - low) / np.sqrt(len(values))
    width = _round_step(
        float(np.clip(wanted, (high - low) / _MOST_BINS, (high - low) / _FEWEST_BINS)), low, high
    )
    first, last = np.floor(low / width), np.ceil(high / width)
    edges = np.arange(first, last + 1) * width
    # Products like 3 × 0.1 land beside the number they mean.
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges


def _round_step(width: float, low: float, high: float) -> float:
    """Find the round step nearest to `width` whose bins are neither too few nor too many."""
    exponent = np.floor(np.log10(width))
    steps = [m * 10.0 ** (exponent + e) for e in (-1, 0, 1) for m in (1, 2, 5)]
    bins = {step: np.ceil(high / step) - np.floor(low / step) for step in steps}
    allowed = [step for step in steps if _FEWEST_BINS <= bins[step] <= _MOST_BINS] or steps
    return min(allowed, key=lambda step: abs(np.log(step / width)))


def size_distributions(
    particles: pd.DataFrame,
    manifest: pd.DataFrame,
    quality: pd.DataFrame,
    session_id: str,
    sample_id: str,
) -> pd.DataFrame:
    """Sum up one session, one row for each measurand and unit.

    Parameters
    ----------
    particles : DataFrame
        The session's particle table; may be empty.
    manifest : DataFrame
        One row an image: image_id, field_id, status ("ok" is measured), calibration, height_px, width_px,
        pixel_size_y_nm and, where pixels aren't square, pixel_size_x_nm.
    quality : DataFrame
        image_id and image_quality ("good" or "review") of the measured images; one that isn't listed is good.
    session_id, sample_id : str

    Returns
    -------
    DataFrame
        With the columns of `SIZE_DISTRIBUTION_SCHEMA`. Calibrated images give rows in nm, images whose
        calibration is missing rows in px; a session without measured images gives rows in nm with zero
        counts.
        An image without particles changes the number of images, their area and the density, nothing else.
    """
    measured = manifest[manifest["status"] == "ok"]
    verdicts = quality.set_index("image_id")["image_quality"] if len(quality) else pd.Series(dtype=object)
    review = measured["image_id"].map(verdicts).eq("review")
    uncalibrated = measured["calibration"].eq("missing")
    rows = []
    for unit, of_unit in (("nm", ~uncalibrated), ("px", uncalibrated)):
        if not of_unit.any() and not (unit == "nm" and measured.empty):
            continue
        images = measured[of_unit & ~review]
        candidates = particles[particles["image_id"].isin(images["image_id"])]
        touching = candidates["touches_edge"].astype(bool)
        counted = candidates[~touching]
        area = None
        if unit == "nm":
            height_nm = images["height_px"] * images["pixel_size_y_nm"]
            width_nm = images["width_px"] * images.get("pixel_size_x_nm", images["pixel_size_y_nm"])
            area = float((height_nm * width_nm).sum()) / 1e6
        common = {
            "session_id": session_id,
            "sample_id": sample_id,
            "unit": unit,
            "n_images": len(images),
            "n_images_with_particles": counted["image_id"].nunique(),
            "n_fields": images["field_id"].nunique(),
            "n_fields_with_particles": counted["field_id"].nunique(),
            "n_counted": len(counted),
            "n_split": int(counted["was_split"].astype(bool).sum()),
            "n_excluded_edge": int(touching.sum()),
            "n_review_images": int((of_unit & review).sum()),
            "imaged_area_um2": area,
            "particles_per_um2": float(counted["edge_weight"].sum()) / area if area else None,
            "calibration_note": _calibration_note(unit, int(uncalibrated.sum()), len(measured)),
        }
        for measurand in MEASURANDS:
            values = counted[f"{measurand}_{unit}"].to_numpy(dtype=float)
            rows.append({**common, "measurand": measurand, **_describe(values)})
    return conform(
        pd.DataFrame(rows, columns=SIZE_DISTRIBUTION_SCHEMA.names), SIZE_DISTRIBUTION_SCHEMA
    ).to_pandas()


def _calibration_note(unit: str, n_missing: int, n_measured: int) -> str | None:
    if not n_missing:
        return None
    if unit == "px":
        return f"calibration is missing for {n_missing} of {n_measured} images: their sizes are in pixels"
    return f"{n_missing} of {n_measured} images have no calibration and are left out here: see the rows in px"


def _describe(values: np.ndarray) -> dict[str, Any]:
    edges = histogram_edges(values)
    counts = np.histogram(values, edges)[0] if len(values) else np.zeros(0, dtype=np.int64)
    n = len(values)
    return {
        "mean": float(np.mean(values)) if n else None,
        "standard_deviation": float(np.std(values, ddof=1)) if n > 1 else None,
        "median": float(np.median(values)) if n else None,
        "minimum": float(np.min(values)) if n else None,
        "maximum": float(np.max(values)) if n else None,
        "histogram_edges": edges,
        "histogram_counts": counts,
    }
