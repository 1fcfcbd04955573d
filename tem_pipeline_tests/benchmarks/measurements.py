"""What a benchmark gives, how it is measured, and the machine and versions that it was measured with."""

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
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
    _time(work)
    seconds = [_time(work)[0] for _ in range(repeats)]
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
    _time(work)
    _time(other)
    pairs = np.array([(*_time(work), *_time(other)) for _ in range(repeats)])
    own, own_processor, others, others_processor = pairs.T
    ratios, processor_ratios = others / own, others_processor / own_processor
    if at_most is not None:
        ratios, processor_ratios = 1 / ratios, 1 / processor_ratios
    return Measurement(
        what,
        float(np.median(own)),
        "s",
        limit,
        _quartiles(own),
        compared_with,
        float(np.median(others)),
        _quartiles(others),
        float(np.median(ratios)),
        _quartiles(ratios),
        float(np.median(processor_ratios)),
        at_least,
        at_most,
    )


def _time(work: Callable[[], object]) -> tuple[float, float]:
    """Give seconds and processor seconds, those of child processes included."""
    processor, started = _processor_s(), time.perf_counter()
    work()
    return time.perf_counter() - started, _processor_s() - processor


def _processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _quartiles(values: list[float] | np.ndarray) -> Spread:
    low, high = np.percentile(values, (25, 75))
    return float(low), float(high)


def run_python(*arguments: str) -> None:
    """Run Python in a process of its own, from the project's folder; it must end well."""
    subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT_ROOT, check=True, stdout=subprocess.DEVNULL, timeout=600
    )


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
