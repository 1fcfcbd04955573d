"""Reads files in processes of their own, because a hostile or damaged file can make a library hang or crash.

A worker (`reading_worker`) that takes too long or too much memory is killed, and the file is refused. Workers
are kept for the next file, because starting one takes about a second.
"""

import atexit
import contextlib
import json
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs import reading
from tem_pipeline.micrographs.judging import Micrograph
from tem_pipeline.micrographs.reading import MicrographError
from tem_pipeline.micrographs.reading_worker import ANSWER, REQUEST_LENGTH
from tem_pipeline.settings import load_settings

_START_SECONDS = 120
_WATCH_SECONDS = 0.1
"""How often time and memory of a worker are looked at."""

_MOST_IDLE = 2
_PROJECT = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class ReadingLimits:
    """What reading a file may take.

    Attributes
    ----------
    seconds : float
        For any file; a file gets 1 s more for every `BYTES_PER_SECOND`.
    memory_bytes : int
        For any file; a file gets `MEMORY_PER_BYTE` times its size more.
    """

    seconds: float
    memory_bytes: int

    BYTES_PER_SECOND = 10**7
    MEMORY_PER_BYTE = 10

    def of_file(self, path: Path) -> "ReadingLimits":
        """Give the limits for a file by its size."""
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            return ReadingLimits(
                self.seconds + size / self.BYTES_PER_SECOND, self.memory_bytes + self.MEMORY_PER_BYTE * size
            )
        return self


@cache
def _limits_of_settings() -> ReadingLimits:
    settings = load_settings()
    return ReadingLimits(settings.read_seconds, settings.read_memory_mb * 10**6)


def read_micrographs(
    path: str | Path,
    *,
    measurable_only: bool = True,
    as_stored: bool = False,
    limits: ReadingLimits | None = None,
) -> list[Micrograph]:
    """Read every image in real space that a file holds, in another process.

    Parameters
    ----------
    path, measurable_only, as_stored
        As for `reading.read_micrographs`.
    limits : ReadingLimits, optional
        By default those of the settings.

    Returns
    -------
    list of Micrograph
        As `reading.read_micrographs` gives them. Their pixels can be changed.

    Raises
    ------
    MicrographError
        Whatever the file does to the process that reads it.
    UserError
        If no such process can be started.
    """
    options = {"measurable_only": measurable_only, "as_stored": as_stored}
    with begun_reading(path, **options, limits=limits) as micrographs:
        return micrographs()


@contextlib.contextmanager
def begun_reading(
    path: str | Path,
    *,
    measurable_only: bool = True,
    as_stored: bool = False,
    limits: ReadingLimits | None = None,
) -> Iterator[Callable[[], list[Micrograph]]]:
    """Begin to read a file, so that other work can be done meanwhile.

    Parameters
    ----------
    path, measurable_only, as_stored, limits
        As for `read_micrographs`.

    Yields
    ------
    callable
        It waits, and gives or raises what `read_micrographs` does.
    """
    path = Path(path)
    options = {"measurable_only": measurable_only, "as_stored": as_stored}
    if os.name == "nt":  # Files can't be passed between processes there as they are here.
        yield lambda: reading.read_micrographs(path, **options)
        return
    begun = _Reading(path, options, (limits or _limits_of_settings()).of_file(path))
    try:
        yield begun.micrographs
    finally:
        begun.end()


