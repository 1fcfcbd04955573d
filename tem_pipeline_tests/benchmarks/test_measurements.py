import subprocess

import dagster as dg
import numpy as np
import pytest

from benchmarks.__main__ import markdown
from benchmarks.large_session import functions_s
from benchmarks.measurements import (
    Measurement,
    compared,
    paired,
    repeated,
    run_and_weigh,
)


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


def test_a_missing_ratio_misses_its_target():
    assert not Measurement("work", 2.0, "s", at_least=1).reached


def test_compared_work_runs_in_turns_and_the_first_run_is_not_counted():
    order = []
    row = compared("a", lambda: order.append("a"), "b", lambda: order.append("b"), 3, at_most=1e9)
    assert "".join(order) == "ab" * 4
    assert row.compared_with == "b"
    assert row.ratio is not None
    assert row.ratio_spread is not None
    assert row.ratio_spread[0] <= row.ratio <= row.ratio_spread[1]
    repeated("c", lambda: order.append("c"), 2)
    assert "".join(order) == "ab" * 4 + "ccc"


def test_a_row_shows_the_comparison_and_the_missed_target():
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


def test_a_ratio_is_the_median_over_the_pairs():
    own, others = [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)], [(2.0, 4.0), (6.0, 12.0), (16.0, 32.0)]
    faster = paired("own", own, "others", others, at_least=2)
    assert (faster.value, faster.compared_value, faster.ratio, faster.processor_ratio) == (2, 6, 3, 6)
    longer = paired("others", others, "own", own, at_most=4)
    assert (longer.value, longer.compared_value, longer.ratio, longer.processor_ratio) == (6, 2, 3, 6)


def test_memory_ratios_say_as_much_instead_of_as_long():
    row = Measurement("peak", 200.0, "MiB", compared_value=100.0, ratio=2.0, at_most=1.1)
    page = markdown(
        {"work": {"title": "", "date": "", "load": 0, "machine": {}, "measurements": [vars(row)]}}
    )
    assert "2 × as much | ≤ 1.1 × as much **missed** |" in page


def test_peak_memory_excludes_the_process_that_started_the_measured_one():
    held = np.ones(2**26)
    output, peak_mib = run_and_weigh("-c", "held = bytearray(100 * 2**20); print('done')")
    assert output == "done"
    assert 100 < peak_mib < 200 < held.nbytes / 2**20


def test_a_failing_process_raises_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        run_and_weigh("-c", "raise SystemExit(3)")


def test_time_in_asset_functions_excludes_time_in_dagster():
    @dg.asset
    def first() -> int:
        return 1

    @dg.asset
    def second(first: int) -> int:
        return first + 1

    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([first, second], instance=instance)
        events = instance.all_logs(run.run_id)
    assert 0 < functions_s(events) < events[-1].timestamp - events[0].timestamp
