"""Reads damaged and hostile files, and writes .fuzzing/report.md: `python -m fuzzing [SECONDS]`.

Mutants are made of the files in TEM_REFERENCE_DATA, or of simulated ones if it is not set, by a fixed seed.
Exit code 1 if a file led to a traceback.
"""

import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fuzzing.crafted import CRAFTED
from fuzzing.mutants import mutant, originals
from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.hashes import pixel_sha256
from tem_pipeline.micrographs.preparation import prepare_image
from tem_pipeline.micrographs.reading import MicrographError
from tem_pipeline.micrographs.reading_process import ReadingLimits, read_micrographs
from tem_pipeline.settings import PROJECT_ROOT

SEED = 0
LIMITS = ReadingLimits(10, 10**9)
_LARGEST_BYTES = 3 * 10**6
_OUTCOMES = ("read", "refused", "took too long", "took too much memory", "crashed its reader", "traceback")
FOLDER = PROJECT_ROOT / ".fuzzing"


@dataclass
class Report:
    """What became of the files."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def tracebacks(self) -> int:
        return sum(n for (_, outcome), n in self.counts.items() if outcome == "traceback")

    def markdown(self) -> str:
        head = [f"| files | {' | '.join(_OUTCOMES)} |", "|---|" + "---:|" * len(_OUTCOMES)]
        lines = ["# Fuzzing", "", *head]
        for kind in sorted({kind for kind, _ in self.counts}):
            numbers = " | ".join(str(self.counts[kind, outcome]) for outcome in _OUTCOMES)
            lines.append(f"| {kind} | {numbers} |")
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes), ""])


def main(seconds: float) -> int:
    """Read crafted files, then mutants until the time is over; write the report."""
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        ends = time.monotonic() + seconds
        read_crafted(Path(name), report)
        read_mutants(Path(name), report, sources(Path(name)), ends)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "report.md").write_text(report.markdown(), encoding="utf-8")
    print(report.markdown(), end="")
    return int(report.tracebacks > 0)


def read_crafted(folder: Path, report: Report) -> None:
    """Read one file of every crafted kind."""
    for number, make in enumerate(CRAFTED):
        place = folder / f"crafted_{number}"
        place.mkdir()
        path, started = make(place), time.monotonic()
        outcome, reason = outcome_of(path)
        report.counts["crafted", outcome] += 1
        report.notes.append(f"{make.__name__}: {outcome}, {time.monotonic() - started:.1f} s. {reason}")
        shutil.rmtree(place)


def read_mutants(folder: Path, report: Report, files: list[Path], ends: float) -> None:
    """Read mutants until the time is over; what is neither read nor refused is kept in `FOLDER`."""
    for number, (path, content) in enumerate(mutants(files)):
        if time.monotonic() > ends:
            return
        place = folder / "mutant"
        place.mkdir(exist_ok=True)
        (place / path.name).write_bytes(content)
        for other in path.parent.glob(f"{path.stem.rsplit('_', 1)[0]}*"):
            if path.suffix in (".ser", ".emi") and other.suffix in (".ser", ".emi") and other != path:
                shutil.copy(other, place)
        outcome, reason = outcome_of(place / path.name)
        report.counts[f"mutants, {path.suffix}", outcome] += 1
        if outcome not in ("read", "refused"):
            FOLDER.mkdir(exist_ok=True)
            kept = FOLDER / f"{number}{path.suffix}"
            kept.write_bytes(content)
            report.notes.append(f"{kept.name} (of {path.name}): {outcome}. {reason}")
        shutil.rmtree(place)


def mutants(files: list[Path]) -> Iterator[tuple[Path, bytes]]:
    """Give damaged contents of files without end, the same ones each time, as many of each format."""
    rng = np.random.default_rng(SEED)
    suffixes = sorted({path.suffix for path in files})
    formats = [[path for path in files if path.suffix == suffix] for suffix in suffixes]
    while True:
        for paths in formats:
            path = paths[rng.integers(len(paths))]
            yield path, mutant(path.read_bytes(), rng)


def sources(folder: Path) -> list[Path]:
    """List the files that mutants are made of."""
    reference = os.environ.get("TEM_REFERENCE_DATA")
    if reference:
        return originals(Path(reference), _LARGEST_BYTES)
    from tem_pipeline.simulation.micrographs import FILE_FORMATS, simulate_micrograph, write_micrograph

    drawn = simulate_micrograph(np.random.default_rng(SEED), shape=(128, 128), pixel_size_nm=0.1)
    (folder / "simulated").mkdir()
    for kind in FILE_FORMATS:
        write_micrograph(folder / "simulated" / f"a.{kind}", drawn)
    return originals(folder / "simulated", _LARGEST_BYTES)


def outcome_of(path: Path, limits: ReadingLimits = LIMITS) -> tuple[str, str]:
    """Read a file and prepare its images; give the outcome and the reason."""
    try:
        for micrograph in read_micrographs(path, limits=limits):
            pixel_sha256(micrograph.image)
            prepare_image(micrograph)
    except MicrographError as error:
        words = {"took longer than": 2, "GB of memory": 3, "fit into memory": 3, "crashed the program": 4}
        kind = next((number for word, number in words.items() if word in error.reason), 1)
        return _OUTCOMES[kind], error.reason
    except UserError as error:
        return _OUTCOMES[1], str(error)
    except Exception:
        return _OUTCOMES[5], traceback.format_exc()
    return _OUTCOMES[0], ""


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 600))
