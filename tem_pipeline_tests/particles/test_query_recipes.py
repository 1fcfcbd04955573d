import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tem_pipeline.particles.distributions import sample_summary
from tem_pipeline.particles.query import run_query
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.storage import write_table
from tem_pipeline.tables import PARTICLE_SCHEMA, SCHEMA_VERSION, conform
from tem_pipeline_tests.particles.tables import discs, manifest_row, particle_table
from tem_pipeline_tests.particles.versions import VERSION_1_COLUMNS, VERSION_1_SCHEMA

TEXT = (PROJECT_ROOT / "docs/query.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^(\w+):\n\n```python\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL))
# The one written by version 1 comes first, where a library looks for the columns.
SESSIONS = {"2026-11-22": [8.0, 14.0], "20261122": [10.0, 12.0, 15.0], "monday": [9.0]}


@pytest.fixture
def lake(tmp_path, monkeypatch):
    for session, diameters in SESSIONS.items():
        labels = np.pad(discs(diameters), ((0, 0), (0, 40)))
        labels[:6, -20:-10] = len(diameters) + 1  # touches the frame
        table = particle_table(labels, session_id=session, pixel_size_nm=None if session == "monday" else 0.1)
        written = conform(table, PARTICLE_SCHEMA)
        if session == "2026-11-22":
            written = written.select(VERSION_1_COLUMNS).cast(VERSION_1_SCHEMA)
        write_table(tmp_path / f"data/lake/particle_table/session={session}/part-0.parquet", written)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data/lake"


def as_rows(answer) -> list[dict]:
    """Bring the answer of any of the four libraries into one form."""
    if isinstance(answer, pd.DataFrame):
        table = pa.Table.from_pandas(answer.reset_index())
    elif isinstance(answer, pa.Table):
        table = answer
    else:  # DuckDB's and polars' both
        table = answer.to_arrow_table() if hasattr(answer, "to_arrow_table") else answer.to_arrow()
    table = table.rename_columns(
        [
            {"session_id": "session", "count_all": "particles", "equivalent_diameter_nm_mean": "mean_nm"}.get(
                name, name
            )
            for name in table.column_names
        ]
    )
    rows = table.sort_by("session").select(["session", "particles", "mean_nm"]).to_pylist()
    return [{**row, "mean_nm": None if pd.isna(row["mean_nm"]) else row["mean_nm"]} for row in rows]


def test_there_is_a_recipe_for_each_library():
    assert list(RECIPES) == ["DuckDB", "pandas", "pyarrow", "polars"]


@pytest.mark.parametrize("library", ["DuckDB", "pandas", "pyarrow", "polars"])
def test_a_recipe_of_the_docs_reads_old_and_new_files_and_keeps_names(lake, library):
    names: dict = {}
    exec(compile(RECIPES[library], library, "exec"), names)
    rows = as_rows(names["answer"])
    assert [(row["session"], row["particles"]) for row in rows] == [
        (session, len(diameters)) for session, diameters in SESSIONS.items()
    ]
    for row in rows:
        if row["session"] == "monday":
            assert row["mean_nm"] is None
        else:
            expected = np.mean(SESSIONS[row["session"]]) / 10
            assert row["mean_nm"] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("library", "columns"),
    [
        ("pandas", "particles.columns"),
        ("pyarrow", "particles.schema.names"),
        ("polars", "particles.collect_schema().names()"),
    ],
)
def test_a_recipe_has_the_columns_that_only_new_files_have(lake, library, columns):
    names: dict = {}
    exec(compile(RECIPES[library], library, "exec"), names)
    assert set(PARTICLE_SCHEMA.names) <= set(eval(columns, names))


def test_columns_that_a_file_of_version_1_lacks_are_null(lake):
    rows = run_query(
        lake,
        "SELECT session, count(*) AS n, count(area_px) AS old, "
        "count(shell_thickness_nm) AS new FROM particle_table GROUP BY session ORDER BY session",
    ).to_pylist()
    assert [row["session"] for row in rows] == list(SESSIONS)
    assert all(row["old"] == row["n"] and row["new"] == 0 for row in rows)
    names = run_query(lake, "DESCRIBE particle_table")["column_name"].to_pylist()
    assert set(names) == {*PARTICLE_SCHEMA.names, "session"}


def test_each_file_has_its_schema_version(lake):
    versions = {
        path.parent.name: (pq.read_schema(path).metadata or {})[b"schema_version"].decode()
        for path in lake.glob("particle_table/*/part-0.parquet")
    }
    assert versions["session=2026-11-22"] == "1"
    assert versions["session=20261122"] == SCHEMA_VERSION != "1"


def test_a_sample_summary_covers_sessions_of_both_versions():
    labels = discs([8.0, 12.0])
    new = conform(particle_table(labels, session_id="new"), PARTICLE_SCHEMA)
    old = conform(particle_table(labels, session_id="old"), PARTICLE_SCHEMA)
    old = old.select(VERSION_1_COLUMNS).cast(VERSION_1_SCHEMA)
    sessions = ["new", "old"]
    manifest = pd.DataFrame(
        [{**manifest_row("image_0", labels), "session_id": key, "sample_id": "Pt-3"} for key in sessions]
    )
    quality = pd.DataFrame(
        [{"session_id": key, "image_id": "image_0", "image_quality": "good"} for key in sessions]
    )
    particles = pd.concat([new.to_pandas(), old.to_pandas()], ignore_index=True)
    summary = sample_summary(particles, manifest, quality).set_index("measurand")
    assert summary.loc["equivalent_diameter", "n_counted"] == 4
    assert summary.loc["equivalent_diameter", "mean"] == pytest.approx(1.0, rel=0.03)
