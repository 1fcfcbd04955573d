"""A real daemon with real files: slow copies, and kills at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml
from upath import UPath

from tem_pipeline.micrographs.sessions import session_fingerprint
from tem_pipeline.micrographs.simulation import simulate_session
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.storage import Layout, read_table, table_fingerprint

SETTLING_S = 3.0


class Daemon:
    """A `dagster-daemon` with a home and roots of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "dagster"
        self.layout = Layout(UPath(root / "data"), UPath(root / "models"))
        self.incoming = root / "data/incoming"
        self.incoming.mkdir(parents=True)
        self.home.mkdir()
        config = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
        # What takes minutes in a laboratory takes seconds here; all kills may hit one session.
        config["run_monitoring"] |= {"start_timeout_seconds": 20, "poll_interval_seconds": 3}
        config["run_retries"]["max_retries"] = 50
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(config))
        self.process: subprocess.Popen | None = None
        self.groups: list[int] = []

    def start(self) -> None:
        environment = {
            "DAGSTER_HOME": str(self.home),
            "TEM_DATA_ROOT": str(self.root / "data"),
            "TEM_MODELS_ROOT": str(self.root / "models"),
            "TEM_SETTLING_S": str(SETTLING_S),
            "TEM_ARRIVAL_INTERVAL_S": "1",
            "TEM_ABANDONED_AFTER_S": "10",
        }
        with (self.root / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "dagster-daemon", "run", "-w", "workspace.yaml"],
                cwd=PROJECT_ROOT,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.groups.append(self.process.pid)

    def family(self) -> list[psutil.Process]:
        """The daemon, its code server and the workers of its runs."""
        assert self.process is not None
        try:
            daemon = psutil.Process(self.process.pid)
            return [daemon, *daemon.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def end(self) -> None:
        """Kill whatever was started, orphans of earlier kills included."""
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def kill(self, victims: list[psutil.Process]) -> None:
        for victim in victims:
            try:
                victim.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        if self.process is not None and self.process.pid in [victim.pid for victim in victims]:
            self.process.wait()

    @contextmanager
    def runs(self) -> Iterator[list[dg.DagsterRun]]:
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            yield list(instance.get_runs())

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            log = (self.root / "daemon.log").read_text(errors="replace")[-6000:]
            assert time.monotonic() < end, f"it took longer than {timeout_s} s\n{log}"
            time.sleep(0.5)

    def holds(self, session: str) -> bool:
        """Whether a session's manifest is that of its folder's content."""
        recorded = table_fingerprint(self.layout.table("raw_tem_images", session))
        return recorded is not None and recorded == session_fingerprint(self.incoming / session)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    daemon.start()
    yield daemon
    daemon.end()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("simulated")
    simulate_session(out, images=4, size=128)
    return sorted((out / "session").glob("*.tif"))


def copy_slowly(file: Path, folder: Path, pause_s: float) -> None:
    content = file.read_bytes()
    third = len(content) // 3
    with (folder / file.name).open("wb", buffering=0) as copy:
        for part in (content[:third], content[third : 2 * third], content[2 * third :]):
            copy.write(part)
            time.sleep(pause_s)


def check_manifest(daemon: Daemon, session: str, files: list[Path]) -> None:
    manifest = read_table(daemon.layout.table("raw_tem_images", session))
    assert sorted(manifest["file"]) == sorted(file.name for file in files)
    assert set(manifest["status"]) == {"ok"}
    folder = daemon.layout.partition("raw_tem_images", session)
    assert all((folder / name).exists() for name in manifest["image_file"])


@pytest.mark.slow
def test_a_session_copied_in_slowly_is_taken_once_and_again_when_images_follow(daemon: Daemon, files):
    slow = daemon.incoming / "slow"
    slow.mkdir()
    (daemon.incoming / "README.md").write_text("beside the sessions")
    for file in files[:3]:
        copy_slowly(file, slow, SETTLING_S * 0.6)
        with daemon.runs() as runs:
            assert runs == []
    assert (daemon.layout.state / "arrivals.json").exists(), "the sensor has not looked"
    daemon.wait_until(lambda: daemon.holds("slow"), 60)
    check_manifest(daemon, "slow", files[:3])
    copy_slowly(files[3], slow, 0)
    daemon.wait_until(lambda: daemon.holds("slow"), 60)
    check_manifest(daemon, "slow", files)
    with daemon.runs() as runs:
        assert [run.job_name for run in runs] == ["ingest_session"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 20])
def test_whatever_is_killed_every_session_ends_with_one_right_table(daemon: Daemon, files, kills: int):
    chance = random.Random(kills)
    sessions = ["s1", "s2", "s3"]
    for number, session in enumerate(sessions):
        (daemon.incoming / session).mkdir()
        for file in files[: number + 2]:
            copy_slowly(file, daemon.incoming / session, 0)
    done = Counter()
    for number in range(kills):
        if number == kills // 2:
            copy_slowly(files[3], daemon.incoming / "s1", 0)
        time.sleep(chance.uniform(4, 14))
        family = daemon.family()
        # All of them is a power cut; the last of the family is most often the worker of a run.
        victims = [family, family[:1], family[-1:], [chance.choice(family)]][number % 4]
        daemon.kill(victims)
        done[len(victims)] += 1
        if daemon.process is not None and daemon.process.poll() is not None:
            daemon.start()
    assert done.total() == kills
    daemon.wait_until(lambda: all(daemon.holds(session) for session in sessions), 180)
    check_manifest(daemon, "s1", [*files[:2], files[3]])
    check_manifest(daemon, "s2", files[:3])
    check_manifest(daemon, "s3", files)
    tables = [
        path for path in Path(str(daemon.layout.lake)).rglob("*.parquet") if not path.name.startswith(".")
    ]
    assert len([path for path in tables if "raw_tem_images" in path.parts]) == 3
