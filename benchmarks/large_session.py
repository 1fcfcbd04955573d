"""Measures the job `process_session` for a session of 200 images, compared with one of 50.

``python -m benchmarks.large_session FIRST SESSION`` processes both folders and prints the times for SESSION.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import tifffile

from benchmarks.measurements import Measurement, run_and_weigh, time_of
from benchmarks.networks import trained
from tem_pipeline.installation import installation_of
from tem_pipeline.orchestration.launch import open_instance
from tem_pipeline.orchestration.session_run import process_session
from tem_pipeline.settings import Settings, load_settings
from tem_pipeline.simulation.micrographs import simulate_micrograph

IMAGES, FEWER = 200, 50
SIDE_PX = 2048
DIFFERENT_IMAGES = 4
PIXEL_SIZE_NM = 0.1
ROOM_BYTES = 5 * 10**9
"""Each image takes 20 MiB: 4 MiB each for the recorded image, the calibrated image and the probability, and
8 MiB for the labels."""


@dataclass(frozen=True)
class _Run:
    """Times for a session: in total, of the processor, and within the assets' functions."""

    seconds: float
    processor_s: float
    functions_s: float


def two_hundred_images() -> list[Measurement]:
    """A session of 200 images of 2048 × 2048 px, uint8, by the job `process_session`, base width 16."""
    if shutil.disk_usage(tempfile.gettempdir()).free < ROOM_BYTES:
        raise OSError(f"{tempfile.gettempdir()}: 5 GB are needed; make room, or set TMPDIR")
    drawn = [
        simulate_micrograph(
            np.random.default_rng((4, number)), shape=(SIDE_PX, SIDE_PX), pixel_size_nm=PIXEL_SIZE_NM
        ).image
        for number in range(DIFFERENT_IMAGES)
    ]
    # The smaller session runs before and after, because the load of the machine may change meanwhile.
    (before, fewer_mib), (run, peak_mib), (after, _) = (
        _processed(drawn, images) for images in (FEWER, IMAGES, FEWER)
    )
    cores = Settings().threads
    seconds = run.seconds / IMAGES
    seconds_of_fewer = (before.seconds + after.seconds) / 2 / FEWER
    return [
        Measurement(
            f"one image of {IMAGES}",
            seconds,
            "s",
            compared_with=f"of {FEWER}, processed before and after",
            compared_value=seconds_of_fewer,
            ratio=seconds / seconds_of_fewer,
            processor_ratio=2 * run.processor_s / (before.processor_s + after.processor_s) * FEWER / IMAGES,
            at_most=1.05,
        ),
        Measurement(
            "peak memory of the process",
            peak_mib,
            "MiB",
            compared_with=f"with {FEWER} images",
            compared_value=fewer_mib,
            ratio=peak_mib / fewer_mib,
            at_most=1.1,
        ),
        Measurement(
            f"unused time of {cores} cores",
            100 * (1 - run.processor_s / run.seconds / cores),
            "%",
            15,
        ),
        Measurement("time outside the assets' functions", 100 * (1 - run.functions_s / run.seconds), "%", 10),
    ]


def _processed(drawn: list[np.ndarray], images: int) -> tuple[_Run, float]:
    """Process a session of `images` images in a new installation; also give the peak memory, MiB."""
    folder, _ = trained(16)
    with tempfile.TemporaryDirectory() as name:
        incoming = Path(name) / "data" / "incoming"
        # The first session loads libraries and creates files, which is not part of the measurement.
        _write(incoming / "first", drawn, 1)
        _write(incoming / "session", drawn, images)
        output, peak_mib = run_and_weigh(
            "-m",
            __name__,
            str(incoming / "first"),
            str(incoming / "session"),
            environment={
                "TEM_DATA_ROOT": f"{name}/data",
                "TEM_MODELS_ROOT": f"{name}/models",
                "TEM_PRETRAINED_MODEL": str(folder),
                "MLFLOW_TRACKING_URI": "",
                "DAGSTER_HOME": f"{name}/dagster",
            },
        )
    return _Run(**json.loads(output)), peak_mib


def _write(session: Path, drawn: list[np.ndarray], images: int) -> None:
    """Write a session that repeats a few images, each with one pixel changed so that it is no duplicate."""
    session.mkdir(parents=True)
    for number in range(images):
        image = (drawn[number % len(drawn)] >> 5).astype(np.uint8)
        image.flat[number] ^= 1
        tifffile.imwrite(
            session / f"image_{number:03}.tif",
            image,
            imagej=True,
            resolution=(1 / PIXEL_SIZE_NM, 1 / PIXEL_SIZE_NM),
            metadata={"unit": "nm"},
        )


def functions_s(events: Iterable[dg.EventLogEntry]) -> float:
    """Sum the time between the last input and the first output of each step of a run."""
    began: dict[str | None, float] = {}
    total = 0.0
    for entry in events:
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type in (dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_INPUT):
            began[event.step_key] = entry.timestamp
        elif event.event_type is dg.DagsterEventType.STEP_OUTPUT and event.step_key in began:
            total += entry.timestamp - began.pop(event.step_key)
    return total


def _process(first: Path, session: Path) -> _Run:
    installation = installation_of(load_settings())
    process_session(installation, first)
    seconds, processor_s = time_of(lambda: process_session(installation, session))
    with open_instance(installation) as instance:
        (newest,) = instance.get_run_records(limit=1)
        return _Run(seconds, processor_s, functions_s(instance.all_logs(newest.dagster_run.run_id)))


if __name__ == "__main__":
    print(json.dumps(asdict(_process(*map(Path, sys.argv[1:])))))
