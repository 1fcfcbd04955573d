"""Commands on the tables."""

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from tem_pipeline.cli.options import Demo, chosen_installation
from tem_pipeline.text import counted


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


def analyse(demo: Demo = False) -> None:
    """Summarise samples over all their sessions, and relate them to the activities in activity/*.csv."""
    from tem_pipeline.orchestration.launch import run_job
    from tem_pipeline.storage import read_table

    installation = chosen_installation(demo)
    run_job(installation, "analyse")
    layout = installation.layout
    summary, relations = layout.table("analysis/sample_summary"), layout.table("analysis/structure_activity")
    samples = read_table(summary, ["sample_id"])["sample_id"].nunique()
    related = read_table(relations, ["reason"])["reason"].isna().sum()
    print(f"{counted(samples, 'sample')}, {counted(int(related), 'correlation')}")
    print(f"{summary}\n{relations}\n{layout.reports / 'structure_activity'}")
