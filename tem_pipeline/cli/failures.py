"""Failures on the command line: one line each on standard error, and the work goes on."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import typer

from tem_pipeline.errors import UserError
from tem_pipeline.text import one_line


def fail(reason: object) -> None:
    """Write one line on stderr."""
    print("tem-pipeline: " + one_line(reason), file=sys.stderr)


def each(items: Iterable[Any], work: Callable[[Any], None]) -> None:
    """Do the work for each item. A failure is one line, and the other items are still done."""
    failed = False
    for item in items:
        try:
            work(item)
        except UserError as error:
            fail(error)
            failed = True
    if failed:
        raise typer.Exit(1)
