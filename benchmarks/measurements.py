"""Results of benchmarks, how they are timed, and the machine and versions that they were measured with."""

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

from tem_pipeline.settings import PROJECT_ROOT, Settings

PACKAGES = (
    *("dagster", "duckdb", "h5py", "mrcfile", "numpy", "openvino", "pandas", "pyarrow", "rosettasciio"),
    *("scikit-image", "scipy", "tensorflow", "tifffile"),
)

Spread = tuple[float, float]
"""Lower and upper quartile over the repeats."""

Timing = tuple[float, float]
"""Seconds and processor seconds."""

# On Linux a child's peak memory includes that of the process it was forked from, which has loaded TensorFlow
# here. Therefore a small process starts the measured one.
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
    """One measured value and its comparison.

    Attributes
    ----------
    what : str
    value : float
        The median over the repeats.
    unit : str
    limit : float or None
        Target: the value must be smaller.
    spread : (float, float) or None
    compared_with : str
        The work that was timed in turns with it; empty if there was none.
    compared_value, compared_spread
        Value and spread of that work.
    ratio : float or None
        Median over the pairs: how many times as fast the work is, or, if `at_most` is given, how many times
        as long it takes.
    ratio_spread : (float, float) or None
    processor_ratio : float or None
        The same for processor time, which depends less on other programs on the machine.
    at_least, at_most : float or None
        Targets: smallest and largest allowed ratio.
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
        """Whether all targets are reached."""
        return (
            (self.limit is None or self.value < self.limit)
            and (self.at_least is None or (self.ratio is not None and self.ratio >= self.at_least))
            and (self.at_most is None or (self.ratio is not None and self.ratio <= self.at_most))
        )


def repeated(what: str, work: Callable[[], object], repeats: int, limit: float | None = None) -> Measurement:
    """Time some work repeatedly, after one run that isn't counted."""
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
    """Time two kinds of work in turns, so that both meet the same load. The first runs aren't counted.

    Parameters
    ----------
    what, compared_with : str
        Names of the two kinds of work in the table.
    work, other : callable
        The two kinds of work, without arguments.
    repeats : int
        Number of timed pairs.
    limit, at_least, at_most : float, optional
        Targets, see `paired`.

    Returns
    -------
    Measurement
    """
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
    """Make a measurement from pairs of times: of the work itself, and of the work it is compared with."""
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
    """Give seconds and processor seconds, including child processes."""
    started = now()
    work()
    ended = now()
    return ended[0] - started[0], ended[1] - started[1]


def now() -> Timing:
    """Give the clock's time and the processor time used by this process and its finished children, in s."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used)


def _quartiles(values: list[float] | np.ndarray) -> Spread:
    low, high = np.percentile(values, (25, 75))
    return float(low), float(high)


def run_python(*arguments: str) -> None:
    """Run Python in a new process in the project's folder; an exit code other than 0 raises an error."""
    subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT_ROOT, check=True, stdout=subprocess.DEVNULL, timeout=600
    )


def run_and_weigh(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[str, float]:
    """Run Python in a new process and measure its memory; an exit code other than 0 raises an error.

    Returns
    -------
    output : str
        Its standard output.
    peak_mib : float
        Its peak resident memory, without that of its children.
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
    """Describe this machine, because numbers from different machines aren't comparable."""
    return {
        "processor": _processor(),
        "cores": str(Settings().threads),
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
