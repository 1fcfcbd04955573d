"""The `tem-pipeline` command: runs Dagster's jobs or plain functions in this process.

Each command imports what it needs, so that no command waits for the libraries of another.
"""

import json
import os
import sys
from typing import Annotated

import typer

from tem_pipeline import __version__, progress
from tem_pipeline.cli import images, models, sessions, tables
from tem_pipeline.cli.failures import fail
from tem_pipeline.cli.options import AsJson, Demo, chosen_installation
from tem_pipeline.errors import UserError
from tem_pipeline.settings import load_settings, settings_table

app = typer.Typer(
    name="tem-pipeline",
    help="From a transmission electron microscope's session folders to particle tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit; off by default.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
    demo: Demo = False,
) -> None:
    """From a transmission electron microscope's session folders to particle tables."""
    if demo:
        names = [command.name or command.callback.__name__ for command in app.registered_commands]  # type: ignore[union-attr]
        context.default_map = {name: {"demo": True} for name in names}


def main() -> None:
    """Run the command line. Exit 0: done; 1: something failed, one line each on stderr; 2: wrong usage."""
    progress.open_terminal()
    try:
        app()
    except UserError as error:
        fail(error)
        sys.exit(1)
    except KeyboardInterrupt:
        fail("interrupted")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output, such as `head`, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def demo() -> None:
    """Train and process on simulated images, below data/demo and models/demo."""
    from tem_pipeline.demo import run_demo

    run_demo(load_settings())


def dev(
    demo: Demo = False,
    dagster_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="DAGSTER_PORT", help="Port of Dagster's pages.")
    ] = 3000,
    mlflow_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="MLFLOW_PORT", help="Port of MLflow's pages.")
    ] = 5000,
) -> None:
    """Run Dagster's pages and daemon, and MLflow's pages, on 127.0.0.1 until Ctrl-C."""
    from tem_pipeline.demo import demo_installation
    from tem_pipeline.dev import serve

    # Also before the first demo: its pages are then empty.
    installation = demo_installation(load_settings()) if demo else chosen_installation()
    serve(installation, dagster_port, mlflow_port)


def settings(as_json: AsJson = False, demo: Demo = False) -> None:
    """List every setting with its value and where it comes from."""
    rows = settings_table(load_settings())
    for row, chosen in zip(rows, settings_table(chosen_installation(demo).settings), strict=True):
        if row["value"] != chosen["value"]:
            row |= {"value": chosen["value"], "origin": "--demo"}
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['setting']} = {row['value']}  ({row['origin']})\n    {row['meaning']}")


for command in (
    demo,
    dev,
    images.simulate,
    models.train,
    models.evaluate,
    sessions.process,
    images.segment,
    images.info,
    tables.query,
    sessions.sessions,
    sessions.forget,
    tables.analyse,
    models.champion,
    settings,
):
    app.command()(command)
