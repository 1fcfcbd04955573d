import pytest

from tem_pipeline_tests.benchmarks.__main__ import markdown
from tem_pipeline_tests.benchmarks.measurements import Measurement, compared, repeated


@pytest.mark.parametrize(
    ("targets", "reached"),
    [
        ({}, True),
        ({"limit": 2.5}, True),
        ({"limit": 2.0}, False),
        ({"at_least": 5}, True),
        ({"at_least": 5.1}, False),
        ({"at_most": 5}, True),
        ({"at_most": 4.9}, False),
        ({"limit": 2.5, "at_least": 6}, False),
    ],
)
def test_a_target_is_reached_or_missed(targets, reached):
    assert Measurement("work", 2.0, "s", ratio=5.0, **targets).reached is reached


def test_a_ratio_that_was_not_measured_reaches_nothing():
    assert not Measurement("work", 2.0, "s", at_least=1).reached


def test_what_is_compared_runs_in_turns_and_the_first_run_is_not_counted():
    order = []
    row = compared("a", lambda: order.append("a"), "b", lambda: order.append("b"), 3, at_most=1e9)
    assert "".join(order) == "ab" * 4
    assert row.compared_with == "b"
    assert row.ratio is not None
    assert row.ratio_spread is not None
    assert row.ratio_spread[0] <= row.ratio <= row.ratio_spread[1]
    repeated("c", lambda: order.append("c"), 2)
    assert "".join(order) == "ab" * 4 + "ccc"


def test_a_row_says_what_it_is_compared_with_and_what_it_missed():
    row = Measurement("work", 2.0, "s", None, (1.9, 2.2), "plain", 8.0, (7.5, 9.0), 4.0, (3.8, 4.1), 3.9, 5.0)
    result = {"title": "Work", "date": "today", "load": 0.1, "machine": {"cores": "2"}}
    page = markdown(
        {"work": {**result, "measurements": [vars(row), vars(Measurement("old", 1.0, "s", 2.0))]}}
    )
    assert (
        "| work | 2 s (1.9 … 2.2) | plain: 8 s (7.5 … 9) | 4 × (3.8 … 4.1) as fast; processor time 3.9 × | "
        "≥ 5 × as fast **missed** |"
    ) in page
    assert "| old | 1 s |  |  | < 2 s |" in page
