"""Measures, and writes docs/benchmarks/: `python -m benchmarks [NAME...]`.

A benchmark is a function in BENCHMARKS that returns measurements. The first line of its docstring is its
title. Benchmarks that are not named keep their earlier numbers.
"""

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks.file_reading import reading_4k_files
from benchmarks.large_image import large_image
from benchmarks.large_session import two_hundred_images
from benchmarks.measurements import Measurement, Spread, machine
from benchmarks.networks import network_alone, one_file, segmenting_2048_px
from benchmarks.particle_measuring import (
    measuring_ten_thousand_particles,
    splitting_touching_particles,
    statistics_of_ten_thousand_particles,
)
from benchmarks.queries import querying_ten_million_particles
from benchmarks.session_folders import ten_thousand_session_folders
from benchmarks.sizes import int8, sizes_of_network
from benchmarks.starting import starting_programs
from benchmarks.training_steps import training_steps
from tem_pipeline.settings import PROJECT_ROOT

BENCHMARKS: list[Callable[[], list[Measurement]]] = [
    segmenting_2048_px,
    network_alone,
    one_file,
    training_steps,
    sizes_of_network,
    int8,
    large_image,
    two_hundred_images,
    measuring_ten_thousand_particles,
    splitting_touching_particles,
    statistics_of_ten_thousand_particles,
    reading_4k_files,
    querying_ten_million_particles,
    starting_programs,
    ten_thousand_session_folders,
]
FOLDER = PROJECT_ROOT / "docs" / "benchmarks"


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all of them; return 1 if a target was missed."""
    known = {benchmark.__name__: benchmark for benchmark in BENCHMARKS}
    unknown = set(names) - known.keys()
    if unknown:
        print(f"there is no benchmark {', '.join(sorted(unknown))}: use {', '.join(known)}", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    stored = FOLDER / "benchmarks.json"
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    failed = False
    for name in names or known:
        measurements = known[name]()
        results[name] = {
            "title": (known[name].__doc__ or name).splitlines()[0].rstrip("."),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "load": round(os.getloadavg()[2], 1),
            "machine": machine(),
            "measurements": [vars(measurement) for measurement in measurements],
        }
        failed = failed or not all(m.reached for m in measurements)
        # Written after each benchmark, because the next one may take long.
        stored.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        (FOLDER / "README.md").write_text(markdown(results))
    print(markdown(results), end="")
    return int(failed)


def markdown(results: dict[str, Any]) -> str:
    """Give the results as a page."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`.",
        "Numbers from different machines aren't comparable.",
        "Values are medians, with the quartiles over the repeats in brackets.",
        "Where two things are compared, they run in turns, and the ratio is the median over the pairs.",
    ]
    for result in results.values():
        lines += [
            "",
            f"## {result['title']}",
            "",
            "| measured | value | compared with | ratio | target |",
            "|---|---:|---|---:|---:|",
        ]
        lines += [_row(Measurement(**row)) for row in result["measurements"]]
        about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
        lines += ["", f"{result['date']}; load {result['load']} over 15 min; {about}."]
    return "\n".join(lines) + "\n"


def _row(row: Measurement) -> str:
    value = _with_spread(row.value, row.spread, row.unit)
    other = ratio = ""
    how = "as fast" if row.at_most is None else "as long" if row.unit == "s" else "as much"
    if row.compared_value is not None and row.ratio is not None:
        other = f"{row.compared_with}: {_with_spread(row.compared_value, row.compared_spread, row.unit)}"
        ratio = f"{_with_spread(row.ratio, row.ratio_spread, '×')} {how}"
        if row.processor_ratio is not None:
            ratio += f"; processor time {row.processor_ratio:.3g} ×"
    targets = [
        f"{sign} {number:g} {unit}"
        for sign, number, unit in (
            ("<", row.limit, row.unit),
            ("≥", row.at_least, f"× {how}"),
            ("≤", row.at_most, f"× {how}"),
        )
        if number is not None
    ]
    missed = "" if row.reached else " **missed**"
    return f"| {row.what} | {value} | {other} | {ratio} | {'; '.join(targets)}{missed} |"


def _with_spread(value: float, spread: Spread | None, unit: str) -> str:
    between = f" ({spread[0]:.3g} … {spread[1]:.3g})" if spread else ""
    return f"{value:.3g} {unit}{between}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
