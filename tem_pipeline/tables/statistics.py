"""The columns of `size_distributions` and `sample_summary`."""

from collections.abc import Iterator

import pyarrow as pa

from tem_pipeline.tables.columns import BOOLEAN, INTEGER, REAL, TEXT, VERSION_METADATA, column

STATISTICS = (
    ("mean", "see unit", "arithmetic mean, number-weighted"),
    ("standard_deviation", "see unit", "sample standard deviation (ddof 1); null under 2 particles"),
    ("median", "see unit", "median, D50, number-weighted"),
    ("d10_number", "see unit", "D10, number-weighted: a tenth of the particles is smaller"),
    ("d90_number", "see unit", "D90, number-weighted: a tenth of the particles is larger"),
    ("d10_volume", "see unit", "D10, weighted by volume D³; null unless the measurand is a diameter"),
    ("d50_volume", "see unit", "D50, weighted by volume D³; null unless the measurand is a diameter"),
    ("d90_volume", "see unit", "D90, weighted by volume D³; null unless the measurand is a diameter"),
    ("d32", "see unit", "surface-weighted mean D[3,2] = ΣD³/ΣD²; null unless the measurand is a diameter"),
    ("d43", "see unit", "volume-weighted mean D[4,3] = ΣD⁴/ΣD³; null unless the measurand is a diameter"),
)
"""Name, unit and meaning. Each is a column, and with the suffix _corrected an edge-weighted column."""
INTERVAL_STATISTICS = ("mean", "standard_deviation", "median", "d10_number", "d90_number", "d32", "d43")
"""Statistics with an interval from the bootstrap over fields."""
FIT_PARAMETERS = (
    ("normal_mean", "see unit", "mean of the fitted normal distribution"),
    ("normal_sd", "see unit", "standard deviation of the fitted normal distribution (maximum likelihood)"),
    ("lognormal_geometric_mean", "see unit", "geometric mean (median) of the fitted lognormal distribution"),
    ("lognormal_geometric_sd", "1", "geometric standard deviation of the fitted lognormal distribution"),
)
_WEIGHTINGS = (("", ""), ("_corrected", "; weighted by edge_weight"))


def _distribution_fields() -> Iterator[pa.Field]:
    """Give the columns that the tables of sessions and samples share."""
    yield from _count_fields()
    yield from _statistic_fields()
    yield from _fit_fields()
    yield column("minimum", REAL, "see unit", "smallest value")
    yield column("maximum", REAL, "see unit", "largest value")
    yield column(
        "histogram_edges",
        pa.list_(REAL),
        "see unit",
        "edges of the histogram bins, ascending",
        nullable=False,
    )
    yield column(
        "histogram_counts",
        pa.list_(INTEGER),
        "1",
        "number of particles in each bin; the last bin includes its upper edge",
        nullable=False,
    )
    yield from _uncertainty_fields()
    yield from _metal_fields()
    yield column("calibration_note", TEXT, "", "what to know about the scale of these images")


def _count_fields() -> Iterator[pa.Field]:
    for name, kind, unit, meaning in (
        ("measurand", TEXT, "", "measured quantity: a column of particle_table without its unit"),
        (
            "unit",
            TEXT,
            "",
            "nm for calibrated images, px for images without calibration, 1 for ratios over both",
        ),
        ("n_images", INTEGER, "1", "good images, including those without particles"),
        ("n_images_with_particles", INTEGER, "1", "good images with at least one counted particle"),
        ("n_fields", INTEGER, "1", "acquisitions that the good images come from"),
        (
            "n_fields_with_particles",
            INTEGER,
            "1",
            "fields with at least one counted particle; the bootstrap resamples them",
        ),
        (
            "n_counted",
            INTEGER,
            "1",
            "particles of good images that the frame does not cut; the statistics are theirs",
        ),
        ("n_excluded_edge", INTEGER, "1", "particles of good images that the frame cuts; not counted"),
        ("n_split", INTEGER, "1", "counted particles that were split from a cluster of touching particles"),
        ("n_review_images", INTEGER, "1", "images left out until somebody has reviewed them"),
    ):
        yield column(name, kind, unit, meaning, nullable=False)
    yield column("imaged_area_um2", REAL, "µm²", "area of the good images; null unless the unit is nm")
    yield column(
        "particles_per_um2",
        REAL,
        "1/µm²",
        "sum of edge weights per imaged area; null unless the unit is nm",
    )
    yield column(
        "particles_per_um2_standard_error",
        REAL,
        "1/µm²",
        "standard error of particles_per_um2 over all fields, including empty ones; null under 3 fields",
    )


