"""The columns of `structure_activity`."""

from collections.abc import Iterator

import pyarrow as pa

from tem_pipeline.tables.columns import INTEGER, REAL, TEXT, VERSION_METADATA, column


def _estimate_fields(name: str, unit: str, meaning: str) -> Iterator[pa.Field]:
    yield column(name, REAL, unit, meaning)
    yield column(f"{name}_standard_error", REAL, unit, f"standard error of {name}")
    yield column(f"{name}_low", REAL, unit, f"lower end of the 95 % interval of {name}")
    yield column(f"{name}_high", REAL, unit, f"upper end of the 95 % interval of {name}")


def _correlation_fields(name: str, correlation: str, test: str) -> Iterator[pa.Field]:
    yield column(name, REAL, "1", f"{correlation} of descriptor and activity")
    for end, where in (("low", "lower"), ("high", "upper")):
        yield column(
            f"{name}_{end}", REAL, "1", f"{where} end of its 95 % interval, by bootstrap over samples"
        )
    yield column(
        f"{name}_p", REAL, "1", f"probability of a value this far from 0 if there were no relation, {test}"
    )
    yield column(f"{name}_p_corrected", REAL, "1", "that probability, corrected by Holm for all n_tests")


STRUCTURE_ACTIVITY_SCHEMA = pa.schema(
    (
        column("activity_unit", TEXT, "", "unit of the activity; units are not mixed", nullable=False),
        column(
            "conditions",
            TEXT,
            "",
            "conditions of the activity measurement; empty if not given",
            nullable=False,
        ),
        column(
            "descriptor", TEXT, "", "quantity that describes the particles; edge-weighted", nullable=False
        ),
        column("descriptor_unit", TEXT, "", "unit of the descriptor", nullable=False),
        column("n_samples", INTEGER, "1", "samples with both descriptor and activity", nullable=False),
        column("reason", TEXT, "", "why there is no correlation; null if there is one"),
        column("note", TEXT, "", "what else to know about these activities"),
        *_correlation_fields("pearson", "Pearson's correlation", "by Student's t"),
        *_correlation_fields("spearman", "Spearman's rank correlation", "by permutation"),
        column(
            "n_tests",
            INTEGER,
            "1",
            "number of p values in the whole table that the correction counts",
            nullable=False,
        ),
        column(
            "regression",
            TEXT,
            "",
            "york (errors in both axes) or least_squares (if standard errors are missing)",
        ),
        *_estimate_fields("slope", "activity_unit/descriptor_unit", "slope of the line"),
        *_estimate_fields("intercept", "activity_unit", "activity on the line at descriptor 0"),
        *_estimate_fields(
            "exponent", "1", "p of activity ∝ descriptor^p, from the same regression on logarithms"
        ),
        column("sample_ids", pa.list_(TEXT), "", "the samples, ascending", nullable=False),
        column(
            "descriptor_values",
            pa.list_(REAL),
            "descriptor_unit",
            "descriptor of each sample",
            nullable=False,
        ),
        column(
            "descriptor_standard_errors",
            pa.list_(REAL),
            "descriptor_unit",
            "sampling standard error of each descriptor",
            nullable=False,
        ),
        column("activity_values", pa.list_(REAL), "activity_unit", "activity of each sample", nullable=False),
        column(
            "activity_standard_errors",
            pa.list_(REAL),
            "activity_unit",
            "standard error of each activity",
            nullable=False,
        ),
    ),
    metadata=VERSION_METADATA,
)
