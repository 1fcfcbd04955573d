"""Measures, and writes docs/benchmarks/: `python -m tem_pipeline_tests.benchmarks [NAME...]`.

A benchmark is a function in BENCHMARKS that gives measurements; the first line of its docstring is its title.
Those that aren't named keep the numbers that they had.
"""

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline_tests.benchmarks.measurements import Measurement, machine
from tem_pipeline_tests.benchmarks.session_folders import ten_thousand_session_folders

BENCHMARKS: list[Callable[[], list[Measurement]]] = [ten_thousand_session_folders]
FOLDER = PROJECT_ROOT / "docs" / "benchmarks"


def main(names: list[str]) -> int:
    """Measure what is named, or everything; give 1 if a limit was passed."""
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
        failed = failed or any(m.limit is not None and m.value >= m.limit for m in measurements)
        # After each: what comes next may take long.
        stored.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        (FOLDER / "README.md").write_text(markdown(results))
    print(markdown(results), end="")
    return int(failed)


def markdown(results: dict[str, Any]) -> str:
    """Give the results as a page."""
    lines = ["# Benchmarks", "", "Written by `make bench`. Numbers of different machines aren't comparable."]
    for result in results.values():
        lines += [
            "",
            f"## {result['title']}",
            "",
            "| measured | value | must stay under |",
            "|---|---:|---:|",
        ]
        for row in result["measurements"]:
            limit = "" if row["limit"] is None else f"{row['limit']:g} {row['unit']}"
            lines.append(f"| {row['what']} | {row['value']:.3g} {row['unit']} | {limit} |")
        about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
        lines += ["", f"{result['date']}; load {result['load']} over 15 min; {about}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
