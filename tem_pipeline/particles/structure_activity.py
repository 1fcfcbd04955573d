"""Relates the structure of samples to their catalytic activity: every descriptor to every activity.

Reading the activities is left to `activity_tables`, drawing them to `reports.figures`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy

from tem_pipeline.particles.correlation import (
    Line,
    correlation,
    correlation_interval,
    fit_line,
    permutation_p,
)
from tem_pipeline.tables import STRUCTURE_ACTIVITY_SCHEMA, conform

FEWEST_SAMPLES = 4


@dataclass(frozen=True)
class Descriptor:
    """A number that describes a sample's particles, and its row and column in `sample_summary`."""

    name: str
    unit: str
    measurand: str
    row_unit: str
    column: str


DESCRIPTORS = (
    Descriptor("mean_diameter", "nm", "equivalent_diameter", "nm", "mean_corrected"),
    Descriptor("d32", "nm", "equivalent_diameter", "nm", "d32_corrected"),
    Descriptor("width", "nm", "equivalent_diameter", "nm", "standard_deviation_corrected"),
    Descriptor("shell_thickness", "nm", "shell_thickness", "nm", "mean_corrected"),
    Descriptor("circularity", "1", "circularity", "1", "mean_corrected"),
    Descriptor("density", "1/µm²", "equivalent_diameter", "nm", "particles_per_um2"),
    Descriptor("dispersion", "1", "equivalent_diameter", "nm", "dispersion"),
    Descriptor("metal_surface_area", "m²/g", "equivalent_diameter", "nm", "metal_surface_area_m2_per_g"),
)


def structure_activity_of(summaries: pd.DataFrame, measurements: pd.DataFrame) -> pd.DataFrame:
    """Relate every descriptor of the samples to every activity.

    Activities are compared only within one unit and one set of conditions. Repeated measurements of a sample
    are averaged.

    Parameters
    ----------
    summaries : DataFrame
        The table `sample_summary`. Descriptors are edge-weighted; no sample gives a length in nm without
        calibration.
    measurements : DataFrame
        As `read_activity` returns them.

    Returns
    -------
    DataFrame
        With the columns of `STRUCTURE_ACTIVITY_SCHEMA`, a row for each descriptor, unit and conditions.

        correlations : Pearson's, with the p value of Student's t, and Spearman's, with that of 9999
            permutations, exact up to 7 samples. Intervals: see `correlation_interval`.
        corrected p values : Holm, *Scand. J. Statist.* 6 (1979) 65, over all p values of the table. It holds
            however the tests depend on one another, and descriptors do.
        regression : see `fit_line`; the same columns for the logarithms, whose slope is the exponent of a
            power law.
    """
    rows = []
    for (unit, conditions), group in measurements.groupby(["unit", "conditions"], sort=True):
        activities = _average(group)
        others = set(measurements.loc[measurements["conditions"] == conditions, "unit"]) - {unit}
        note = f"also measured in {', '.join(sorted(others))}: units are not mixed" if others else None
        for descriptor in DESCRIPTORS:
            points = _points(summaries, activities, descriptor)
            rows.append(
                {
                    "activity_unit": unit,
                    "conditions": conditions,
                    "descriptor": descriptor.name,
                    "descriptor_unit": descriptor.unit,
                    "n_samples": len(points),
                    "note": note,
                    **{name: [None if pd.isna(v) else v for v in points[name]] for name in points},
                    **_relate(points, len(activities)),
                }
            )
    table = pd.DataFrame(rows, columns=STRUCTURE_ACTIVITY_SCHEMA.names)
    _correct(table)
    return conform(table, STRUCTURE_ACTIVITY_SCHEMA).to_pandas()


def _average(group: pd.DataFrame) -> pd.DataFrame:
    """Average the measurements of each sample; the error is known if that of every measurement is."""
    by_sample = group.groupby("sample_id")
    n = by_sample.size()
    squares = by_sample["standard_error"].agg(lambda errors: np.sum(np.square(errors.to_numpy())))
    return pd.DataFrame({"activity": by_sample["activity"].mean(), "activity_error": np.sqrt(squares) / n})


def _points(summaries: pd.DataFrame, activities: pd.DataFrame, descriptor: Descriptor) -> pd.DataFrame:
    """Join a descriptor of the samples with their activity; samples in ascending order."""
    of_measurand = (summaries["measurand"] == descriptor.measurand) & (
        summaries["unit"] == descriptor.row_unit
    )
    described = summaries[of_measurand].set_index("sample_id")
    joined = activities.join(described, how="inner").sort_index()
    points = pd.DataFrame(
        {
            "sample_ids": joined.index.astype(str),
            "descriptor_values": joined[descriptor.column].to_numpy(float),
            "descriptor_standard_errors": joined[f"{descriptor.column}_standard_error"].to_numpy(float),
            "activity_values": joined["activity"].to_numpy(float),
            "activity_standard_errors": joined["activity_error"].to_numpy(float),
        }
    )
    return points[np.isfinite(points["descriptor_values"])].reset_index(drop=True)


def _relate(points: pd.DataFrame, n_measured: int) -> dict[str, Any]:
    x, y = points["descriptor_values"].to_numpy(), points["activity_values"].to_numpy()
    x_error = points["descriptor_standard_errors"].to_numpy()
    y_error = points["activity_standard_errors"].to_numpy()
    n = len(x)
    if n < FEWEST_SAMPLES:
        found = "1 sample has" if n == 1 else f"{n} samples have"
        needed = f"at least {FEWEST_SAMPLES} are needed"
        return {"reason": f"{found} both, of {n_measured} with this activity; {needed}"}
    for values, what in ((x, "this descriptor"), (y, "this activity")):
        if np.ptp(values) <= 1e-12 * np.max(np.abs(values)):
            return {"reason": f"{what} is the same for all {n} samples"}
    related: dict[str, Any] = {}
    for name, (a, b) in {
        "pearson": (x, y),
        "spearman": (scipy.stats.rankdata(x), scipy.stats.rankdata(y)),
    }.items():
        related[name] = correlation(a, b)
        related[f"{name}_low"], related[f"{name}_high"] = correlation_interval(x, y, ranks=name == "spearman")
    related["pearson_p"] = scipy.stats.pearsonr(x, y).pvalue
    related["spearman_p"] = permutation_p(scipy.stats.rankdata(x), scipy.stats.rankdata(y))
    line = fit_line(x, y, x_error, y_error)
    related |= {"regression": line.method, **_interval(line, "slope"), **_interval(line, "intercept")}
    if x.min() > 0 and y.min() > 0:
        power = fit_line(np.log(x), np.log(y), x_error / x, y_error / y)
        related |= _interval(power, "slope", "exponent")
    return related


def _interval(line: Line, part: str, name: str | None = None) -> dict[str, float]:
    suffixes = ("", "_standard_error", "_low", "_high")
    return {f"{name or part}{suffix}": getattr(line, f"{part}{suffix}") for suffix in suffixes}


def _correct(table: pd.DataFrame) -> None:
    """Fill in the p values that Holm's procedure gives over the whole table."""
    columns = ["pearson_p", "spearman_p"]
    found = table[columns].to_numpy(dtype=float)
    tested = np.isfinite(found)
    p, n = found[tested], int(tested.sum())
    order = np.argsort(p)
    stepped = np.maximum.accumulate((n - np.arange(n)) * p[order])
    corrected = np.full(found.shape, np.nan)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(stepped, 1)
    corrected[tested] = adjusted
    for i, name in enumerate(columns):
        table[f"{name}_corrected"] = corrected[:, i]
    table["n_tests"] = n
