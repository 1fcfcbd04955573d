"""What a benchmark gives, and the machine and versions that it was measured with."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = ("dagster", "numpy", "openvino", "pyarrow", "tensorflow")


@dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes
    ----------
    what : str
    value : float
    unit : str
    limit : float or None
        What the value must stay under, where that was promised.
    """

    what: str
    value: float
    unit: str
    limit: float | None = None


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