def _statistic_fields() -> Iterator[pa.Field]:
    for name, unit, meaning in STATISTICS:
        for suffix, weighted in _WEIGHTINGS:
            statistic = name + suffix
            yield column(statistic, REAL, unit, meaning + weighted)
            if name in INTERVAL_STATISTICS:
                yield column(
                    f"{statistic}_standard_error",
                    REAL,
                    unit,
                    f"standard error of {statistic} over fields; see interval_note",
                )
                yield column(f"{statistic}_low", REAL, unit, f"lower end of the 95 % interval of {statistic}")
                yield column(
                    f"{statistic}_high", REAL, unit, f"upper end of the 95 % interval of {statistic}"
                )


def _fit_fields() -> Iterator[pa.Field]:
    for name, unit, meaning in FIT_PARAMETERS:
        for suffix, weighted in _WEIGHTINGS:
            parameter = name + suffix
            yield column(parameter, REAL, unit, f"{meaning}{weighted}; null if unit is 1")
            yield column(
                f"{parameter}_standard_error", REAL, unit, f"standard error of {parameter} over fields"
            )
    for fit in ("normal", "lognormal"):
        yield column(f"{fit}_anderson_darling", REAL, "1", f"A² of the {fit} fit to the unweighted sizes")
        yield column(
            f"{fit}_p_value",
            REAL,
            "1",
            f"probability of a larger A² if the {fit} fit were true, by parametric bootstrap; it assumes "
            "independent particles, so it is too small if fields differ",
        )


def _uncertainty_fields() -> Iterator[pa.Field]:
    yield column(
        "between_field_variance",
        REAL,
        "see unit²",
        "variance of the field means, one-way random-effects ANOVA; 0 if the estimate is negative",
    )
    yield column("within_field_variance", REAL, "see unit²", "variance within fields, from the same ANOVA")
    yield column(
        "interval_note",
        TEXT,
        "",
        "how the intervals were computed, or why there are none; they cover sampling only",
    )
    for source, meaning in (
        ("calibration", "the pixel size; 0 if the value does not depend on it"),
        ("sampling", "the number of fields: half the interval of mean_corrected"),
        ("segmentation", "the masks: the model's diameter error on validation images"),
        ("combined", "all known sources: root of the sum of squares"),
    ):
        yield column(
            f"relative_uncertainty_{source}",
            REAL,
            "1",
            f"relative expanded uncertainty (k = 2) of mean_corrected from {meaning}; null if unknown",
        )
    yield column("uncertainty_note", TEXT, "", "sources that are unknown and therefore not in the sum")
    yield column(
        "median_half_width", REAL, "1", "half the interval of median_corrected, relative to median_corrected"
    )
    yield column("target_half_width", REAL, "1", "largest acceptable median_half_width; a setting")
    yield column(
        "enough_particles",
        BOOLEAN,
        "",
        "true if median_half_width is within the target; null without interval",
    )
    yield column(
        "more_images_needed",
        INTEGER,
        "1",
        "number of further images like these that would reach the target; null without interval",
    )


def _metal_fields() -> Iterator[pa.Field]:
    yield column("metal", TEXT, "", "metal of the cores; null if it is unknown or sessions differ")
    for name, unit, meaning in (
        ("dispersion", "1", "fraction of atoms at the surface, 6 (v_m/a_m) / d32_corrected"),
        (
            "metal_surface_area_m2_per_g",
            "m²/g",
            "surface area of spheres per gram of metal, 6 / (ρ · d32_corrected)",
        ),
    ):
        yield column(name, REAL, unit, f"{meaning}; only for equivalent_diameter in nm and known metals")
        yield column(
            f"{name}_standard_error",
            REAL,
            unit,
            f"standard error of {name}, propagated from that of d32_corrected",
        )
    yield column("metal_note", TEXT, "", "why there is no dispersion, or what to know about it")


SIZE_DISTRIBUTION_SCHEMA = pa.schema(
    (
        column("session_id", TEXT, "", "key of the session", nullable=False),
        column("sample_id", TEXT, "", "sample from session.yaml, or the session name", nullable=False),
        *_distribution_fields(),
    ),
    metadata=VERSION_METADATA,
)

SAMPLE_SUMMARY_SCHEMA = pa.schema(
    (
        column("sample_id", TEXT, "", "sample from session.yaml, or the session name", nullable=False),
        column("sessions", pa.list_(TEXT), "", "keys of the sample's sessions", nullable=False),
        column("n_sessions", INTEGER, "1", "number of sessions of the sample", nullable=False),
        column(
            "differences",
            TEXT,
            "",
            "how the sessions differ: calibration, mode, model or metal; null if they do not",
        ),
        *_distribution_fields(),
    ),
    metadata=VERSION_METADATA,
)
