"""A real `dagster-daemon` with a home and roots of its own, and a look at what it leaves visible."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import psutil
import pyarrow.parquet as pq
import yaml
from upath import UPath

from tem_pipeline.micrographs.sessions import session_fingerprint
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.storage import Layout, table_fingerprint


class Daemon:
    """A `dagster-daemon`, started anew after each kill."""

    def __init__(self, root: Path, concurrent_runs: int = 2, **settings: str) -> None:
        self.root = root
        self.home = root / "dagster"
        self.layout = Layout(UPath(root / "data"), UPath(root / "models"))
        self.incoming = root / "data/incoming"
        self.incoming.mkdir(parents=True)
        self.home.mkdir()
        config = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
        # What takes minutes in a laboratory takes seconds here, a minute where a slow machine starts a run;
        # all kills may hit one session.
        config["run_monitoring"] |= {"start_timeout_seconds": 60, "poll_interval_seconds": 3}
        config["concurrency"]["runs"]["max_concurrent_runs"] = concurrent_runs
        config["run_retries"]["max_retries"] = 50
        config["run_queue"] |= {"dequeue_interval_seconds": 1, "user_code_failure_retry_delay": 3}
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(config))
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",
            "TEM_DATA_ROOT": str(root / "data"),
            "TEM_MODELS_ROOT": str(root / "models"),
            "TEM_ARRIVAL_INTERVAL_S": "1",
            "TEM_ABANDONED_AFTER_S": "15",
            "TEM_THREADS": "1",
            **settings,
        }
        # Two processes that open a new home for the first time at once both stamp its databases.
        with dg.DagsterInstance.from_config(str(self.home)):
            pass
        self.process: subprocess.Popen | None = None
        self.groups: list[int] = []

    def start(self) -> None:
        with (self.root / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "dagster-daemon", "run", "-w", "workspace.yaml"],
                cwd=PROJECT_ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.groups.append(self.process.pid)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def family(self) -> list[psutil.Process]:
        """The daemon, its code server and the workers of its runs."""
        assert self.process is not None
        try:
            daemon = psutil.Process(self.process.pid)
            return [daemon, *daemon.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """The processes in which runs are under way."""
        found = []
        for process in self.family():
            with suppress(psutil.Error):
                if "spawn_main" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self, victims: list[psutil.Process]) -> None:
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
        if self.process is not None and self.process.pid in [victim.pid for victim in victims]:
            self.process.wait()

    def end(self) -> None:
        """Kill whatever was started, orphans of earlier kills included."""
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def runs(self) -> list[dg.RunRecord]:
        """All runs, the oldest first."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return list(instance.get_run_records(ascending=True))

    def under_way(self) -> bool:
        """Whether a run is processing: its worker is there, and has begun with it."""
        states = [record.dagster_run.status for record in self.runs()]
        return dg.DagsterRunStatus.STARTED in states and bool(self.workers())

    def wait_for_a_run(self, timeout_s: float) -> None:
        """Wait until a run is under way; TimeoutError when there is none."""
        end = time.monotonic() + timeout_s
        while not self.under_way():
            if time.monotonic() > end or not self.alive:
                raise TimeoutError
            time.sleep(0.1)

    def wait_until(self, condition: Callable[[], object], timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            log = (self.root / "daemon.log").read_text(errors="replace")[-6000:]
            assert time.monotonic() < end, f"it took longer than {timeout_s} s\n{log}"
            time.sleep(0.3)

    def holds(self, session: str, asset: str) -> bool:
        """Whether a session's table was made from its folder's content."""
        recorded = table_fingerprint(self.layout.table(asset, session))
        return recorded is not None and recorded == session_fingerprint(self.incoming / session)


@contextmanager
def watched(lake: Path) -> Iterator[set[Path]]:
    """Read every file that becomes visible: a table must be whole Parquet, a picture have its name's hash.

    Yields
    ------
    set of Path
        The files that were read. A file that isn't whole fails the test when the block ends.
    """
    seen: set[tuple[Path, int, int]] = set()
    read: set[Path] = set()
    broken: list[str] = []
    done = threading.Event()

    def look() -> None:
        for path in lake.rglob("*"):
            try:
                status = path.stat()
                mark = (path, status.st_ino, status.st_mtime_ns)
                if path.name.startswith(".") or path.is_dir() or mark in seen:
                    continue
                if path.suffix == ".parquet":
                    pq.ParquetFile(path).read()
                elif not path.stem.endswith(hashlib.sha256(path.read_bytes()).hexdigest()[:16]):
                    broken.append(f"{path}: its content isn't what its name says")
                seen.add(mark)
                read.add(path)
            except FileNotFoundError:
                continue
            except Exception as error:
                broken.append(f"{path}: {error}")

    def keep_looking() -> None:
        while not done.wait(0.2):
            look()

    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    try:
        yield read
    finally:
        done.set()
        thread.join()
    look()
    assert broken == []
