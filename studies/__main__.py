"""Runs the studies and writes their results into docs/: `python -m studies [PART...]`.

The part `pretrained` has its own page, pretrained-model.md; the others share loss-study.md.

Each finished training leaves one row in .study/, so an interrupted study resumes where it stopped. With
--rehearsal each part trains for a few steps only and writes its page to .study/rehearsal/.
"""

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurements import machine
from studies.pretrained_model import pretrained_jobs, pretrained_section
from studies.tables import FIGURE, SECTIONS, losses_figure, replace_section
from studies.trainings import (
    CLASSICAL,
    REAL,
    SIMULATED,
    Job,
    Training,
    read_data,
    reference_folder,
    timing_job,
    training_job,
)
from tem_pipeline.errors import UserError
from tem_pipeline.settings import PROJECT_ROOT, load_settings
from tem_pipeline.storage import write_bytes
from tem_pipeline.tables import LOSSES
from tem_pipeline.training.fitting import PROFILES, Profile

WORK = PROJECT_ROOT / ".study"
DOCS = PROJECT_ROOT / "docs"
# Page and results file of most parts, and of the parts with their own page.
PAGE, RESULTS = "loss-study.md", "loss_study.json"
OWN_PAGES = {"pretrained": ("pretrained-model.md", "pretrained_model.json")}
PARTS = {"pretrained": pretrained_section, **SECTIONS}
DATA = (SIMULATED, REAL)


@dataclass(frozen=True)
class Budget:
    """Size of a study: the training profiles, the seeds of repeated trainings and the rounds of timing."""

    quick: Profile
    standard: Profile
    seeds: tuple[int, ...]
    timing_rounds: int


FULL = Budget(PROFILES["quick"], PROFILES["standard"], seeds=(0, 1, 2), timing_rounds=3)
REHEARSAL = Budget(
    Profile("rehearsal", 4, 64, 16, 4, 2),
    Profile("long rehearsal", 4, 64, 16, 6, 2),
    seeds=(0, 1),
    timing_rounds=1,
)

data_of = cache(read_data)


def jobs_of(part: str, budget: Budget, threads: int) -> list[Job]:
    """Give the jobs of one part. A training in two parts has the same key in both, so it is done once."""
    if part == "pretrained":
        return pretrained_jobs(reference_folder(), WORK / "pretrained", threads)
    quick = budget.quick
    trainings = {
        "losses": [
            training
            for name in DATA
            for seed in budget.seeds
            for training in (
                *(Training(name, loss, quick, seed) for loss in LOSSES),
                Training(name, "none", quick, seed, CLASSICAL),
            )
        ],
        "networks": [
            Training(name, loss, quick, 0, network)
            for name in DATA
            for loss in LOSSES
            for network in ("ds_unet", "unet")
        ],
        "protocol": [
            Training(name, "dice", quick, seed, protocol=protocol)
            for name in DATA
            for seed in budget.seeds
            for protocol in ("split_then_augment", "augment_then_split")
        ],
        "standard": [Training(REAL, loss, budget.standard) for loss in LOSSES],
    }[part]
    jobs = [training_job(training, data_of(training.data), threads) for training in trainings]
    return [*jobs, timing_job(quick, budget.timing_rounds, threads)] if part == "networks" else jobs


def complete(jobs: Sequence[Job], work: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run the jobs that have no row yet; give the rows of all jobs.

    Parameters
    ----------
    jobs : sequence of Job
    work : path
        Folder with one file KEY.json per finished job, written in one step.
    say : callable
        Called with one line per finished job, with the remaining time.

    Returns
    -------
    list of dict
        In the order of the jobs.
    """
    work.mkdir(parents=True, exist_ok=True)
    rows = {job.key: row for job in jobs if (row := _read_row(work, job.key)) is not None}
    done = [(job.cost, rows[job.key]["seconds"]) for job in jobs if job.key in rows]
    missing = list({job.key: job for job in jobs if job.key not in rows}.values())
    for number, job in enumerate(missing, start=1):
        row = {**job.run(), "date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine()}
        write_bytes(work / f"{job.key}.json", json.dumps(row, allow_nan=False).encode())
        rows[job.key] = row
        done.append((job.cost, row["seconds"]))
        costs, seconds = np.sum(done, axis=0)
        left = seconds / costs * sum(other.cost for other in missing[number:])
        dice = f": Dice {row['test']['dice']:.4f}" if "test" in row else ""
        say(f"{number}/{len(missing)} {job.name}{dice} in {row['seconds']:.0f} s; {_duration(left)} left")
    return [rows[job.key] for job in jobs]


def _read_row(work: Path, key: str) -> dict[str, Any] | None:
    file = work / f"{key}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _duration(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"


def write_part(part: str, rows: list[dict[str, Any]], docs: Path) -> None:
    """Write a part's numbers into its page and its rows into the results file; other parts stay unchanged."""
    page_name, results_name = OWN_PAGES.get(part, (PAGE, RESULTS))
    stored = docs / results_name
    results = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    results[part] = {
        "date": max(row["date"] for row in rows),
        "machine": rows[-1]["machine"],
        "rows": [
            {name: row[name] for name in row if name not in ("first_test_mask", "machine")} for row in rows
        ],
    }
    page = (docs / page_name).read_text(encoding="utf-8")
    page = replace_section(page, part, PARTS[part](results[part]))
    write_bytes(stored, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())
    write_bytes(docs / page_name, page.encode())
    if part == "losses":
        write_bytes(docs / FIGURE, losses_figure(rows, {name: data_of(name) for name in DATA}))


def main(arguments: Sequence[str]) -> int:
    """Run the named parts, or all of them, and write the results after each part."""
    rehearsal = "--rehearsal" in arguments
    parts = [argument for argument in arguments if argument != "--rehearsal"] or list(PARTS)
    unknown = set(parts) - PARTS.keys()
    if unknown:
        print(f"there is no part {', '.join(sorted(unknown))}: use {', '.join(PARTS)}", file=sys.stderr)
        return 2
    budget, work, docs = FULL, WORK, DOCS
    if rehearsal:
        budget, work = REHEARSAL, WORK / "rehearsal"
        docs = work / "docs"
        docs.mkdir(parents=True, exist_ok=True)
        for name in (PAGE, *(page for page, _ in OWN_PAGES.values())):
            shutil.copyfile(DOCS / name, docs / name)
    threads = load_settings().threads
    # Every training builds a new graph, and TensorFlow warns about that each time.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    started = time.monotonic()
    try:
        for part in parts:
            print(f"{part}:", flush=True)
            rows = complete(jobs_of(part, budget, threads), work, lambda line: print(f"  {line}", flush=True))
            write_part(part, rows, docs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return 130
    print(f"{docs} ({time.monotonic() - started:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
