import subprocess
import sys

import pyarrow as pa
import pytest

from tem_pipeline import tables
from tem_pipeline.tables import TABLES

UNITS = {"_nm": "nm", "_px": "px", "_nm2": "nm²", "_um2": "µm²", "_rad": "rad", "_kv": "kV"}


@pytest.mark.parametrize("name", TABLES)
def test_every_column_has_a_meaning_and_a_unit_that_agrees_with_its_name(name):
    table = TABLES[name]
    for field in [*table.schema, *(table.file_schema or [])]:
        metadata = field.metadata or {}
        assert metadata.get(b"description"), field.name
        unit = metadata[b"unit"].decode()
        for suffix, expected in UNITS.items():
            if field.name.endswith(suffix) and field.name not in ("area_px", "particles_per_um2"):
                assert unit == expected, field.name
        if pa.types.is_floating(field.type):
            assert unit, field.name


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_named_once_and_described_in_one_sentence(name):
    table = TABLES[name]
    assert table.name == name
    assert table.key.split("/")[-1] == name
    assert table.description.endswith(".")
    assert set(table.file_columns) <= set(table.schema.names)
    assert len(set(table.schema.names)) == len(table.schema)
    assert (table.file_schema is not None) == table.file_description.endswith(".")


def test_every_schema_of_the_package_is_registered():
    registered = [each for table in TABLES.values() for each in (table.schema, table.file_schema)]
    for name, schema in vars(tables).items():
        if isinstance(schema, pa.Schema):
            assert any(schema is each for each in registered), name


def test_the_registry_loads_no_science_and_no_pandas():
    program = (
        "import sys, tem_pipeline.tables;"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'pandas', 'duckdb', 'dagster', 'scipy'}),"
        "sorted(m for m in sys.modules if m.startswith('tem_pipeline.') and 'tables' not in m))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    below = ["tem_pipeline.environment", "tem_pipeline.errors", "tem_pipeline.text"]
    assert loaded.stdout.strip() == f"[] {below}"
