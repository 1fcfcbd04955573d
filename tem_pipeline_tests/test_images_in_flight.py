import threading
import time

import pandas as pd
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.images_in_flight import in_order, most_in_flight


def test_images_in_flight_overlap_in_time():
    together = threading.Barrier(2, timeout=20)
    done = list(in_order(lambda _: together.wait(), range(4), 2))
    assert [given for given, _ in done] == [0, 1, 2, 3]


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_no_more_work_is_started_than_may_be_in_flight(in_flight):
    begun = []
    for number, (given, result) in enumerate(in_order(begun.append, range(9), in_flight)):
        assert (given, result) == (number, None)
        time.sleep(0.005)
        assert len(begun) - number <= in_flight
    assert sorted(begun) == list(range(9))


def test_one_at_a_time_gives_a_result_before_reading_the_next_image():
    read, given = [], []
    for number, _ in in_order(str, (read.append(each) or each for each in range(5)), 1):
        given.append(number)
        assert read == given


def test_earlier_results_come_before_a_failure_and_no_work_starts_after_it():
    begun, given, ended = [], [], threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 2:
            raise UserError("image 2 is broken")

    with pytest.raises(UserError, match="image 2"):
        given.extend(number for number, _ in in_order(work, range(9), 2, ended))
    assert ended.is_set()
    assert max(begun) <= 3


def test_stopping_early_waits_only_for_work_that_has_started():
    begun, done = [], []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)
        done.append(number)

    results = in_order(work, range(100), 2)
    next(results)
    results.close()
    assert sorted(begun) == sorted(done)
    assert len(done) <= 2


@pytest.mark.parametrize(
    ("sides_px", "images"), [((512,), 1), ((512, 4096), 2), ((512,) * 9, 2), ((512, 4097), 1)]
)
def test_large_images_are_taken_one_at_a_time(sides_px, images):
    assert most_in_flight(pd.DataFrame({"height_px": sides_px, "width_px": sides_px})) == images


def test_no_images_give_no_results():
    assert list(in_order(str, [], most_in_flight(pd.DataFrame({"height_px": [], "width_px": []})))) == []
