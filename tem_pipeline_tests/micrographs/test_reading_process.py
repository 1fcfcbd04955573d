import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from tem_pipeline.micrographs import reading_process
from tem_pipeline.micrographs.ingestion import ingest_files
from tem_pipeline.micrographs.reading import MicrographError
from tem_pipeline.micrographs.reading_process import ReadingLimits, begun_reading, read_micrographs
from tem_pipeline.micrographs.sessions import SessionDescription, session_files

pytestmark = pytest.mark.skipif(os.name == "nt", reason="on Windows files are read in the same process")

# In the worker, a .png file says what its reader does. PyDLL keeps the GIL, as a library that hangs may do.
UNRULY_READER = """
import ctypes, os, resource, signal, sys

def read(path):
    action, *words = path.read_text().split()
    if action == "hang":
        ctypes.PyDLL(None).sleep(600)
    if action == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if action == "spoil":
        sys.spoiled = True
    if action == "crash_if_spoilt" and hasattr(sys, "spoiled"):
        os.abort()
    if action == "grow":
        if words:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        grown = []
        while True:
            grown.append(bytearray(10**7))
    if action == "open":
        open(words[0], "rb").close()
    raise ValueError("as it should be")

if "tem_pipeline.micrographs.reading_worker" in sys.orig_argv:
    from tem_pipeline.micrographs import reading

    reading._READERS[".png"] = read
"""
LIMITS = ReadingLimits(1.5, 400 * 10**6)


@pytest.fixture
def unruly(tmp_path, monkeypatch):
    """A folder of files that say what their reader does."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(UNRULY_READER)
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setattr(reading_process, "_limits_of_settings", lambda: LIMITS)
    reading_process.end_workers()
    folder = tmp_path / "session"
    folder.mkdir()
    yield folder
    reading_process.end_workers()


def refusal(path: Path) -> str:
    with pytest.raises(MicrographError) as caught:
        read_micrographs(path)
    return str(caught.value)


def workers(process: psutil.Process | None = None) -> list[psutil.Process]:
    children = (process or psutil.Process()).children()
    return [child for child in children if any("reading_worker" in part for part in child.cmdline())]


def until(condition, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_images_from_another_process_are_the_same_and_can_be_changed(tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", image, imagej=True, resolution=(10, 10), metadata={"unit": "nm"})
    frames = np.arange(3 * 40 * 30, dtype=">f4").reshape(3, 40, 30)
    tifffile.imwrite(tmp_path / "stack.tif", frames, photometric="minisblack")
    (found,) = read_micrographs(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.image, image)
    assert found.pixel_size_nm == pytest.approx((0.1, 0.1))
    found.image[0, 0] = 7
    np.testing.assert_array_equal([found.image for found in read_micrographs(tmp_path / "stack.tif")], frames)


def test_one_worker_reads_file_after_file(tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", image)
    (tmp_path / "b.tif").write_bytes(b"no tiff")
    reading_process.end_workers()
    read_micrographs(tmp_path / "a.tif")
    (worker,) = workers()
    assert "b.tif: it is damaged" in refusal(tmp_path / "b.tif")
    read_micrographs(tmp_path / "a.tif")
    assert workers() == [worker]


def test_a_session_goes_on_after_files_that_hang_or_crash_their_reader(unruly, image):
    for number, action in enumerate(("hang", "crash", "grow", "grow without the limit of the system")):
        (unruly / f"{number}.png").write_text(action)
        tifffile.imwrite(unruly / f"{number}.tif", image + number)
    files = session_files(unruly)
    rows = [found.row for found in ingest_files(unruly, files, SessionDescription(), "session")]
    assert [row["file"] for row in rows if row["status"] == "ok"] == ["0.tif", "1.tif", "2.tif", "3.tif"]
    reasons = [row["reason"] for row in rows if row["status"] == "refused"]
    for reason, words in zip(
        reasons, ("longer than 2 s", "crashed.*SIGSEGV", "into memory", "than 0.4 GB of memory"), strict=True
    ):
        assert re.search(words, reason)
    assert all(row["file_sha256"] for row in rows)


def test_a_file_is_not_blamed_for_what_another_did_to_the_worker(unruly):
    (unruly / "a.png").write_text("spoil")
    (unruly / "b.png").write_text("crash_if_spoilt")
    assert "as it should be" in refusal(unruly / "a.png")
    assert "as it should be" in refusal(unruly / "b.png")


def test_only_the_file_itself_is_opened_whatever_its_reader_asks_for(unruly, tmp_path):
    (tmp_path / "secret.tif").write_bytes(b"secret")
    (unruly / "beside.tif").write_bytes(b"beside")
    (unruly / "link.png").symlink_to(tmp_path / "secret.tif")
    for other in ("../secret.tif", "beside.tif", "link.png", "../secret.tif/../secret.tif"):
        (unruly / "a.png").write_text(f"open {unruly}/{other}")
        assert "names another file" in refusal(unruly / "a.png")
    (unruly / "a.png").write_text(f"open {unruly}/../session/a.png")
    assert "as it should be" in refusal(unruly / "a.png")


def test_a_worker_that_died_while_idle_is_replaced(tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", image)
    read_micrographs(tmp_path / "a.tif")
    for worker in workers():
        worker.kill()
        worker.wait()
    assert len(read_micrographs(tmp_path / "a.tif")) == 1


@pytest.mark.parametrize("action", ["hang", "idle"])
def test_no_worker_outlives_a_program_that_is_killed(unruly, action):
    (unruly / "a.png").write_text(action)
    code = (
        "import time\n"
        "from tem_pipeline.micrographs.reading_process import ReadingLimits, read_micrographs\n"
        "try:\n"
        f"    read_micrographs({str(unruly / 'a.png')!r}, limits=ReadingLimits(100, 10**9))\n"
        "except Exception: time.sleep(100)"
    )
    path = os.pathsep.join([str(unruly.parent / "path"), *sys.path])
    program = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    try:
        assert until(lambda: workers(psutil.Process(program.pid)))
        (worker,) = workers(psutil.Process(program.pid))
        # Long enough to have started, and to hang or to wait.
        assert until(lambda: "sleep" in worker.status() and time.time() - worker.create_time() > 2)
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    assert until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 5)


def test_files_are_read_in_threads_with_a_worker_each(tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", image)
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(len(read_micrographs(tmp_path / "a.tif"))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1, 1, 1]
    assert len(workers()) <= 2


def test_a_forked_process_starts_its_own_worker(tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", image)
    read_micrographs(tmp_path / "a.tif")
    before = workers()
    child = os.fork()
    if child == 0:
        found = 0
        try:
            found = len(read_micrographs(tmp_path / "a.tif"))
            reading_process.end_workers()
        finally:
            os._exit(0 if found == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(read_micrographs(tmp_path / "a.tif")) == 1
    assert workers() == before


def test_reading_that_nobody_waits_for_leaves_no_worker_behind(tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", image)
    reading_process.end_workers()
    with pytest.raises(KeyboardInterrupt), begun_reading(tmp_path / "a.tif"):
        raise KeyboardInterrupt
    assert workers() == []


def test_no_code_of_the_platform_reads_files_in_its_own_process():
    names = r"micrographs\.reading import (\([^)]*\)|[^\n]*)"
    package = Path(reading_process.__file__).parents[1]
    modules = [
        module.name
        for module in package.rglob("*.py")
        if "read_micrographs" in " ".join(re.findall(names, module.read_text("utf-8")))
    ]
    assert modules == ["reading_worker.py"]
