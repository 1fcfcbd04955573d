"""Whole processes: what it takes until the code location is loaded, and until a command answers."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline_tests.benchmarks.measurements import Measurement, compared, repeated

REPEATS = 7


def starting_programs() -> list[Measurement]:
    """Starting programs, whole processes, files in the system's cache."""
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "image.tif"
        pixels = np.random.default_rng(0).normal(1000, 100, (2048, 2048)).astype(np.uint16)
        tifffile.imwrite(image, pixels, imagej=True, resolution=(10, 10), metadata={"unit": "nm"})
        command = ["-m", "tem_pipeline.cli"]
        return [
            compared(
                "loading the code location",
                lambda: _run("-c", "import tem_pipeline.definitions"),
                "import dagster",
                lambda: _run("-c", "import dagster"),
                REPEATS,
                at_most=2.5,
            ),
            repeated("import tem_pipeline.cli", lambda: _run("-c", "import tem_pipeline.cli"), REPEATS),
            repeated("tem-pipeline --help", lambda: _run(*command, "--help"), REPEATS),
            repeated(
                "tem-pipeline info, a TIFF of 2048 × 2048 px",
                lambda: _run(*command, "info", str(image)),
                REPEATS,
            ),
        ]


def _run(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT_ROOT, check=True, stdout=subprocess.DEVNULL, timeout=600
    )
