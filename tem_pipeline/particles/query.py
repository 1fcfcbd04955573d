"""Read-only SQL over the lake's Parquet tables with DuckDB; no file outside the tables can be reached.

Each table is a view of the same name. Results are written as CSV, Parquet or Excel workbooks.
"""

import contextlib
import glob
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tem_pipeline.errors import UserError
from tem_pipeline.storage import TABLE_FILE, AnyPath, atomic_path
from tem_pipeline.tables import TABLES, Table

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.binary(): "BLOB",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}

# Schemas and prefixes of functions that list the views.
_CATALOGUES = ("information_schema", "pg_catalog", "sqlite_", "duckdb_")

# Folders of the lake that hold tables' folders instead of being one.
_GROUPS = {table.group for table in TABLES.values() if table.group}

# Nodes that a parsed query may contain. DuckDB accepts COPY and INSERT within WITH as part of a SELECT.
_QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_TABLE_FUNCTIONS = {"range", "generate_series", "unnest", "repeat", "repeat_row"}

_EXCEL_ROWS, _EXCEL_TEXT = 1_048_576, 32_767


def connect(lake: AnyPath, sql: str = "") -> duckdb.DuckDBPyConnection:
    """Open the lake's tables as views of an in-memory database that can neither write nor read anything else.

    Every registered table has a view, with its registered columns, even before the table has files. Columns
    that older files lack are null. A table that isn't registered has a view once it has files. Views of
    tables with one file per session have the text column `session`, the key in the folder's name.

    Parameters
    ----------
    lake : path
        Folder with TABLE/session=SESSION/part-0.parquet, TABLE/part-0.parquet, and the same below analysis/
        and training/.
    sql : str
        The query to come: only the views that it names are created. Without it, all views.

    Returns
    -------
    DuckDBPyConnection
        Its configuration is locked. Run untrusted queries through `run_query`, which also checks them.

    Raises
    ------
    UserError
        When a table can't be read.
    """
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "temp_directory": str(Path(tempfile.gettempdir()) / "tem_pipeline_duckdb"),
        }
    )
    try:
        if getattr(lake, "protocol", "") in ("", "file"):
            lake = Path(str(lake)).absolute()
            roots = {str(lake)}
        else:
            store: Any = lake
            connection.register_filesystem(store.fs)
            roots = {str(lake), f"{store.protocol}://{store.path}"}
        patterns = dict.fromkeys(TABLES) | dict(_find_tables(lake))
        for name in sorted(_named_in(sql, set(patterns))):
            _create_view(connection, name, patterns[name])
        # DuckDB compares patterns as written: allow a root with glob characters in both spellings.
        allowed = ", ".join(_text(root) for root in sorted(roots | {glob.escape(root) for root in roots}))
        connection.execute(f"SET allowed_directories = [{allowed}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def _find_tables(lake: AnyPath) -> Iterator[tuple[str, str]]:
    """Give the name of each table with files, and the pattern of its files."""
    folders = [folder for folder in _folders(lake) if folder.name not in _GROUPS]
    for group in sorted(_GROUPS):
        folders += _folders(lake / group)
    for folder in folders:
        escaped = glob.escape(str(folder))
        if any(folder.glob(f"session=*/{TABLE_FILE}")):
            yield folder.name, f"{escaped}/session=*/{TABLE_FILE}"
        elif (folder / TABLE_FILE).exists():
            yield folder.name, f"{escaped}/{TABLE_FILE}"


def _folders(parent: AnyPath) -> list[AnyPath]:
    if not parent.is_dir():
        return []
    return sorted(
        (f for f in parent.iterdir() if f.is_dir() and not f.name.startswith(".")), key=lambda f: f.name
    )


def _named_in(sql: str, names: set[str]) -> set[str]:
    """Choose the tables that a query names; all of them if it names none or lists the views."""
    text = sql.casefold()
    named = {name for name in names if name.casefold() in text}
    return names if not named or any(catalogue in text for catalogue in _CATALOGUES) else named


def _create_view(connection: duckdb.DuckDBPyConnection, name: str, pattern: str | None) -> None:
    table = TABLES.get(name)
    if pattern is None:
        source = _no_rows(TABLES[name])
    elif table is not None:
        source = _registered(table, pattern)
    else:
        hive = "true, hive_types = {'session': VARCHAR}, hive_types_autocast = false"
        source = (
            f"SELECT * FROM read_parquet({_text(pattern)}, union_by_name = true, "
            f"hive_partitioning = {hive if '/session=*/' in pattern else 'false'})"
        )
    try:
        connection.execute(f"CREATE OR REPLACE VIEW {_name(name)} AS {source}")
    except duckdb.Error as error:
        raise UserError(
            f"{name}: a file of this table can't be read ({_first_line(error)}); materialise it again"
        ) from error


def _no_rows(table: Table) -> str:
    """Select no rows with the columns of a table."""
    columns = [f"NULL::{_sql_type(field.type)} AS {_name(field.name)}" for field in table.schema]
    session = ["NULL::VARCHAR AS session"] if table.per_session else []
    return f"SELECT {', '.join(columns + session)} WHERE false"


def _registered(table: Table, pattern: str) -> str:
    """Select the registered columns of a table's files.

    With the columns named, DuckDB opens only the files that a query needs. Otherwise it would read the schema
    of every file, which takes seconds for thousands of files.
    """
    columns = ", ".join(
        f"{_text(field.name)}: {{name: {_text(field.name)}, type: '{_sql_type(field.type)}', "
        "default_value: NULL}"
        for field in table.schema
    )
    files = (
        f"read_parquet({_text(pattern)}, schema = MAP {{{columns}}}, filename = true, "
        "hive_partitioning = false)"
    )
    if not table.per_session:
        return f"SELECT * EXCLUDE (filename) FROM {files}"
    # read_parquet accepts no hive keys together with a schema. A filter on this expression also skips files.
    session = r"regexp_extract(filename, '[/\\]session=([^/\\]*)[/\\][^/\\]*$', 1)"
    return f"SELECT * EXCLUDE (filename), {session} AS session FROM {files}"


def _sql_type(kind: pa.DataType) -> str:
    if isinstance(kind, pa.ListType):
        return f"{_sql_type(kind.value_type)}[]"
    return _SQL_TYPES[kind]


def run_query(lake: AnyPath, sql: str) -> pa.Table:
    """Run one read-only query over the lake's tables.

    SELECT, FROM, WITH, VALUES, SHOW, DESCRIBE and SUMMARIZE are allowed. Anything that writes, loads,
    attaches or sets is refused, and so is every table function that could open a file.

    Parameters
    ----------
    lake : path
    sql : str

    Returns
    -------
    Table

    Raises
    ------
    UserError
        One line: why the query was refused, or what DuckDB finds wrong with it.
    """
    try:
        return _run(lake, sql)
    except duckdb.CatalogException:
        pass  # DuckDB proposes the view that was meant only if all of them exist.
    except duckdb.Error as error:
        raise UserError(f"query: {_complaint(error)}") from error
    try:
        return _run(lake, sql, every_view=True)
    except duckdb.Error as error:
        raise UserError(f"query: {_complaint(error)}") from error


def _run(lake: AnyPath, sql: str, every_view: bool = False) -> pa.Table:
    with contextlib.closing(connect(lake, "" if every_view else sql)) as connection:
        _check_statement(connection, sql)
        return connection.sql(sql).to_arrow_table()


def _check_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise UserError(f"query: give one SELECT statement, not {len(statements)}")
    if statements[0].type != duckdb.StatementType.SELECT:
        kind = statements[0].type.name
        raise UserError(f"query: {kind} statements aren't allowed; the tables are read-only, use SELECT")
    answer = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchall()
    tree = json.loads(answer[0][0]) if answer else {"error": True, "error_message": "it can't be parsed"}
    if tree.get("error"):
        raise UserError(f"query: {tree.get('error_message')}")
    for node in _nodes(tree["statements"]):
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in _QUERY_NODES:
            raise UserError("query: the tables are read-only, and WITH may contain only SELECT")
        if kind == "TABLE_FUNCTION":
            function = str(node.get("function", {}).get("function_name", "")).lower()
            if function not in _TABLE_FUNCTIONS:
                raise UserError(
                    f"query: the function {function} isn't available; query the views (SHOW TABLES)"
                )
        if kind == "BASE_TABLE" and any(mark in str(node.get("table_name", "")) for mark in "/\\*"):
            raise UserError("query: files can't be read by name; query the views (SHOW TABLES)")


def _nodes(tree: Any) -> Iterator[dict]:
    pending = [tree]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _complaint(error: Exception) -> str:
    """Give DuckDB's message with its proposals, without the copy of the query that it ends with."""
    message = re.split(r"\n+LINE \d+:", str(error), maxsplit=1)[0]
    return " ".join(message.split()) or type(error).__name__


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def write_result(table: pa.Table | pd.DataFrame, path: Path) -> None:
    """Write the result of a query to a file, in one step.

    Parameters
    ----------
    table : Table or DataFrame
    path : Path
        Ending in .csv, .parquet or .xlsx. Lists become JSON text in CSV and Excel. Excel workbooks hold all
        text in text cells, so that a name is never read as a formula.

    Raises
    ------
    UserError
        For another ending, a folder that doesn't exist, or more rows than a worksheet can hold.
    """
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet", ".xlsx"):
        raise UserError(f"{path}: can't write this kind of file; end the name in .csv, .parquet or .xlsx")
    if suffix == ".xlsx" and table.num_rows >= _EXCEL_ROWS:
        raise UserError(f"{path}: {table.num_rows} rows don't fit in a worksheet; write .csv or .parquet")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: its folder doesn't exist; make it first")
    table = _as_text(table, pa.types.is_interval, str)
    if suffix != ".parquet":
        table = _as_text(table, pa.types.is_nested, lambda value: json.dumps(value, default=str))
    with atomic_path(path) as part:
        if suffix == ".parquet":
            pq.write_table(table, part, compression="zstd")
        elif suffix == ".csv":
            pyarrow.csv.write_csv(table, part)
        else:
            _write_workbook(table, part)


def _as_text(
    table: pa.Table, unsupported: Callable[[pa.DataType], bool], write: Callable[[Any], str]
) -> pa.Table:
    """Convert columns to text if the format doesn't support their type."""
    for i, field in enumerate(table.schema):
        if unsupported(field.type):
            texts = [None if value is None else write(value) for value in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(texts, pa.string()))
    return table


def _write_workbook(table: pa.Table, path: Path) -> None:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    sheet = book.create_sheet("query")
    sheet.freeze_panes = "A2"

    def cell(value: object) -> object:
        if value is None or value != value:  # NaN has no cell
            return None
        if isinstance(value, Decimal):
            value = float(value)
        if isinstance(value, bool | int | float) and abs(value) != float("inf"):
            return value
        if isinstance(value, date) and getattr(value, "tzinfo", None) is None:
            return value
        made = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", str(value))[:_EXCEL_TEXT])
        # Excel never runs a text cell; the prefix keeps the cell text when somebody edits it.
        made.data_type, made.quotePrefix = "s", True
        return made

    sheet.append([cell(name) for name in table.column_names])
    for batch in table.to_batches(max_chunksize=10_000):
        columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            sheet.append([cell(value) for value in row])
    with path.open("wb") as stream:
        book.save(stream)
