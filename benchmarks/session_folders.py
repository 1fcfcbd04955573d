"""Times the ticks of the sensor for 10,000 session folders with 20 files each."""

import gc
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest.mock import patch

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measurements import Measurement, memory_mib
from tem_pipeline.installation import installation_of
from tem_pipeline.micrographs.sessions import session_fingerprint
from tem_pipeline.orchestration.resources import Platform, platform_of
from tem_pipeline.orchestration.session_life import observations
from tem_pipeline.orchestration.session_life.overview import session_overview
from tem_pipeline.orchestration.session_life.sensors import build_arrival_sensor
from tem_pipeline.settings import Settings, load_settings
from tem_pipeline.storage import Layout, mark_fingerprint

SESSIONS, FILES, TICKS = 10_000, 20, 100
TIME_LIMIT_S = 60.0


def ten_thousand_session_folders() -> list[Measurement]:
    """10,000 session folders with 20 files each."""
    gc.collect()
    gc.freeze()  # collecting the objects of other benchmarks would take seconds in one of the ticks
    with (
        tempfile.TemporaryDirectory() as name,
        dg.DagsterInstance.ephemeral() as instance,
        patch.dict(os.environ, TEM_SETTLING_S="0"),
    ):
        settings = Settings(data_root=f"{name}/data", models_root=f"{name}/models")
        platform = platform_of(installation_of(settings))
        _fill(Path(f"{name}/data/incoming"))
        unknown, asked = _first_look(instance, platform)
        _ingest(platform.layout)
        known, _ = _first_look(instance, platform, forget=True)
        memory_before, nothing_new, processor = memory_mib(), [], []
        for tick in range(TICKS):
            used = time.process_time()
            nothing_new.append(_tick(instance, platform)[0])
            processor.append(time.process_time() - used)
            if tick == TICKS // 5:
                memory_before = memory_mib()
        growth = memory_mib() - memory_before
        with patch.object(observations.observe, "__defaults__", (1e-9,)):
            due = [_tick(instance, platform)[0] for _ in range(5)]
        with patch.object(observations.observe, "__defaults__", (0.0,)):
            every = [_tick(instance, platform)[0] for _ in range(5)]
        pages = _overviews(instance, platform)
    gc.unfreeze()  # otherwise DuckDB's binding reports frozen objects as leaks at exit
    return [
        Measurement("first look: longest tick", max(unknown), "s", TIME_LIMIT_S),
        Measurement("first look: ticks until the first 100 runs are requested", asked, "ticks"),
        Measurement("first look at sessions that are ingested: longest tick", max(known), "s", TIME_LIMIT_S),
        Measurement("first look at sessions that are ingested: ticks", len(known), "ticks"),
        Measurement(f"nothing new: median of {TICKS} ticks", median(nothing_new), "s", 2.0),
        Measurement(f"nothing new: longest of {TICKS} ticks", max(nothing_new), "s", 2.0),
        Measurement(f"nothing new: processor time, median of {TICKS} ticks", median(processor), "s"),
        Measurement("nothing new, all sessions due: median of 5 ticks", median(due), "s", 2.0),
        Measurement("nothing new, all sessions due: longest of 5 ticks", max(due), "s", 2.0),
        Measurement("full scan of every file, as at night: median of 5", median(every), "s", TIME_LIMIT_S),
        Measurement(f"memory growth over the last {TICKS * 4 // 5} ticks", growth, "MiB", 10.0),
        Measurement("page of states: longest tick until it is complete", max(pages[:-1]), "s", TIME_LIMIT_S),
        Measurement("page of states, nothing new", pages[-1], "s"),
    ]


def _fill(incoming: Path) -> None:
    for number in range(SESSIONS):
        folder = incoming / f"session-{number:05d}"
        folder.mkdir(parents=True)
        for image in range(FILES):
            (folder / f"image_{image:02d}.tif").write_bytes(b"%d %d" % (number, image))


def _ingest(layout: Layout) -> None:
    """Write the table that marks a session as ingested, for each session."""
    empty = pa.table({"file": [], "status": [], "reason": [], "session_name": []})
    for number in range(SESSIONS):
        key = f"session-{number:05d}"
        path = Path(str(layout.table("raw_tem_images", key)))
        path.parent.mkdir(parents=True)
        fingerprint = session_fingerprint(Path(str(layout.incoming)) / key)
        pq.write_table(mark_fingerprint(empty, fingerprint), path)


def _tick(instance: dg.DagsterInstance, platform: Platform) -> tuple[float, list[dg.RunRequest], str]:
    started = time.perf_counter()
    sensor = build_arrival_sensor(load_settings())
    result = sensor(dg.build_sensor_context(instance=instance), platform=platform)
    seconds = time.perf_counter() - started
    if isinstance(result, dg.SensorResult):
        return seconds, list(result.run_requests or []), ""
    assert isinstance(result, dg.SkipReason)
    return seconds, [], str(result.skip_message)


def _first_look(
    instance: dg.DagsterInstance, platform: Platform, forget: bool = False
) -> tuple[list[float], int]:
    """Tick until runs are requested or every folder is known; give the ticks' times and their number."""
    if forget:
        Path(str(platform.layout.state / observations.LOG_FILE)).unlink()
    seconds = []
    while True:
        took, requests, skipped = _tick(instance, platform)
        seconds.append(took)
        log = observations.load_log(platform.layout)
        finished = [observation.finished for observation in log.sessions.values()]
        if requests or (skipped and len(finished) == SESSIONS and all(finished)):
            return seconds, len(seconds)


def _overviews(instance: dg.DagsterInstance, platform: Platform) -> list[float]:
    seconds, cursor = [], None
    while True:
        started = time.perf_counter()
        result = session_overview(
            dg.build_sensor_context(instance=instance, cursor=cursor), platform=platform
        )
        seconds.append(time.perf_counter() - started)
        if cursor:
            return seconds
        cursor = result.cursor if isinstance(result, dg.SensorResult) else None
