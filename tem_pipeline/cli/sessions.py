"""Commands on sessions."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tem_pipeline import progress
from tem_pipeline.cli.failures import each
from tem_pipeline.cli.options import AsJson, Demo, chosen_installation
from tem_pipeline.errors import UserError
from tem_pipeline.text import counted


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


def forget(
    session: Annotated[
        str, typer.Argument(metavar="SESSION", help="Key of the session, or its folder's name.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    demo: Demo = False,
) -> None:
    """Remove a session's tables, report, lock and partition. Its microscope files are kept."""
    from tem_pipeline.orchestration.forgetting import forget_session, forgettable

    installation = chosen_installation(demo)
    key, folders = forgettable(installation, session)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"session {key}: nothing was removed; confirm with --yes")
        print("\n".join(str(folder) for folder in folders))
        typer.confirm(f"Remove these folders and the partition {key}?", abort=True)
    forget_session(installation, key)
    print(f"session {key}: removed {counted(len(folders), 'folder')} of tables and report")
    folder = installation.layout.incoming / session
    if folder.is_dir():
        progress.say(f"{folder} is still there and will be processed again: move it out of incoming/")
