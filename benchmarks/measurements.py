"""What a benchmark gives, how it is measured, and the machine and versions that it was measured with."""

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

from tem_pipeline.settings import PROJECT_ROOT

PACKAGES = (
    *("dagster", "duckdb", "h5py", "mrcfile", "numpy", "openvino", "pandas", "pyarrow", "rosettasciio"),
    *("scikit-image", "scipy", "tensorflow", "tifffile"),
)

Spread = tuple[float, float]
"""Lower and upper quartile over the repeats."""

Timing = tuple[float, float]
"""Seconds and processor seconds."""

# Linux counts to the peak of a child what the process was that it was forked from, here one with TensorFlow:
# a small process stands between.
_WAITING_PROCESS = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(child.pid, 0)
child.returncode = os.waitstatus_to_exitcode(status)
print(used.ru_maxrss)
sys.exit(child.returncode)
"""


@dataclass(frozen=True)
class Measurement:
    """One number, and what it is compared with.

    Attributes
    ----------
    what : str
    value : float
        The median over the repeats.
    unit : str
    limit : float or None
        What the value must stay under, where that was promised.
    spread : (float, float) or None
    compared_with : str
        What was measured in turns with it; empty where nothing was.
    compared_value, compared_spread
        The same of that.
    ratio : float or None
        The median over the pairs: how many times as fast as what it is compared with, or how many times as
        long it takes where `at_most` says so.
    ratio_spread : (float, float) or None
    processor_ratio : float or None
        The same of processor time, which other programs on the machine disturb less.
    at_least, at_most : float or None
        What the ratio must reach, or must not pass.
    """

    what: str
    value: float
    unit: str
    limit: float | None = None
    spread: Spread | None = None
    compared_with: str = ""
    compared_value: float | None = None
    compared_spread: Spread | None = None
    ratio: float | None = None
    ratio_spread: Spread | None = None
    processor_ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool:
        """Whether everything that was promised holds."""
        return (
            (self.limit is None or self.value < self.limit)
            and (self.at_least is None or (self.ratio is not None and self.ratio >= self.at_least))
            and (self.at_most is None or (self.ratio is not None and self.ratio <= self.at_most))
        )


def repeated(what: str, work: Callable[[], object], repeats: int, limit: float | None = None) -> Measurement:
    """Time some work, after one run that isn't counted."""
    time_of(work)
    seconds = [time_of(work)[0] for _ in range(repeats)]
    return Measurement(what, float(np.median(seconds)), "s", limit, _quartiles(seconds))


def compared(
    what: str,
    work: Callable[[], object],
    compared_with: str,
    other: Callable[[], object],
    repeats: int,
    *,
    limit: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Measurement:
    """Time two kinds of work in turns, so that what disturbs one disturbs both, after one run of each."""
    time_of(work)
    time_of(other)
    pairs = [(time_of(work), time_of(other)) for _ in range(repeats)]
    own, others = zip(*pairs, strict=True)
    return paired(what, own, compared_with, others, limit=limit, at_least=at_least, at_most=at_most)


def paired(
    what: str,
    own: Sequence[Timing] | np.ndarray,
    compared_with: str,
    others: Sequence[Timing] | np.ndarray,
    *,
    limit: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Measurement:
    """Give the measurement of times that were taken in pairs, of its own work and of what it is held to."""
    seconds, processor = np.array(own).T
    other_seconds, other_processor = np.array(others).T
    ratios, processor_ratios = other_seconds / seconds, other_processor / processor
    if at_most is not None:
        ratios, processor_ratios = 1 / ratios, 1 / processor_ratios
    return Measurement(
        what,
        float(np.median(seconds)),
        "s",
        limit,
        _quartiles(seconds),
        compared_with,
        float(np.median(other_seconds)),
        _quartiles(other_seconds),
        float(np.median(ratios)),
        _quartiles(ratios),
        float(np.median(processor_ratios)),
        at_least,
        at_most,
    )


def time_of(work: Callable[[], object]) -> Timing:
    """Give seconds and processor seconds, those of child processes included."""
    started = now()
    work()
    ended = now()
    return ended[0] - started[0], ended[1] - started[1]


def now() -> Timing:
    """Give the clock, and the processor time that this process and its ended children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used)


def _quartiles(values: list[float] | np.ndarray) -> Spread:
    low, high = np.percentile(values, (25, 75))
    return float(low), float(high)


def run_python(*arguments: str) -> None:
    """Run Python in a process of its own, from the project's folder; it must end well."""
    subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT_ROOT, check=True, stdout=subprocess.DEVNULL, timeout=600
    )


def run_and_weigh(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[str, float]:
    """Run Python in a process of its own, which must end well.

    Returns
    -------
    output : str
        What it printed.
    peak_mib : float
        Most of its memory that was resident at once, that of its own children left out.
    """
    printed = subprocess.run(
        [sys.executable, "-c", _WAITING_PROCESS, sys.executable, *arguments],
        cwd=PROJECT_ROOT,
        env={**os.environ, **(environment or {})},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    output, peak = printed.rstrip().rsplit("\n", 1)
    return output, int(peak) / (2**20 if sys.platform == "darwin" else 2**10)


def machine() -> dict[str, str]:
    """Describe this machine: numbers of another one aren't to be held against it."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def memory_mib() -> float:
    """Give the resident memory of this process, MiB."""
    return psutil.Process().memory_info().rss / 2**20
