"""Processes several images of a session at the same time, in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

import pandas as pd

# While one image is in a step that uses only one core, another image keeps the other cores busy.
IMAGES_IN_FLIGHT = 2
# Larger images are processed one at a time, because they need too much memory together.
LARGEST_IN_FLIGHT_PX = 4096**2

_Given = TypeVar("_Given")
_Result = TypeVar("_Result")


def most_in_flight(images: pd.DataFrame) -> int:
    """Give the number of images to process at the same time.

    Parameters
    ----------
    images : DataFrame
        Rows of a manifest with height_px and width_px.
    """
    largest_px = (images["height_px"].astype(int) * images["width_px"].astype(int)).max()
    return min(IMAGES_IN_FLIGHT, len(images)) if largest_px <= LARGEST_IN_FLIGHT_PX else 1


def in_order(
    work: Callable[[_Given], _Result], given: Iterable[_Given], in_flight: int, ended: Event | None = None
) -> Generator[tuple[_Given, _Result], None, None]:
    """Apply a function to items in threads and give the results in order.

    Parameters
    ----------
    work : callable
        If it raises an error for an item, the error is raised when the item's turn comes.
    given : iterable
        The items. They are read in the caller's thread.
    in_flight : int
        Largest number of items that are begun but not yet returned. With 1 the caller's thread does the work,
        the next item is read after that, and `ended` is not used.
    ended : Event, optional
        Set when this generator ends or fails, so that long work can stop early. The generator waits for work
        that has begun.

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
