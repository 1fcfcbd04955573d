"""Measures memory and time for one micrograph of 16,384 × 16,384 px, compared with one of 2048 × 2048 px.

``python -m benchmarks.large_image MODEL OUT SMALL LARGE`` segments both images in its own process, the small
one several times, and prints the seconds.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.measurements import Measurement, run_and_weigh, time_of
from benchmarks.networks import trained
from tem_pipeline.segmentation.models import load_model
from tem_pipeline.settings import PROJECT_ROOT, load_settings
from tem_pipeline.simulation.micrographs import simulate_micrograph
from tem_pipeline.single_images import segment_files

SIDE_PX, TIMES = 2048, 8
REPEATS = 5
PIXEL_SIZE_NM = 0.1


def large_image() -> list[Measurement]:
    """One image of 16,384 × 16,384 px, uint16, as `tem-pipeline segment` does it."""
    models = {
        "base width 16, two classes": trained(16)[0],
        "pretrained model": PROJECT_ROOT / "models" / "pretrained",
    }
    side = TIMES * SIDE_PX
    rows = []
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name) / "small.tif", Path(name) / "large.tif"
        drawn = simulate_micrograph(
            np.random.default_rng(0), shape=(SIDE_PX, SIDE_PX), pixel_size_nm=PIXEL_SIZE_NM
        )
        tifffile.imwrite(small, drawn.image)
        tifffile.imwrite(large, np.tile(drawn.image, (TIMES, TIMES)))
        for model, folder in models.items():
            files = (f"{name}/out", str(small), str(large))
            output, peak_mib = run_and_weigh("-m", __name__, str(folder), *files)
            small_s, large_s = json.loads(output)
            rows += [
                Measurement(f"{model}: peak memory of the process", peak_mib, "MiB", 4096),
                Measurement(
                    f"{model}: {side} × {side} px, time per {SIDE_PX} × {SIDE_PX} px",
                    large_s / TIMES**2,
                    "s",
                    compared_with=f"{SIDE_PX} × {SIDE_PX} px, median of {REPEATS}",
                    compared_value=small_s,
                    ratio=large_s / TIMES**2 / small_s,
                    at_most=1.1,
                ),
                Measurement(f"{model}: the whole image", large_s, "s"),
            ]
    return rows


def _segment_both(model: Path, out: Path, small: Path, large: Path) -> tuple[float, float]:
    """Give the seconds for the small and the large image, without the time to load libraries and model."""
    settings = load_settings()
    loaded = load_model(model, settings.threads, settings.precision)

    def segment(file: Path) -> None:
        failures = segment_files([file], out, loaded, settings, PIXEL_SIZE_NM)
        assert not failures, failures

    segment(small)
    small_s = float(np.median([time_of(lambda: segment(small))[0] for _ in range(REPEATS)]))
    return small_s, time_of(lambda: segment(large))[0]


if __name__ == "__main__":
    print(json.dumps(_segment_both(*map(Path, sys.argv[1:]))))
