"""The columns of the tables that people query, with units and meanings, and the checks a table must pass.

Filling the measured columns is left to `measurement`, the statistics to `distributions`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tem_pipeline.errors import UserError

SCHEMA_VERSION = "2"
MODES = ("bright_field", "haadf")
CALIBRATIONS = ("metadata", "session", "scale_bar", "missing")
IMAGE_QUALITIES = ("good", "review")


def _field(name: str, kind: pa.DataType, unit: str, description: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable, metadata={"unit": unit, "description": description})


def _required(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    return _field(name, kind, unit, description, nullable=False)


_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_METADATA = {"schema_version": SCHEMA_VERSION}

PROVENANCE_FIELDS = (
    _required("particle_id", _TEXT, "", "session_id/image_id/label; unique in the lake"),
    _required("session_id", _TEXT, "", "key of the session, as in the folder's name session=…"),
    _field("session_name", _TEXT, "", "name of the session folder as the microscopist wrote it"),
    _required("sample_id", _TEXT, "", "sample, from session.yaml; else the session's name"),
    _required("image_id", _TEXT, "", "image within the session, as in raw_tem_images"),
    _required("field_id", _TEXT, "", "acquisition that the image belongs to; the unit of resampling"),
    _required("file", _TEXT, "", "microscope file, relative to the session folder"),
    _field("file_sha256", _TEXT, "", "SHA-256 of the microscope file"),
    _field("pixel_sha256", _TEXT, "", "SHA-256 of the image's pixels"),
    _required("mode", _TEXT, "", "bright_field (particles dark) or haadf (particles bright)"),
    _field("pixel_size_nm", _REAL, "nm", "side of a square pixel; null where calibration is missing"),
    _required(
        "calibration",
        _TEXT,
        "",
        "source of the pixel size: metadata, session, scale_bar (reserved) or missing",
    ),
    _field("calibration_uncertainty", _REAL, "1", "relative standard uncertainty of the pixel size"),
    _field("model_name", _TEXT, "", "registered model that drew the masks, or pretrained"),
    _field("model_version", _TEXT, "", "version of that model"),
    _field("model_sha256", _TEXT, "", "SHA-256 of the model's weights as they were used"),
    _field("loss", _TEXT, "", "loss function that the model was trained with"),
    _field("code_version", _TEXT, "", "version of tem_pipeline that measured"),
    _required("image_quality", _TEXT, "", "good, or review: such images are left out of the statistics"),
    _field("metal", _TEXT, "", "metal of the cores, from session.yaml"),
)

MEASURED_FIELDS = (
    _required("label", _WHOLE, "", "number of the particle in the image's label TIFF"),
    _required("area_px", _WHOLE, "px²", "number of pixels S"),
    _field("area_nm2", _REAL, "nm²", "area S"),
    _required("equivalent_diameter_px", _REAL, "px", "diameter of the circle of equal area, 2 √(S/π)"),
    _field("equivalent_diameter_nm", _REAL, "nm", "diameter of the circle of equal area, 2 √(S/π)"),
    _required(
        "perimeter_px", _REAL, "px", "perimeter P, Crofton's formula in 4 directions, rims of holes included"
    ),
    _field(
        "perimeter_nm", _REAL, "nm", "perimeter P, Crofton's formula in 4 directions, rims of holes included"
    ),
    _required("circularity", _REAL, "1", "4πS/P²; over 1 for tiny particles, a discretisation effect"),
    _required("roundness", _REAL, "1", "4S/(πF_max²)"),
    _required("feret_max_px", _REAL, "px", "largest Feret diameter F_max"),
    _field("feret_max_nm", _REAL, "nm", "largest Feret diameter F_max"),
    _required("feret_min_px", _REAL, "px", "smallest Feret diameter F_min"),
    _field("feret_min_nm", _REAL, "nm", "smallest Feret diameter F_min"),
    _required("aspect_ratio", _REAL, "1", "F_min/F_max"),
    _required("solidity", _REAL, "1", "S / pixel centres within the convex hull; 1 for convex particles"),
    _required("eccentricity", _REAL, "1", "of the ellipse with the same second moments"),
    _required(
        "orientation_rad", _REAL, "rad", "angle from the image's downward axis to the major axis, −π/2 … π/2"
    ),
    _required("centroid_y_px", _REAL, "px", "centroid's row; the first pixel's centre is 0"),
    _required("centroid_x_px", _REAL, "px", "centroid's column; the first pixel's centre is 0"),
    _field("centroid_y_nm", _REAL, "nm", "centroid below the first pixel's centre"),
    _field("centroid_x_nm", _REAL, "nm", "centroid to the right of the first pixel's centre"),
    _required("bbox_top_px", _WHOLE, "px", "first row of the particle"),
    _required("bbox_left_px", _WHOLE, "px", "first column of the particle"),
    _required("bbox_bottom_px", _WHOLE, "px", "row after the particle's last"),
    _required("bbox_right_px", _WHOLE, "px", "column after the particle's last"),
    _field("mean_intensity", _REAL, "counts", "mean intensity of the recorded image over the particle"),
    _field("minimum_intensity", _REAL, "counts", "least intensity of the recorded image over the particle"),
    _field("background_intensity", _REAL, "counts", "mean intensity around the particle, particles left out"),
    _field(
        "contrast", _REAL, "1", "(mean − background)/background; null where the background isn't positive"
    ),
    _field("confidence", _REAL, "1", "mean predicted probability of foreground over the particle"),
    _required("touches_edge", _FLAG, "", "a pixel lies on the frame; such particles are never counted"),
    _required("was_split", _FLAG, "", "came out of a cluster of touching particles"),
    _field("edge_weight", _REAL, "1", "Miles–Lantuéjoul weight 1/p of whole particles; null at the edge"),
    _field(
        "shell_label",
        _WHOLE,
        "",
        "number of the core's whole particle in the shells' label TIFF; null if bare",
    ),
    _field("cores_in_shell", _WHOLE, "1", "cores in the same shell; null where the frame cuts it"),
    _field(
        "shell_outer_diameter_px", _REAL, "px", "equivalent diameter of the whole particle, shell included"
    ),
    _field(
        "shell_outer_diameter_nm", _REAL, "nm", "equivalent diameter of the whole particle, shell included"
    ),
    _field(
        "shell_thickness_px",
        _REAL,
        "px",
        "mean, along radii from the core's centroid, of core rim to shell rim",
    ),
    _field(
        "shell_thickness_nm",
        _REAL,
        "nm",
        "mean, along radii from the core's centroid, of core rim to shell rim",
    ),
    _field("shell_thickness_sd_px", _REAL, "px", "standard deviation of the thickness along those radii"),
    _field("shell_thickness_sd_nm", _REAL, "nm", "standard deviation of the thickness along those radii"),
    _field("core_offset_px", _REAL, "px", "distance of the core's centroid from the whole particle's"),
    _field("core_offset_nm", _REAL, "nm", "distance of the core's centroid from the whole particle's"),
    _field(
        "shell_edge_weight", _REAL, "1", "Miles–Lantuéjoul weight of the whole particle; null where it is cut"
    ),
)

PARTICLE_SCHEMA = pa.schema(PROVENANCE_FIELDS + MEASURED_FIELDS, metadata=_METADATA)

PARTICLE_SCHEMA_IN_MEMORY = pa.schema(
    [
        field.with_type(pa.dictionary(pa.int32(), _TEXT))
        if field.type == _TEXT and field.name != "particle_id"
        else field
        for field in PARTICLE_SCHEMA
    ],
    metadata=_METADATA,
)
"""The same while a table is made, since texts that all particles of an image share take most of its memory.
Files have `PARTICLE_SCHEMA`."""

# Columns in nm, what they are in px, and the power of the pixel size between them.
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

# Name, unit ("see unit" is that of the row) and meaning; each stands in the tables plain and edge-weighted.
STATISTICS = (
    ("mean", "see unit", "arithmetic mean, number-weighted"),
    ("standard_deviation", "see unit", "sample standard deviation (ddof 1); null under 2 particles"),
    ("median", "see unit", "median, D50, number-weighted"),
    ("d10_number", "see unit", "D10, number-weighted: a tenth of the particles is smaller"),
    ("d90_number", "see unit", "D90, number-weighted"),
    ("d10_volume", "see unit", "D10, weighted by volume D³; null unless the measurand is a diameter"),
    ("d50_volume", "see unit", "D50, weighted by volume D³; null unless the measurand is a diameter"),
    ("d90_volume", "see unit", "D90, weighted by volume D³; null unless the measurand is a diameter"),
    ("d32", "see unit", "surface-weighted mean D[3,2] = ΣD³/ΣD²; null unless the measurand is a diameter"),
    ("d43", "see unit", "volume-weighted mean D[4,3] = ΣD⁴/ΣD³; null unless the measurand is a diameter"),
)
# Those with an interval from the bootstrap over fields.
INTERVAL_STATISTICS = ("mean", "standard_deviation", "median", "d10_number", "d90_number", "d32", "d43")
FIT_PARAMETERS = (
    ("normal_mean", "see unit", "mean of the fitted normal distribution"),
    ("normal_sd", "see unit", "standard deviation of the fitted normal distribution (maximum likelihood)"),
    ("lognormal_geometric_mean", "see unit", "geometric mean (median) of the fitted lognormal distribution"),
    ("lognormal_geometric_sd", "1", "geometric standard deviation of the fitted lognormal distribution"),
)


def _statistic_fields() -> Iterator[pa.Field]:
    """Give the columns of the statistics: plain, with interval, and beside them the edge-weighted ones."""
    weightings = (("", ""), ("_corrected", "; weighted by edge_weight"))
    for name, unit, meaning in STATISTICS:
        for suffix, weighted in weightings:
            yield _field(name + suffix, _REAL, unit, meaning + weighted)
            if name in INTERVAL_STATISTICS:
                of = f"{name}{suffix}"
                yield _field(
                    f"{of}_standard_error",
                    _REAL,
                    unit,
                    f"standard error of {of} over fields; see interval_note",
                )
                yield _field(f"{of}_low", _REAL, unit, f"lower end of the 95 % interval of {of}")
                yield _field(f"{of}_high", _REAL, unit, f"upper end of the 95 % interval of {of}")
    for name, unit, meaning in FIT_PARAMETERS:
        for suffix, weighted in weightings:
            yield _field(name + suffix, _REAL, unit, f"{meaning}{weighted}; null where unit is 1")
            yield _field(
                f"{name}{suffix}_standard_error", _REAL, unit, f"standard error of {name}{suffix} over fields"
            )
    for fit in ("normal", "lognormal"):
        yield _field(f"{fit}_anderson_darling", _REAL, "1", f"A² of the {fit} fit to the plain sizes")
        yield _field(
            f"{fit}_p_value",
            _REAL,
            "1",
            f"chance of a larger A² under the {fit} fit, by parametric bootstrap; it assumes independent "
            "particles, so it is too small where fields differ",
        )


def _distribution_fields() -> Iterator[pa.Field]:
    """Give the columns that the tables of sessions and of samples share."""
    yield _required(
        "measurand", _TEXT, "", "what is distributed, as the column of particle_table without unit"
    )
    yield _required(
        "unit",
        _TEXT,
        "",
        "nm over calibrated images, px over images whose calibration is missing, 1 for ratios over both",
    )
    yield _required("n_images", _WHOLE, "1", "good images, those without particles included")
    yield _required("n_images_with_particles", _WHOLE, "1", "good images with at least one counted particle")
    yield _required("n_fields", _WHOLE, "1", "acquisitions that the good images come from")
    yield _required(
        "n_fields_with_particles", _WHOLE, "1", "fields with at least one counted particle: what is resampled"
    )
    yield _required("n_counted", _WHOLE, "1", "whole particles of good images: what the statistics are over")
    yield _required(
        "n_excluded_edge", _WHOLE, "1", "particles of good images left out because the frame cuts them"
    )
    yield _required("n_split", _WHOLE, "1", "counted particles that came out of a touching cluster")
    yield _required("n_review_images", _WHOLE, "1", "images left out until somebody has looked at them")
    yield _field("imaged_area_um2", _REAL, "µm²", "area of the good images; null unless the unit is nm")
    yield _field(
        "particles_per_um2",
        _REAL,
        "1/µm²",
        "sum of edge weights over imaged area; null unless the unit is nm",
    )
    yield _field(
        "particles_per_um2_standard_error",
        _REAL,
        "1/µm²",
        "standard error of particles_per_um2 over all fields, empty ones included; null under 3 fields",
    )
    yield from _statistic_fields()
    yield _field("minimum", _REAL, "see unit", "least value")
    yield _field("maximum", _REAL, "see unit", "largest value")
    yield _required(
        "histogram_edges", pa.list_(_REAL), "see unit", "edges of the histogram's bins, ascending"
    )
    yield _required(
        "histogram_counts", pa.list_(_WHOLE), "1", "particles in each bin; the last bin holds its upper edge"
    )
    yield _field(
        "between_field_variance",
        _REAL,
        "see unit²",
        "variance of the fields' means, one-way random-effects ANOVA; 0 where the estimate is negative",
    )
    yield _field("within_field_variance", _REAL, "see unit²", "variance within a field, of the same ANOVA")
    yield _field(
        "interval_note",
        _TEXT,
        "",
        "how the intervals were made, or why there are none; they hold for sampling only",
    )
    for source, meaning in (
        ("calibration", "the pixel size; 0 where the value doesn't depend on it"),
        ("sampling", "the number of fields: half the interval of mean_corrected"),
        ("segmentation", "the masks: the model's diameter error on validation images"),
        ("combined", "the parts that are known, root of the sum of squares"),
    ):
        yield _field(
            f"relative_uncertainty_{source}",
            _REAL,
            "1",
            f"expanded uncertainty (k = 2) of mean_corrected, relative, from {meaning}; null where unknown",
        )
    yield _field("uncertainty_note", _TEXT, "", "parts that are unknown and therefore not in the sum")
    yield _field(
        "median_half_width", _REAL, "1", "half the interval of median_corrected, relative to median_corrected"
    )
    yield _field("target_half_width", _REAL, "1", "largest median_half_width that is enough; a setting")
    yield _field(
        "enough_particles", _FLAG, "", "median_half_width is within the target; null without interval"
    )
    yield _field(
        "more_images_needed",
        _WHOLE,
        "1",
        "further images with particles, like these, until it is; null without interval",
    )
    yield _field("metal", _TEXT, "", "metal of the cores; null where it is unknown or sessions differ")
    for name, unit, meaning in (
        ("dispersion", "1", "share of atoms at the surface, 6 (v_m/a_m) / d32_corrected"),
        (
            "metal_surface_area_m2_per_g",
            "m²/g",
            "surface of spheres a gram of metal, 6 / (ρ · d32_corrected)",
        ),
    ):
        yield _field(name, _REAL, unit, f"{meaning}; equivalent_diameter in nm and known metals only")
        yield _field(
            f"{name}_standard_error", _REAL, unit, f"standard error of {name}, from that of d32_corrected"
        )
    yield _field("metal_note", _TEXT, "", "why there is no dispersion, or what to know about it")
    yield _field("calibration_note", _TEXT, "", "what a reader must know about the scale of these images")


SIZE_DISTRIBUTION_SCHEMA = pa.schema(
    (
        _required("session_id", _TEXT, "", "key of the session"),
        _required("sample_id", _TEXT, "", "sample; null never: the session's name where none is given"),
        *_distribution_fields(),
    ),
    metadata=_METADATA,
)

SAMPLE_SUMMARY_SCHEMA = pa.schema(
    (
        _required("sample_id", _TEXT, "", "sample, from session.yaml; else the session's name"),
        _required("sessions", pa.list_(_TEXT), "", "keys of the sessions of the sample"),
        _required("n_sessions", _WHOLE, "1", "sessions of the sample"),
        _field(
            "differences",
            _TEXT,
            "",
            "in what the sessions differ: calibration, mode, model, metal; null: in none",
        ),
        *_distribution_fields(),
    ),
    metadata=_METADATA,
)


def _estimate_fields(name: str, unit: str, meaning: str) -> Iterator[pa.Field]:
    yield _field(name, _REAL, unit, meaning)
    yield _field(f"{name}_standard_error", _REAL, unit, f"standard error of {name}")
    yield _field(f"{name}_low", _REAL, unit, f"lower end of the 95 % interval of {name}")
    yield _field(f"{name}_high", _REAL, unit, f"upper end of the 95 % interval of {name}")


def _correlation_fields(name: str, of: str, test: str) -> Iterator[pa.Field]:
    yield _field(name, _REAL, "1", f"{of} of descriptor and activity")
    for end, where in (("low", "lower"), ("high", "upper")):
        yield _field(f"{name}_{end}", _REAL, "1", f"{where} end of its 95 % interval, bootstrap over samples")
    yield _field(f"{name}_p", _REAL, "1", f"chance of one as far from 0 without any relation, {test}")
    yield _field(f"{name}_p_corrected", _REAL, "1", "that, corrected by Holm for all n_tests of the table")


STRUCTURE_ACTIVITY_SCHEMA = pa.schema(
    (
        _required("activity_unit", _TEXT, "", "unit of the activity; units are not mixed"),
        _required(
            "conditions", _TEXT, "", "under which the activity was measured; empty where none is given"
        ),
        _required("descriptor", _TEXT, "", "what describes the samples' particles; edge-weighted"),
        _required("descriptor_unit", _TEXT, "", "unit of the descriptor"),
        _required("n_samples", _WHOLE, "1", "samples with both descriptor and activity"),
        _field("reason", _TEXT, "", "why there is no correlation; null where there is one"),
        _field("note", _TEXT, "", "what else to know about these activities"),
        *_correlation_fields("pearson", "Pearson's correlation", "Student's t"),
        *_correlation_fields("spearman", "Spearman's rank correlation", "by permutation"),
        _required("n_tests", _WHOLE, "1", "p values of the whole table that the correction is for"),
        _field(
            "regression",
            _TEXT,
            "",
            "york (errors in both axes) or least_squares (where standard errors are missing)",
        ),
        *_estimate_fields("slope", "activity_unit/descriptor_unit", "slope of the line"),
        *_estimate_fields("intercept", "activity_unit", "the line's activity at descriptor 0"),
        *_estimate_fields(
            "exponent", "1", "p of activity ∝ descriptor^p, by the same regression on logarithms"
        ),
        _required("sample_ids", pa.list_(_TEXT), "", "the samples, ascending"),
        _required("descriptor_values", pa.list_(_REAL), "descriptor_unit", "descriptor of each sample"),
        _required(
            "descriptor_standard_errors",
            pa.list_(_REAL),
            "descriptor_unit",
            "its standard error, of sampling",
        ),
        _required("activity_values", pa.list_(_REAL), "activity_unit", "activity of each sample"),
        _required("activity_standard_errors", pa.list_(_REAL), "activity_unit", "its standard error"),
    ),
    metadata=_METADATA,
)


def conform(frame: pd.DataFrame | pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast a table to a schema: its columns, order, types and metadata.

    Parameters
    ----------
    frame : DataFrame or Table
        Missing columns that may be null are added as nulls; NaN becomes null.
    schema : Schema

    Returns
    -------
    Table

    Raises
    ------
    UserError
        Naming a column that is unknown, missing, of another type or null where it must not be.
    """
    names = list(frame.column_names if isinstance(frame, pa.Table) else frame.columns)
    if unknown := [str(name) for name in names if name not in schema.names]:
        raise UserError(
            f"column {unknown[0]!r} isn't in the schema; its columns are {', '.join(schema.names)}"
        )
    columns = []
    for field in schema:
        if field.name in names:
            try:
                column = frame[field.name]
                if isinstance(column, pa.ChunkedArray):
                    array = column.combine_chunks().cast(field.type)
                elif pa.types.is_dictionary(field.type):
                    # Of a column of no rows pyarrow can't make a dictionary at once.
                    array = pa.array(column, type=field.type.value_type, from_pandas=True).cast(field.type)
                else:
                    array = pa.array(column, type=field.type, from_pandas=True)
            except (pa.ArrowException, TypeError) as error:
                raise UserError(f"column {field.name!r} can't be read as {field.type}: {error}") from error
        elif field.nullable:
            array = pa.nulls(len(frame), field.type)
        else:
            raise UserError(f"column {field.name!r} is missing")
        if not field.nullable and array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise UserError(f"column {field.name!r} is empty in row {row} and must not be")
        columns.append(array)
    return pa.Table.from_arrays(columns, schema=schema)


