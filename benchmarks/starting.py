"""Times whole processes: loading the code location, and short commands."""

import tempfile
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.measurements import Measurement, compared, repeated, run_python

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
                lambda: run_python("-c", "import tem_pipeline.definitions"),
                "import dagster",
                lambda: run_python("-c", "import dagster"),
                REPEATS,
            ),
            repeated("import tem_pipeline.cli", lambda: run_python("-c", "import tem_pipeline.cli"), REPEATS),
            repeated("tem-pipeline --help", lambda: run_python(*command, "--help"), REPEATS),
            repeated(
                "tem-pipeline info, a TIFF of 2048 × 2048 px",
                lambda: run_python(*command, "info", str(image)),
                REPEATS,
            ),
        ]
