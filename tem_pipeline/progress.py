"""Progress bars and remarks of the command line. The daemon and the tests show none.

Bars appear on a terminal only, remarks also in a pipe.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from tem_pipeline.text import one_line

if TYPE_CHECKING:  # rich is loaded only for a terminal.
    from rich.console import Console

_stderr: TextIO | None = None
_terminal: "Console | None" = None
_said: set[str] = set()


def open_terminal() -> None:
    """Show remarks from now on, and bars if standard error is a terminal.

    Standard error is duplicated, because Dagster redirects it while a step runs.
    """
    global _stderr, _terminal
    if _stderr is None:
        _stderr = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
        if sys.stderr.isatty():
            from rich.console import Console

            _terminal = Console(file=_stderr)


def say(remark: str) -> None:
    """Write one line to standard error; a repeated line is written once."""
    if _stderr is None or remark in _said:
        return
    _said.add(remark)
    line = "tem-pipeline: " + one_line(remark)
    if _terminal is None:
        print(line, file=_stderr)
    else:
        _terminal.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(description: str) -> Iterator[Callable[[float, str], None]]:
    """Show a bar while the block runs.

    Yields
    ------
    callable
        Receives the fraction done, 0 to 1, and a short remark.
    """
    if _terminal is None:
        yield lambda share, remark="": None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=_terminal) as progress:
        task = progress.add_task(description, total=1.0, remark="")

        def advance(share: float, remark: str = "") -> None:
            progress.update(task, completed=share, remark=remark)

        yield advance
