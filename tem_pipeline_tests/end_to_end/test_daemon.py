"""A real daemon with real files: slow copies, kills at random moments, four processes at once."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from tem_pipeline.installation import installation_of
from tem_pipeline.orchestration.resources import Platform, platform_of
from tem_pipeline.orchestration.session_life.session_tables import SESSION_TABLES
from tem_pipeline.particles.query import run_query
from tem_pipeline.settings import PROJECT_ROOT, Settings
from tem_pipeline.simulation.sessions import simulate_session
from tem_pipeline.storage import Layout, read_table
from tem_pipeline.tracking.champion import CHAMPION
from tem_pipeline.tracking.store import REGISTERED_MODEL, open_store, store_of
from tem_pipeline_tests.end_to_end.daemon import Daemon, watched
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion, process

FAILURE = dg.DagsterRunStatus.FAILURE


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    daemons = []

    def daemon(**settings) -> Daemon:
        daemons.append(Daemon(tmp_path / "laboratory", **settings))
        return daemons[-1]

    yield daemon
    for started in daemons:
        started.end()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("simulated")
    simulate_session(out, images=8, size=128)
    return sorted((out / "session").glob("*.tif"))


def tables(layout: Layout, session: str) -> dict[str, pd.DataFrame]:
    """A session's tables without the path of its folder."""
    found = {asset: read_table(layout.table(asset, session)) for asset in SESSION_TABLES}
    found["raw_tem_images"] = found["raw_tem_images"].drop(columns="session_folder")
    return found


def check_tables(layout: Layout, undisturbed: Layout, sessions: list[str]) -> None:
    """Compare every session's tables with those of undisturbed runs, and count all particles."""
    particles = 0
    for session in sessions:
        expected = tables(undisturbed, session)
        particles += len(expected["particle_table"])
        for asset, table in tables(layout, session).items():
            pd.testing.assert_frame_equal(table, expected[asset], obj=f"{asset} of {session}")
        for asset in SESSION_TABLES:
            folder = layout.partition(asset, session)
            assert [file.name for file in folder.glob("*.parquet")] == ["part-0.parquet"]
    count = "SELECT count(*) AS n, count(DISTINCT particle_id) AS n_distinct FROM particle_table"
    assert run_query(layout.lake, count).to_pylist() == [{"n": particles, "n_distinct": particles}]
    assert particles > 0


def platform_below(root: Path) -> Platform:
    settings = Settings(data_root=str(root / "data"), models_root=str(root / "models"))
    return platform_of(installation_of(settings))


def process_undisturbed(root: Path, content: dict[str, list[Path]]) -> Layout:
    platform = platform_below(root)
    lay_champion(platform)
    incoming = root / "data/incoming"
    incoming.mkdir(parents=True)
    for session, files in content.items():
        deliver(files, incoming / session)
        assert process(platform, session) is None
    return platform.layout


def copy_slowly(file: Path, folder: Path, pause_s: float) -> None:
    content = file.read_bytes()
    third = len(content) // 3
    with (folder / file.name).open("wb", buffering=0) as copy:
        for part in (content[:third], content[third : 2 * third], content[2 * third :]):
            copy.write(part)
            time.sleep(pause_s)


