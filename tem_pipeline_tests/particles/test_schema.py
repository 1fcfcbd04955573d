import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.particles.schema import (
    NM_COLUMNS,
    PARTICLE_SCHEMA,
    SAMPLE_SUMMARY_SCHEMA,
    SIZE_DISTRIBUTION_SCHEMA,
    check_particle_table,
    conform,
    data_dictionary,
)
from tem_pipeline_tests.particles.tables import discs, particle_table


@pytest.fixture
def table() -> pd.DataFrame:
    return particle_table(discs([8, 12, 20]))


@pytest.mark.parametrize("schema", [PARTICLE_SCHEMA, SIZE_DISTRIBUTION_SCHEMA, SAMPLE_SUMMARY_SCHEMA])
def test_every_column_has_a_unit_that_agrees_with_its_name_and_a_meaning(schema):
    for field in schema:
        unit, description = field.metadata[b"unit"].decode(), field.metadata[b"description"].decode()
        assert description
        for suffix, expected in (
            ("_nm", "nm"),
            ("_px", "px"),
            ("_nm2", "nm²"),
            ("_um2", "µm²"),
            ("_rad", "rad"),
        ):
            if field.name.endswith(suffix) and field.name not in ("area_px", "particles_per_um2"):
                assert unit == expected, field.name
        if pa.types.is_floating(field.type):
            assert unit, field.name


def test_units_and_version_come_back_from_a_parquet_file(table, tmp_path):
    pq.write_table(conform(table, PARTICLE_SCHEMA), tmp_path / "t.parquet")
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.equals(PARTICLE_SCHEMA, check_metadata=True)
    assert schema.metadata[b"schema_version"]


def test_conforming_orders_casts_and_adds_what_may_be_null(table):
    shuffled = table[table.columns[::-1]].astype({"area_px": float, "label": np.uint16}).drop(columns="metal")
    conformed = conform(shuffled, PARTICLE_SCHEMA)
    assert conformed.schema.equals(PARTICLE_SCHEMA, check_metadata=True)
    assert conformed["metal"].null_count == 3
    assert conformed["area_px"].to_pylist() == table.area_px.tolist()
    assert conform(conformed, PARTICLE_SCHEMA).equals(conformed)


def test_nan_is_written_as_null(table):
    uncalibrated = particle_table(discs([8]), pixel_size_nm=None)
    conformed = conform(uncalibrated, PARTICLE_SCHEMA)
    assert all(conformed[column].null_count == 1 for column in [*NM_COLUMNS, "pixel_size_nm"])


def test_a_table_without_rows_conforms_and_passes(table):
    assert conform(table[:0], PARTICLE_SCHEMA).num_rows == 0
    check_particle_table(table[:0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(diametre=1.0), "'diametre' isn't in the schema"),
        (lambda t: t.drop(columns="area_px"), "'area_px' is missing"),
        (lambda t: t.assign(area_px=t.area_px + 0.5), "'area_px' can't be read as int64"),
        (lambda t: t.assign(sample_id=[None, "a", "b"]), "'sample_id' is empty in row 0"),
        (lambda t: t.assign(touches_edge="no"), "'touches_edge' can't be read"),
    ],
)
def test_what_does_not_fit_the_schema_is_named_in_one_line(table, change, message):
    with pytest.raises(UserError, match=message) as caught:
        conform(change(table), PARTICLE_SCHEMA)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pixel_size_nm", [0.1, 2.0, None])
def test_measured_tables_pass_the_check(pixel_size_nm):
    labels = discs([5, 8, 20])
    labels[0:3, 0:4] = 9
    check_particle_table(particle_table(labels, pixel_size_nm=pixel_size_nm))


def _set(column, row, value):
    def change(table):
        table.loc[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "column", "rows"),
    [
        (_set("particle_id", 1, "20261122/image_0/1"), "particle_id", "0, 1"),
        (_set("equivalent_diameter_nm", 2, 20.0), "equivalent_diameter_nm", "2"),
        (_set("perimeter_nm", 0, np.nan), "perimeter_nm", "0"),
        (_set("area_nm2", 0, 5.0), "area_nm2", "0"),
        (_set("calibration", 1, "missing"), "pixel_size_nm", "1"),
        (_set("calibration", 1, "guessed"), "calibration", "1"),
        (_set("pixel_size_nm", 1, -0.1), "pixel_size_nm", "1"),
        (_set("equivalent_diameter_px", 0, 0.0), "equivalent_diameter_px", "0"),
        (_set("circularity", 1, np.inf), "circularity", "1"),
        (_set("aspect_ratio", 2, 1.2), "aspect_ratio", "2"),
        (_set("edge_weight", 0, 0.5), "edge_weight", "0"),
        (_set("edge_weight", 0, np.nan), "edge_weight", "0"),
        (_set("touches_edge", 1, True), "edge_weight", "1"),
        (_set("confidence", 1, 180.0), "confidence", "1"),
        (_set("image_quality", 1, "bad"), "image_quality", "1"),
        (_set("mode", 1, "TEM"), "mode", "1"),
    ],
)
def test_a_faulty_row_is_named_with_its_column_in_one_line(table, change, column, rows):
    with pytest.raises(UserError) as caught:
        check_particle_table(change(table))
    message = str(caught.value)
    assert f"column {column}: " in message
    assert f"(rows {rows})" in message
    assert "\n" not in message


def test_a_table_in_which_one_image_has_anothers_scale_is_refused():
    first, second = particle_table(discs([12]), "a", 0.1), particle_table(discs([12]), "b", 0.4)
    second["pixel_size_nm"] = 0.1
    with pytest.raises(UserError, match=r"equivalent_diameter_nm.*\(rows 1\)|area_nm2.*\(rows 1\)"):
        check_particle_table(pd.concat([first, second], ignore_index=True))


def test_nm_from_an_image_without_calibration_is_refused():
    table = particle_table(discs([12]), pixel_size_nm=None)
    table["equivalent_diameter_nm"] = table.equivalent_diameter_px
    with pytest.raises(
        UserError, match="equivalent_diameter_nm: must be null exactly where calibration is missing"
    ):
        check_particle_table(table)


@pytest.mark.parametrize("schema", [PARTICLE_SCHEMA, SIZE_DISTRIBUTION_SCHEMA, SAMPLE_SUMMARY_SCHEMA])
def test_the_data_dictionary_has_a_row_for_each_column(schema):
    lines = data_dictionary(schema).splitlines()
    assert len(lines) == 2 + len(schema)
    assert len({line.count("|") - line.count("\\|") for line in lines}) == 1
    for field, line in zip(schema, lines[2:], strict=True):
        assert line.startswith(f"| `{field.name}` | {field.type} | {field.metadata[b'unit'].decode()} |")