def check_particle_table(frame: pd.DataFrame | pa.Table) -> None:
    """Check that a particle table means what its columns say, before it is written.

    Lengths in nm are null exactly where the calibration is missing, and otherwise the length in px times the
    pixel size; diameters and areas agree; shape factors are finite and within their bounds; whole particles
    carry an edge weight of at least 1 and cut ones none; identifiers are unique.

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
    missing = table["calibration"] == "missing"
    whole = ~table["touches_edge"]
    scale = table["pixel_size_nm"]
    rules: list[tuple[str, str, Any]] = [
        ("particle_id", "must be unique", ~table["particle_id"].duplicated(keep=False)),
        *(
            (name, f"must be one of {', '.join(allowed)}", table[name].isin(allowed))
            for name, allowed in (
                ("mode", MODES),
                ("calibration", CALIBRATIONS),
                ("image_quality", IMAGE_QUALITIES),
            )
        ),
        ("label", "must be at least 1", table["label"] >= 1),
        *(
            (name, "must lie between 0 and 1", table[name].isna() | table[name].between(0, 1))
            for name in ("calibration_uncertainty", "confidence")
        ),
        ("eccentricity", "must lie between 0 and 1", table["eccentricity"].between(0, 1)),
        *(
            (name, "must be finite and greater than 0", np.isfinite(table[name]) & (table[name] > 0))
            for name in (
                *("area_px", "equivalent_diameter_px", "perimeter_px", "feret_max_px", "feret_min_px"),
                *("circularity", "roundness", "aspect_ratio", "solidity"),
            )
        ),
        *((name, "must be at most 1", table[name] <= 1 + 1e-9) for name in ("aspect_ratio", "solidity")),
        (
            "pixel_size_nm",
            "must be positive, and null exactly where calibration is missing",
            (scale.isna() == missing) & ~(scale <= 0),
        ),
        (
            "equivalent_diameter_px",
            "must be 2 √(area / π)",
            _agree(table["equivalent_diameter_px"], 2 * np.sqrt(table["area_px"] / np.pi)),
        ),
        (
            "feret_min_px",
            "must not exceed feret_max_px",
            table["feret_min_px"] <= table["feret_max_px"] + 1e-9,
        ),
        (
            "edge_weight",
            "must be at least 1 for whole particles and null for those at the edge",
            np.where(whole, table["edge_weight"] >= 1, table["edge_weight"].isna()),
        ),
        (
            "shell_edge_weight",
            "must be at least 1 where the whole particle was measured, else null",
            np.where(
                table["shell_outer_diameter_px"].notna(),
                table["shell_edge_weight"] >= 1,
                table["shell_edge_weight"].isna(),
            ),
        ),
        (
            "cores_in_shell",
            "must be at least 1 where there is a shell_label that the frame doesn't cut, else null",
            np.where(
                table["shell_label"].notna() & table["shell_edge_weight"].notna(),
                table["cores_in_shell"] >= 1,
                table["cores_in_shell"].isna(),
            ),
        ),
        (
            "shell_thickness_px",
            "must not be negative, and null without a whole shell",
            np.where(
                table["shell_outer_diameter_px"].notna(),
                ~(table["shell_thickness_px"] < 0),
                table["shell_thickness_px"].isna(),
            ),
        ),
    ]
    for name, (pixels, power) in NM_COLUMNS.items():
        rules.append(
            (
                name,
                f"must be null exactly where calibration is missing or {pixels} is",
                table[name].isna() == (missing | table[pixels].isna()),
            )
        )
        rules.append(
            (
                name,
                f"must be {pixels} times the pixel size{' squared' if power == 2 else ''}",
                table[name].isna() | _agree(table[name], table[pixels] * scale**power),
            )
        )
    faults = [f"{name}: {rule} (rows {_rows(kept)})" for name, rule, kept in rules if not np.all(kept)]
    if faults:
        more = f"; and {len(faults) - 3} more faults" if len(faults) > 3 else ""
        raise UserError(f"the particle table breaks its rules: column {'; column '.join(faults[:3])}{more}")


def _agree(left: pd.Series, right: pd.Series) -> np.ndarray:
    return np.isclose(left, right, rtol=1e-6, atol=1e-9)


def _rows(kept: Any) -> str:
    """Name the rows in which a rule isn't kept."""
    rows = np.flatnonzero(~np.asarray(kept))
    return ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def data_dictionary(schema: pa.Schema) -> str:
    """List a schema's columns as a Markdown table: name, type, unit, whether it may be null, meaning."""
    rows = ["| column | type | unit | may be null | meaning |", "|---|---|---|---|---|"]
    for field in schema:
        about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        meaning = about.get("description", "").replace("|", "\\|")
        rows.append(
            f"| `{field.name}` | {field.type} | {about.get('unit', '')} | "
            f"{'yes' if field.nullable else 'no'} | {meaning} |"
        )
    return "\n".join(rows) + "\n"
