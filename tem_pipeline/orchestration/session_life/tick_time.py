"""Dagster ends a tick after 60 s: work that may take longer stops in time, and the next tick continues."""

import time
from collections.abc import Callable


class OutOfTimeError(Exception):
    """The time of this tick is used up. What was read so far is kept."""


def stopwatch(seconds: float) -> Callable[[], bool]:
    """Start a clock. The function it returns tells whether the seconds have passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
