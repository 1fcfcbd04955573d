"""Work on several images of a session at a time, in threads; what is done with each is the callers'."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

import pandas as pd

# While one image has a step that uses one core, another keeps the other cores busy.
IMAGES_IN_FLIGHT = 2
# Larger images are taken one at a time: what they need in memory would add up.
LARGEST_IN_FLIGHT_PX = 4096**2

_Given = TypeVar("_Given")
_Result = TypeVar("_Result")


def most_in_flight(images: pd.DataFrame) -> int:
    """Say how many of some images may be worked on at a time.

    Parameters
    ----------
    images : DataFrame
        Rows of a manifest: height_px and width_px.
    """
    largest_px = (images["height_px"].astype(int) * images["width_px"].astype(int)).max()
    return min(IMAGES_IN_FLIGHT, len(images)) if largest_px <= LARGEST_IN_FLIGHT_PX else 1


def in_order(
    work: Callable[[_Given], _Result], given: Iterable[_Given], in_flight: int, ended: Event | None = None
) -> Generator[tuple[_Given, _Result], None, None]:
    """Do work in threads and give results in order.

    Parameters
    ----------
    work : callable
        What it raises is raised here when its turn comes.
    given : iterable
        What the work is done on, one after the other. It is read by the caller's thread.
    in_flight : int
        At most so many are begun and not given yet. With 1 the caller's thread does the work, reads what the
        next is done on after that, and leaves `ended` alone: nothing else is begun.
    ended : Event, optional
        Set when this ends, however it does, so that long work that is begun can stop early: it is waited for.

    Yields
    ------
    given, result
    """
    if in_flight == 1:
        for each in given:
            yield each, work(each)
        return
    waiting: deque[tuple[_Given, Future[_Result]]] = deque()
    with ThreadPoolExecutor(in_flight) as pool:
        try:
            for each in given:
                if len(waiting) == in_flight:
                    yield _taken(waiting)
                waiting.append((each, pool.submit(work, each)))
            while waiting:
                yield _taken(waiting)
        finally:
            if ended:
                ended.set()
            for _, future in waiting:
                future.cancel()


def _taken(waiting: deque[tuple[_Given, Future[_Result]]]) -> tuple[_Given, _Result]:
    each, future = waiting.popleft()
    return each, future.result()
