import csv
from datetime import date, datetime

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.particles.query import connect, run_query, write_result
from tem_pipeline.particles.query_text import MOST_COLUMNS, as_text
from tem_pipeline.storage import write_table
from tem_pipeline.tables import MASK_SCHEMA, PARTICLE_SCHEMA, TABLES, conform
from tem_pipeline_tests.particles.tables import discs, particle_table

SESSIONS = ["20261122", "2026-11-22", "monday"]


@pytest.fixture
def lake(tmp_path):
    lake = tmp_path / "it's a [lake]"
    for i, session in enumerate(SESSIONS):
        table = particle_table(discs([8.0 + i, 14.0]), session_id=session)
        write_table(
            lake / "particle_table" / f"session={session}" / "part-0.parquet", conform(table, PARTICLE_SCHEMA)
        )
    write_table(
        lake / "analysis" / "sample_summary" / "part-0.parquet",
        pd.DataFrame({"sample_id": ["Pt-3"], "n_counted": [6]}),
    )
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (lake / "particle_table" / "notes.csv").write_text("a\n1\n")
    return lake


def test_every_table_is_a_view_of_its_name(lake):
    names = run_query(lake, "SHOW TABLES")["name"].to_pylist()
    assert names == sorted(TABLES)
    assert run_query(lake, "SELECT n_counted FROM sample_summary").to_pylist() == [{"n_counted": 6}]


@pytest.mark.parametrize("name", TABLES)
def test_every_registered_table_can_be_queried_on_an_empty_lake(tmp_path, name):
    table = TABLES[name]
    empty = run_query(tmp_path / "nowhere", f"SELECT * FROM {name}")
    assert empty.num_rows == 0
    assert empty.column_names == [*table.schema.names, *(["session"] if table.per_session else [])]


@pytest.mark.parametrize("name", TABLES)
def test_a_view_has_the_same_types_with_and_without_files(tmp_path, name):
    table = TABLES[name]
    folder = tmp_path / table.key / ("session=a" if table.per_session else "")
    nothing = run_query(tmp_path, f"SELECT * FROM {name}")
    row = {field.name: pa.nulls(1, field.type) for field in table.schema}
    write_table(folder / "part-0.parquet", pa.table(row))
    written = run_query(tmp_path, f"SELECT * FROM {name}")
    assert written.schema == nothing.schema
    assert written.num_rows == 1


def test_a_column_that_all_files_of_a_table_lack_is_null(tmp_path):
    old = MASK_SCHEMA.empty_table().drop_columns(["split_labels"])
    row = pa.Table.from_pylist([{"image_id": "a"}], old.schema)
    write_table(tmp_path / "predicted_masks" / "session=a" / "part-0.parquet", row)
    query = "SELECT image_id, split_labels, session FROM predicted_masks"
    assert run_query(tmp_path, query).to_pylist() == [{"image_id": "a", "split_labels": None, "session": "a"}]


def test_a_table_that_is_not_registered_has_a_view_with_its_own_columns(tmp_path):
    for session, column in (("20261122", "a"), ("monday", "b")):
        write_table(tmp_path / "later" / f"session={session}" / "part-0.parquet", pa.table({column: [1]}))
    write_table(tmp_path / "analysis" / "of_ours" / "part-0.parquet", pa.table({"c": [2]}))
    rows = run_query(tmp_path, "SELECT a, b, session FROM later ORDER BY session").to_pylist()
    assert rows == [
        {"a": 1, "b": None, "session": "20261122"},
        {"a": None, "b": 1, "session": "monday"},
    ]
    assert run_query(tmp_path, "SELECT c FROM of_ours").to_pylist() == [{"c": 2}]


def test_sessions_named_like_numbers_or_dates_stay_names(lake):
    query = "SELECT DISTINCT session, session_id, typeof(session) AS kind FROM particle_table"
    rows = run_query(lake, query).to_pylist()
    assert {row["session"] for row in rows} == set(SESSIONS)
    assert all(row["session"] == row["session_id"] and row["kind"] == "VARCHAR" for row in rows)
    one = run_query(lake, "SELECT count(*) AS n FROM particle_table WHERE session = '20261122'")
    assert one.to_pylist() == [{"n": 2}]


def test_older_files_with_fewer_columns_are_read_beside_newer_ones(lake):
    old = conform(particle_table(discs([9]), session_id="old"), PARTICLE_SCHEMA).drop_columns(
        ["metal", "solidity"]
    )
    write_table(lake / "particle_table" / "session=old" / "part-0.parquet", old)
    table = run_query(lake, "SELECT session, solidity FROM particle_table ORDER BY session")
    assert [row["session"] for row in table.to_pylist() if row["solidity"] is None] == ["old"]


