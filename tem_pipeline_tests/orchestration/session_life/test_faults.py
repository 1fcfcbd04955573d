"""Faults of disk and stores: a run fails in one line, the old table stays, and the next try works."""

import os
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pytest
import tifffile

from tem_pipeline.errors import UserError
from tem_pipeline.installation import installation_of
from tem_pipeline.orchestration.resources import Platform, platform_of
from tem_pipeline.particles.query import run_query
from tem_pipeline.storage import Layout, read_table, session_lock
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion, process, without_capabilities


class Former:
    """The tables of a session as they were before a fault."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.particles = read_table(layout.table("particle_table", "a"))
        assert len(self.particles)

    def is_intact(self) -> None:
        """Everything that was read before can still be read, pictures included."""
        pd.testing.assert_frame_equal(read_table(self.layout.table("particle_table", "a")), self.particles)
        count = run_query(self.layout.lake, "SELECT count(*) FROM particle_table").to_pylist()
        assert list(count[0].values()) == [len(self.particles)]
        for asset, column in (("raw_tem_images", "image_file"), ("predicted_masks", "labels_file")):
            for name in read_table(self.layout.table(asset, "a"))[column].dropna():
                tifffile.imread(str(self.layout.partition(asset, "a") / name))

    def is_replaced(self, files: list[Path]) -> None:
        particles = read_table(self.layout.table("particle_table", "a"))
        assert set(particles["file"]) == {file.name for file in files}
        assert particles["particle_id"].is_unique
        assert len(particles) > len(self.particles)


@pytest.fixture
def former(platform: Platform, incoming: Path, files: list[Path]) -> Former:
    """A processed session to which an image has been added since."""
    lay_champion(platform)
    deliver(files[:2], incoming / "a")
    assert process(platform) is None
    former = Former(platform.layout)
    deliver(files[2:], incoming / "a")
    return former


# --- disk full ----------------------------------------------------------------------------------------------


def mount(*arguments: str) -> None:
    """Mount something, or skip where that is not permitted: each fault has a second way to come about."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A lake of 4 MiB."""
    lake = tmp_path / "data/lake"
    lake.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(lake))
    yield lake
    subprocess.run(["umount", str(lake)], check=True)


def test_a_full_disk_fails_the_run_and_room_mends_it(small_disk: Path, platform: Platform, former, files):
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    reason = process(platform)
    assert reason is not None
    assert "No space left" in reason
    assert "make room" in reason
    former.is_intact()
    (small_disk / "ballast").unlink()
    assert process(platform) is None
    former.is_replaced(files)


def test_a_file_that_may_not_grow_fails_the_run_and_keeps_the_tables(platform: Platform, former, files):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        reason = process(platform)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert reason is not None
    assert "File too large" in reason
    former.is_intact()
    assert process(platform) is None
    former.is_replaced(files)


# --- data root read-only ------------------------------------------------------------------------------------


@contextmanager
def read_only_mount(folder: Path) -> Iterator[None]:
    mount("--bind", str(folder), str(folder))
    try:
        mount("-o", "remount,ro,bind", str(folder))
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def without_right_to_write(folder: Path) -> Iterator[None]:
    """Remove write permission, and root's power to write without it."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        with without_capabilities():
            yield
    finally:
        for path in folders:
            path.chmod(0o755)


@pytest.mark.parametrize("prevent", [read_only_mount, without_right_to_write])
def test_a_data_root_that_cannot_be_written_fails_the_run_until_it_can(
    prevent, platform: Platform, former, files
):
    root = Path(str(platform.layout.data_root))
    with prevent(root):
        with pytest.raises(OSError, match=r"Read-only|denied"):
            (root / "probe").touch()
        reason = process(platform)
        assert reason is not None
        assert "give write permission" in reason
        former.is_intact()
    assert process(platform) is None
    former.is_replaced(files)


def test_a_lock_that_cannot_be_made_is_one_line(platform: Platform, tmp_path: Path):
    root = Path(str(platform.layout.data_root))
    root.mkdir()
    with (
        without_right_to_write(root),
        pytest.raises(UserError, match="give write permission"),
        session_lock(platform.layout, "a"),
    ):
        pass


# --- models -------------------------------------------------------------------------------------------------


@contextmanager
def refusing_server(models: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def silent_server(models: Path) -> Iterator[str]:
    """It takes a connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def broken_database(models: Path) -> Iterator[None]:
    database = models / "mlflow/mlflow.db"
    database.parent.mkdir()
    database.write_bytes(b"no database" * 1000)
    yield
    database.unlink()


@pytest.mark.parametrize("store", [refusing_server, silent_server, broken_database])
def test_an_mlflow_store_that_does_not_answer_fails_the_run_within_seconds(
    store: Callable, platform: Platform, former, files
):
    with store(Path(str(platform.layout.models_root))) as uri:
        started = time.monotonic()
        reason = process(
            platform_of(installation_of(platform.settings.model_copy(update={"mlflow_tracking_uri": uri})))
        )
        # MLflow alone would try for one to several minutes.
        assert time.monotonic() - started < 45
        assert reason is not None
        assert "MLflow store" in reason
        assert "no answer" in reason
        former.is_intact()
    assert process(platform) is None
    former.is_replaced(files)


def test_without_a_champion_the_run_fails_until_there_is_one(platform: Platform, former, files):
    champion = Path(str(platform.layout.champion))
    champion.rename(champion.with_name("away"))
    reason = process(platform)
    assert reason is not None
    assert "champion" in reason
    former.is_intact()
    champion.with_name("away").rename(champion)
    assert process(platform) is None
    former.is_replaced(files)


# --- replacing a table --------------------------------------------------------------------------------------


def test_while_a_table_is_replaced_readers_see_the_old_one_or_the_new_one(platform: Platform, former, files):
    lake, seen, faults, done = platform.layout.lake, [], [], threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                rows = run_query(lake, "SELECT particle_id FROM particle_table").to_pylist()
                seen.append(tuple(sorted(row["particle_id"] for row in rows)))
                for asset, column in (("raw_tem_images", "image_file"), ("predicted_masks", "labels_file")):
                    for name in read_table(platform.layout.table(asset, "a"))[column].dropna():
                        tifffile.imread(str(platform.layout.partition(asset, "a") / name))
            except Exception as error:
                faults.append(error)

    # Files as old as this are collected as soon as nobody may be reading them any more.
    for file in Path(str(lake)).rglob("*.tif"):
        os.utime(file, (0, 0))
    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert process(platform) is None
    finally:
        done.set()
        reader.join()
    former.is_replaced(files)
    assert faults == []
    old = tuple(sorted(former.particles["particle_id"]))
    new = tuple(sorted(read_table(platform.layout.table("particle_table", "a"))["particle_id"]))
    assert set(old) < set(new)
    assert seen[0] == old
    assert set(seen) <= {old, new}


def test_files_of_the_former_table_stay_until_another_has_followed(platform: Platform, former, incoming):
    folder = platform.layout.partition("raw_tem_images", "a")
    dropped = read_table(platform.layout.table("raw_tem_images", "a"))["image_file"].iloc[0]
    for file in Path(str(folder)).glob("*.tif"):
        os.utime(file, (0, 0))
    next(file for file in sorted((incoming / "a").iterdir())).unlink()
    assert process(platform) is None
    assert (folder / dropped).exists()
    assert process(platform) is None
    assert not (folder / dropped).exists()