def test_a_slow_copy_is_ingested_once_and_again_when_images_follow(daemon, files):
    # Eight times the pauses of the copy, so that a machine that is slow for a while settles nothing.
    settling_s = 4
    laboratory = daemon(TEM_SETTLING_S=str(settling_s))
    laboratory.start()
    slow, log = laboratory.incoming / "slow", Path(str(laboratory.layout.state / "arrivals.json"))
    slow.mkdir()
    (laboratory.incoming / "README.md").write_text("beside the sessions")
    laboratory.wait_until(log.exists, 120)
    for file in files[:3]:
        copy_slowly(file, slow, 0.5)
    copied_at = time.time()
    assert '"slow"' in log.read_text(), "the sensor has not looked during the copy"
    laboratory.wait_until(lambda: laboratory.holds("slow", "raw_tem_images"), 120)
    copy_slowly(files[3], slow, 0.1)
    laboratory.wait_until(lambda: laboratory.holds("slow", "raw_tem_images"), 120)
    manifest = read_table(laboratory.layout.table("raw_tem_images", "slow"))
    assert sorted(manifest["file"]) == [file.name for file in files[:4]]
    assert set(manifest["status"]) == {"ok"}
    runs = laboratory.runs()
    assert [record.dagster_run.job_name for record in runs] == ["ingest_session"] * 2
    # The sensor's first look at the finished copy, and its look after the settling time.
    assert runs[0].create_timestamp.timestamp() > copied_at + settling_s - 0.5


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_whatever_is_killed_every_session_ends_with_one_right_table(
    daemon, files, tmp_path: Path, kills: int
):
    # One run at a time in the short form: after a run is killed while it starts, the next waits a minute.
    settings = {"TEM_SETTLING_S": "2", "TEM_PROCESS_ON_ARRIVAL": "true"}
    laboratory = daemon(concurrent_runs=1 if kills == 3 else 2, **settings)
    lay_champion(platform_below(laboratory.root))
    if kills > 3:
        register_champion(laboratory.layout)
    chance = random.Random(kills)
    sessions = [f"s{number}" for number in range(2 if kills == 3 else 4)]
    content = {session: files[: number + 2] for number, session in enumerate(sessions)}
    for session in sessions:
        deliver(content[session], laboratory.incoming / session)
    hits = Counter()
    with watched(Path(str(laboratory.layout.lake))) as seen:
        laboratory.start()
        for number in range(kills):
            kind = ("workers", "everything", "daemon", "any one")[number % 4]
            session = chance.choice(sessions)
            if number % 2 and len(content[session]) < len(files):
                added = files[len(content[session])]
                content[session] = [*content[session], added]
                deliver([added], laboratory.incoming / session)
            # Half of the kills hit a run under way, if there is one soon.
            if kind in ("workers", "everything"):
                with suppress(TimeoutError):
                    laboratory.wait_for_a_run(60)
                time.sleep(chance.uniform(0, 2.5))
            else:
                time.sleep(chance.uniform(0, 12))
            family, workers = laboratory.family(), laboratory.workers()
            victims = {
                "workers": workers or family[-1:],
                "everything": family,  # a power cut
                "daemon": family[:1],
                "any one": [chance.choice(family)],
            }[kind]
            under_way = laboratory.under_way()
            laboratory.kill(victims)
            hits[f"{kind}, {'a run under way' if under_way else 'no run'}"] += 1
            if not laboratory.alive:
                laboratory.start()

        def all_hold() -> bool:
            return all(laboratory.holds(name, asset) for name in sessions for asset in SESSION_TABLES)

        laboratory.wait_until(all_hold, 600)
        laboratory.wait_until(lambda: not laboratory.workers(), 120)
    undisturbed = process_undisturbed(tmp_path / "undisturbed", content)
    check_tables(laboratory.layout, undisturbed, sessions)
    assert {f"session={session}" for session in sessions} <= {path.parent.name for path in seen}
    runs = laboratory.runs()
    assert {record.dagster_run.job_name for record in runs} == {"process_session"}
    cut_short = sum(record.dagster_run.status == FAILURE and record.start_time is not None for record in runs)
    print(f"{kills} kills, {cut_short} runs cut short while they processed, {len(runs)} runs: {dict(hits)}")
    assert cut_short >= kills // 6 + 1


def register_champion(layout: Layout) -> None:
    """Let the registry's alias name the champion on disk, so that every run asks the registry."""
    with open_store(store_of(Settings(), layout)) as client:
        client.create_registered_model(REGISTERED_MODEL)
        version = client.create_model_version(REGISTERED_MODEL, source="file:///nowhere").version
        client.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, version)


def test_sensors_the_night_and_a_person_at_once_make_one_right_table(daemon, files, tmp_path: Path):
    laboratory = daemon(TEM_SETTLING_S="0", TEM_PROCESS_ON_ARRIVAL="true")  # not started
    lay_champion(platform_below(laboratory.root))
    deliver(files[:3], laboratory.incoming / "a")
    with watched(Path(str(laboratory.layout.lake))):
        done = subprocess.run(
            [sys.executable, "-m", "tem_pipeline_tests.end_to_end.at_once", laboratory.incoming / "a"],
            cwd=PROJECT_ROOT,
            env=laboratory.environment | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-6000:]
    runs = [record.dagster_run for record in laboratory.runs()]
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 4
    check_tables(laboratory.layout, process_undisturbed(tmp_path / "undisturbed", {"a": files[:3]}), ["a"])