@pytest.mark.parametrize(
    "query",
    [
        "FROM particle_table SELECT avg(equivalent_diameter_nm)",
        "WITH large AS (SELECT * FROM particle_table WHERE area_px > 100) SELECT count(*) FROM large;",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT sum(n) FROM t",
        "SELECT session FROM particle_table UNION SELECT 'other'",
        "SELECT * FROM (PIVOT particle_table ON session IN ('monday') USING avg(area_px) GROUP BY sample_id)",
        "SUMMARIZE particle_table",
        "SELECT unnest(range(3)) -- a comment",
        "SELECT 'COPY x TO ''y.csv''' AS words",
    ],
)
def test_statements_like_select_are_answered(lake, query):
    assert run_query(lake, query).num_rows > 0


@pytest.mark.parametrize(
    "query",
    [
        "COPY particle_table TO '{out}'",
        "WITH a AS (COPY (SELECT 1) TO '{out}') SELECT * FROM a",
        "SELECT * FROM (WITH a AS (COPY (SELECT 1) TO '{out}') SELECT * FROM a)",
        "WITH a AS (INSERT INTO size_distributions (session_id) VALUES ('x') RETURNING *) SELECT * FROM a",
        "EXPLAIN ANALYZE COPY particle_table TO '{out}'",
        "EXPORT DATABASE '{out}'",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW particle_table",
        "INSERT INTO size_distributions (session_id) VALUES ('x')",
        "UPDATE particle_table SET area_px = 1",
        "DELETE FROM particle_table",
        "ATTACH '{out}'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET enable_external_access",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "SELECT 1; COPY particle_table TO '{out}'",
        "SELECT * FROM query('COPY particle_table TO ''{out}''')",
        "SELECT * FROM json_execute_serialized_sql('{{}}')",
        "SELECT * FROM python_map_function()",
        "",
        "-- nothing",
    ],
)
def test_anything_but_one_reading_statement_is_refused(lake, query):
    before = sorted(file for file in lake.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        run_query(lake, query.format(out=str(lake / "out.csv").replace("'", "''")))
    assert "\n" not in str(caught.value)
    assert sorted(file for file in lake.parent.rglob("*")) == before


@pytest.mark.parametrize("file", ["secret.csv", "/etc/passwd", "it's a [lake]/particle_table/notes.csv"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM '{file}'",
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_blob('{file}')",
        "SELECT (SELECT content FROM read_text('{file}')) AS content",
        "SELECT * FROM glob('{file}')",
        "SELECT * FROM parquet_metadata('{file}')",
        "SELECT * FROM sniff_csv('{file}')",
    ],
)
def test_no_other_file_can_be_read(lake, query, file):
    path = file if file.startswith("/") else str(lake.parent / file)
    with pytest.raises(UserError):
        run_query(lake, query.format(file=path.replace("'", "''")))


def test_the_connection_is_locked_and_reads_no_file_outside_the_lake(lake):
    with connect(lake) as connection:
        for statement in (
            f"SELECT * FROM read_text('{lake.parent / 'secret.csv'}')".replace("it's", "it''s"),
            f"COPY (SELECT 1) TO '{lake.parent / 'out.csv'}'",
            "SELECT * FROM read_text('/etc/passwd')",
            "SET enable_external_access = true",
            "INSTALL httpfs",
        ):
            with pytest.raises(Exception, match=r"(?i)disabled|locked|permission|cannot"):
                connection.execute(statement)
    assert not (lake.parent / "out.csv").exists()


def test_a_python_variable_is_not_a_table(lake):
    secret = pa.table({"x": [1]})
    with pytest.raises(UserError, match="secret"):
        run_query(lake, "SELECT * FROM secret")
    assert secret.num_rows == 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM particle_table", "nope"),
        ("SELECT * FROM nowhere", "nowhere"),
    ],
)
def test_mistakes_are_named_in_one_line(lake, query, message):
    with pytest.raises(UserError, match=message) as caught:
        run_query(lake, query)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_broken_table_is_named(lake):
    broken = lake / "particle_table" / "session=broken" / "part-0.parquet"
    broken.parent.mkdir()
    broken.write_bytes(b"PAR1 and no more")
    for query in ("SELECT count(*) FROM particle_table", "SELECT max(area_px) FROM particle_table"):
        with pytest.raises(UserError, match=r"session=broken"):
            run_query(lake, query)


def test_other_sessions_and_tables_can_be_queried_beside_a_broken_file(lake):
    broken = lake / "particle_table" / "session=broken" / "part-0.parquet"
    broken.parent.mkdir()
    broken.write_bytes(b"PAR1 and no more")
    assert run_query(lake, "SELECT n_counted AS n FROM sample_summary").to_pylist() == [{"n": 6}]
    assert run_query(lake, "SELECT label FROM particle_table WHERE session = 'monday'").num_rows == 2


def test_one_session_is_read_from_its_own_file_alone(lake):
    for session in SESSIONS:
        expected = conform(
            pq.read_table(
                lake / "particle_table" / f"session={session}" / "part-0.parquet", partitioning=None
            ),
            PARTICLE_SCHEMA,
        )
        answer = run_query(lake, f"SELECT * FROM particle_table WHERE session = '{session}'")
        assert answer.drop_columns(["session"]).to_pylist() == expected.to_pylist()
    with connect(lake) as connection:
        plan = connection.execute("EXPLAIN ANALYZE SELECT * FROM particle_table WHERE session = 'monday'")
        assert "Scanning Files: 1/3" in plan.fetchall()[0][1]


