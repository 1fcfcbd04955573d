"""Commands on the tables."""

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from tem_pipeline.cli.options import Demo, chosen_installation


def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT statement of DuckDB's SQL.")],
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="Format of the printed result.")
    ] = "table",
    out: Annotated[
        Path | None,
        typer.Option(help="Write the result to this .csv, .parquet or .xlsx file.", show_default="print it"),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Columns of the printed table, or all.",
            show_default="those that fit, the most important first",
        ),
    ] = None,
    demo: Demo = False,
) -> None:
    """Run a read-only SQL query; each asset's table is a view."""
    from tem_pipeline.particles.query import run_query, write_result
    from tem_pipeline.particles.query_text import as_text, choose_columns

    result = run_query(Path(str(chosen_installation(demo).layout.lake)), sql)
    if columns is not None:
        result = result.select(choose_columns(result.column_names, columns))
    if out is not None:
        write_result(result, out)
        print(out)
    elif output == "csv":
        print(result.to_pandas().to_csv(index=False), end="")
    elif output == "json":
        print(result.to_pandas().to_json(orient="records", date_format="iso", date_unit="us"))
    else:
        print(as_text(result.to_pandas(), columns and "all", shutil.get_terminal_size((120, 24)).columns))