class _Reading:
    """A file that is being read."""

    def __init__(self, path: Path, options: dict[str, bool], limits: ReadingLimits) -> None:
        self._path, self._limits = path, limits
        request = {
            "path": os.path.abspath(path),
            "options": options,
            "seconds": limits.seconds,
            "memory_bytes": limits.memory_bytes,
        }
        self._request = json.dumps(request).encode()
        self._worker: _Worker | None = _asked(self._request)

    def micrographs(self) -> list[Micrograph]:
        try:
            kind, content = self._answer()
        except _WorkerLostError as lost:
            raise MicrographError(self._path, str(lost)) from lost
        if kind == "refused":
            raise MicrographError(self._path, content)
        return content

    def _answer(self) -> tuple[str, Any]:
        assert self._worker is not None
        try:
            answer = self._worker.answer(self._limits)
        except _WorkerLostError:
            if not self._worker.files_read:
                raise
            # A file before this one may have left the worker in disorder.
            self.end()
            self._worker = _Worker()
            self._worker.ask(self._request)
            answer = self._worker.answer(self._limits)
        _keep(self._worker)
        self._worker = None
        return answer

    def end(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class _WorkerLostError(Exception):
    """A worker has crashed or was killed; the message says why, for the one who reads about the file."""


class _Worker:
    """A process that reads files, and what belongs to it."""

    def __init__(self) -> None:
        own, its = socket.socketpair()
        paths = [_PROJECT, *(path for path in sys.path if path)]
        # More threads of these libraries would only take memory: nothing is computed there.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with its:
            self._process = subprocess.Popen(
                # -P keeps modules out that lie in the working directory, perhaps a session's folder.
                [sys.executable, "-P", "-m", "tem_pipeline.micrographs.reading_worker", str(its.fileno())],
                env=os.environ | single | {"PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                # Ctrl-C ends this program, and with it the worker: it needs no signal of its own.
                start_new_session=True,
            )
        self._socket = own
        self._is_ready = False
        self.files_read = 0

    def ask(self, request: bytes) -> None:
        """Send a request; an OSError means that the worker has died."""
        self._socket.settimeout(_START_SECONDS)
        self._socket.sendall(REQUEST_LENGTH.pack(len(request)) + request)

    def answer(self, limits: ReadingLimits) -> tuple[str, Any]:
        if not self._is_ready:
            try:
                self._receive(ReadingLimits(_START_SECONDS, sys.maxsize))
            except _WorkerLostError as lost:
                raise UserError(f"the process that reads files can't be started: {lost}") from lost
            self._is_ready = True
        answer = self._receive(limits)
        self.files_read += 1
        return answer

    def _receive(self, limits: ReadingLimits) -> tuple[str, Any]:
        """Wait for an answer within limits."""
        self._socket.settimeout(_WATCH_SECONDS)
        deadline = time.monotonic() + limits.seconds
        used_before = None
        while True:
            with contextlib.suppress(TimeoutError):
                try:
                    message, files, _, _ = socket.recv_fds(self._socket, ANSWER.size, 1)
                except ConnectionError:
                    message, files = b"", []
                if len(message) < ANSWER.size:
                    raise _WorkerLostError(self._reason_of_death())
                return _read_answer(files[0], *ANSWER.unpack(message)) if files else ("ready", None)
            if time.monotonic() > deadline:
                raise _WorkerLostError(
                    f"reading it took longer than {limits.seconds:.0f} s (TEM_READ_SECONDS): "
                    "it is damaged, or on a slow disk; copy or export it again"
                )
            used = self._memory_bytes()
            used_before = used if used_before is None else used_before
            if used - used_before > limits.memory_bytes:
                raise _WorkerLostError(
                    f"reading it takes more than {limits.memory_bytes / 1e9:.1f} GB of memory "
                    "(TEM_READ_MEMORY_MB): it is damaged or too large; copy or export it again"
                )

    def _memory_bytes(self) -> int:
        import psutil

        with contextlib.suppress(psutil.Error):
            return psutil.Process(self._process.pid).memory_info().rss
        return 0

    def _reason_of_death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        code = self._process.returncode
        cause = f"exit code {code}"
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                cause = signal.Signals(-code).name
        return f"reading it crashed the program ({cause}): it is damaged; copy or export it again"

    def end(self) -> None:
        """Kill the process; it has nothing to lose."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Leave the process to the one that this process was forked from."""
        self._socket.close()
        self._process.returncode = 0


def _read_answer(file: int, place: int, size: int) -> tuple[str, Any]:
    """Read an answer; its arrays stay where they are, and their memory is freed with the last of them."""
    try:
        content = memoryview(mmap.mmap(file, place + size, access=mmap.ACCESS_COPY))
    finally:
        os.close(file)
    places = json.loads(bytes(content[place:]))
    pickled, *buffers = [content[start : start + length] for start, length in places]
    return pickle.loads(pickled, buffers=buffers)


_lock = threading.Lock()
_idle: list[_Worker] = []


def _asked(request: bytes) -> _Worker:
    """Give a worker that has got a request."""
    while True:
        with _lock:
            worker = _idle.pop() if _idle else None
        if worker is None:
            worker = _Worker()
            worker.ask(request)
            return worker
        try:
            worker.ask(request)
        except OSError:
            worker.end()  # It died while it was idle.
        else:
            return worker


def _keep(worker: _Worker) -> None:
    with _lock:
        if len(_idle) < _MOST_IDLE:
            _idle.append(worker)
            return
    worker.end()


def end_workers() -> None:
    """End the workers that are idle. The next file starts a new one."""
    with _lock:
        workers, _idle[:] = list(_idle), []
    for worker in workers:
        worker.end()


def _forget_workers() -> None:
    """Leave the workers to the process that this one was forked from: both can't talk to one worker."""
    global _lock
    _lock = threading.Lock()
    for worker in _idle:
        worker.forget()
    _idle.clear()


atexit.register(end_workers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
