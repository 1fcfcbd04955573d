"""Progress bars on a person's terminal; nothing in a pipe, in the daemon or in tests."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_terminal: Console | None = None


def open_terminal() -> None:
    """Show bars from now on, where standard error is a terminal.

    The terminal is held by a descriptor of its own: Dagster redirects standard error while a step runs.
    """
    global _terminal
    if _terminal is None and sys.stderr.isatty():
        _terminal = Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w"))


@contextmanager
def bar(description: str) -> Iterator[Callable[[float, str], None]]:
    """Show a bar while the block runs.

    Yields
    ------
    callable
        Takes the share that is done, 0 to 1, and a short remark.
    """
    if _terminal is None:
        yield lambda share, remark="": None
        return
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
