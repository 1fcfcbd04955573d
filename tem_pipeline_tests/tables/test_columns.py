import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.particles.checks import NM_COLUMNS
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.tables import PARTICLE_SCHEMA, column, conform
from tem_pipeline.tables.columns import INTEGER, TEXT
from tem_pipeline_tests.particles.tables import discs, particle_table


@pytest.fixture
def table() -> pd.DataFrame:
    return particle_table(discs([8, 12, 20]))


def test_units_and_version_come_back_from_a_parquet_file(table, tmp_path):
    pq.write_table(conform(table, PARTICLE_SCHEMA), tmp_path / "t.parquet")
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.equals(PARTICLE_SCHEMA, check_metadata=True)
    assert schema.metadata[b"schema_version"]


def test_conforming_orders_and_casts_columns_and_adds_nullable_ones(table):
    shuffled = table[table.columns[::-1]].astype({"area_px": float, "label": np.uint16}).drop(columns="metal")
    conformed = conform(shuffled, PARTICLE_SCHEMA)
    assert conformed.schema.equals(PARTICLE_SCHEMA, check_metadata=True)
    assert conformed["metal"].null_count == 3
    assert conformed["area_px"].to_pylist() == table.area_px.tolist()
    assert conform(conformed, PARTICLE_SCHEMA).equals(conformed)


def test_nan_is_written_as_null():
    uncalibrated = particle_table(discs([8]), pixel_size_nm=None)
    conformed = conform(uncalibrated, PARTICLE_SCHEMA)
    assert all(conformed[column].null_count == 1 for column in [*NM_COLUMNS, "pixel_size_nm"])


def test_a_table_without_rows_conforms(table):
    assert conform(table[:0], PARTICLE_SCHEMA).num_rows == 0


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
def test_a_column_that_does_not_fit_is_named_in_one_line(table, change, message):
    with pytest.raises(UserError, match=message) as caught:
        conform(change(table), PARTICLE_SCHEMA)
    assert "\n" not in str(caught.value)


def test_rows_with_a_key_that_is_no_column_are_refused():
    schema = pa.schema([column("a", INTEGER, "1", "a number"), column("b", TEXT, "", "a text")])
    rows = [{"a": 1}, {"a": 2, "b": "x"}]
    assert conform(rows, schema).to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]
    assert conform([], schema).num_rows == 0
    with pytest.raises(UserError, match="'c' isn't in the schema"):
        conform([*rows, {"c": 3}], schema)


def test_every_table_that_is_made_from_rows_conforms():
    package = PROJECT_ROOT / "tem_pipeline"
    bypassing = [path for path in package.rglob("*.py") if "from_pylist" in path.read_text(encoding="utf-8")]
    assert bypassing == []
