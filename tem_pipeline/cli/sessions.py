"""Commands on sessions."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tem_pipeline.cli.failures import each
from tem_pipeline.cli.options import AsJson, Demo, chosen_installation


def process(
    session_dirs: Annotated[
        list[Path], typer.Argument(metavar="SESSION_DIR...", help="Folders of microscope files.")
    ],
    demo: Demo = False,
) -> None:
    """Register sessions and make their masks, tables, statistics and reports."""
    from tem_pipeline.orchestration.session_run import process_session

    installation = chosen_installation(demo)
    each(session_dirs, lambda folder: print(process_session(installation, folder)))


def sessions(as_json: AsJson = False, demo: Demo = False) -> None:
    """List every session with its state and the reason."""
    import time

    from tem_pipeline.orchestration.session_life.survey import as_lines, as_record, session_states

    installation = chosen_installation(demo)
    states = session_states(installation.layout, installation.settings, time.time())
    if as_json:
        print(json.dumps([as_record(state) for state in states]))
    else:
        print("\n".join(as_lines(states)))