def test_a_query_that_lists_the_views_finds_all_of_them(lake):
    listed = (
        "SELECT table_name FROM information_schema.tables WHERE table_name <> 'particle_table' ORDER BY 1"
    )
    names = run_query(lake, listed)["table_name"].to_pylist()
    assert names == sorted(TABLES.keys() - {"particle_table"})
    both = "SELECT count(*) AS n FROM Particle_Table JOIN sample_summary USING (sample_id)"
    assert run_query(lake, both).to_pylist() == [{"n": 6}]


def test_a_lake_in_an_object_store_can_be_queried():
    lake = UPath("memory://query_test/lake")
    table = conform(particle_table(discs([8, 12])), PARTICLE_SCHEMA)
    write_table(lake / "particle_table" / "session=20261122" / "part-0.parquet", table)
    assert run_query(lake, "SELECT DISTINCT session FROM particle_table").to_pylist() == [
        {"session": "20261122"}
    ]


ANSWER = pa.table(
    {
        "name": ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "plain", None, "bell\x07"],
        "value": [1.5, None, float("nan"), float("inf"), 2.0, 3.0, 4.0],
        "edges": [[0.0, 1.0]] * 7,
        "day": [date(2026, 11, 22)] * 7,
    }
)


def test_text_in_excel_is_never_a_formula(tmp_path):
    write_result(ANSWER, tmp_path / "answer.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "answer.xlsx").active
    assert sheet is not None
    rows = list(sheet.iter_rows(min_row=2))
    assert [row[0].value for row in rows] == [
        '=HYPERLINK("http://x")',
        "+1",
        "-1",
        "@SUM(A1)",
        "plain",
        None,
        "bell",
    ]
    assert all(row[0].data_type == "s" for row in rows if row[0].value is not None)
    assert [row[1].value for row in rows[:3]] == [1.5, None, None]
    assert rows[0][2].value == "[0.0, 1.0]"
    assert rows[0][3].value == datetime(2026, 11, 22)


def test_csv_and_parquet_hold_the_same_answer(tmp_path):
    write_result(ANSWER, tmp_path / "answer.csv")
    write_result(ANSWER, tmp_path / "answer.parquet")
    assert pq.read_table(tmp_path / "answer.parquet").schema == ANSWER.schema
    with (tmp_path / "answer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] or None for row in rows] == ANSWER["name"].to_pylist()
    assert rows[0]["edges"] == "[0.0, 1.0]"


def test_writing_a_result_leaves_no_other_file_in_the_folder(tmp_path):
    write_result(ANSWER.to_pandas(), tmp_path / "answer.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["answer.csv"]


@pytest.mark.parametrize(
    ("name", "message"), [("a.txt", "csv, .parquet or .xlsx"), ("no/where.csv", "doesn't exist")]
)
def test_other_endings_and_missing_folders_are_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        write_result(ANSWER, tmp_path / name)


def test_more_rows_than_a_worksheet_holds_are_refused(tmp_path):
    with pytest.raises(UserError, match="worksheet"):
        write_result(pa.table({"x": pa.nulls(1_048_576)}), tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("query", "proposed"),
    [
        ("SELECT * FROM particle_tabel", 'Did you mean "particle_table"?'),
        ("SELECT * FROM particle_table JOIN size_distribution USING (session)", '"size_distributions"'),
        ("SELECT area_nm FROM particle_table", "area_nm2"),
        ("SELECT avgg(area_px) FROM particle_table", 'Did you mean "avg"?'),
    ],
)
def test_a_wrong_name_is_answered_with_what_may_be_meant(lake, query, proposed):
    with pytest.raises(UserError) as caught:
        run_query(lake, query)
    assert proposed in str(caught.value)
    assert "LINE 1" not in str(caught.value)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_fits_in_a_terminal_and_says_what_is_left_out(tmp_path, name):
    table = TABLES[name]
    row = {field.name: pa.nulls(1, field.type) for field in table.schema}
    text = as_text(pa.table(row).to_pandas(), None, 100)
    lines = text.splitlines()
    assert len(lines[0]) <= 100 or len(table.schema) <= MOST_COLUMNS
    left_out = len(lines[0].split()) < len(table.schema)
    assert left_out == ("--columns" in lines[-1])


def test_chosen_columns_are_all_printed_and_a_wrong_one_is_named(lake):
    table = run_query(lake, "SELECT * FROM particle_table").to_pandas()
    assert as_text(table, "label, area_px", 10).splitlines()[0].split() == ["label", "area_px"]
    assert len(as_text(table, "all", 100).splitlines()[0].split()) == len(table.columns)
    assert "equivalent_diameter_nm" in as_text(table, None, 100).splitlines()[0].split()
    with pytest.raises(UserError, match="did you mean area_px"):
        as_text(table, "areapx", 100)
