"""The program that reads files for `reading_process`, one after the other, until its caller is gone.

It may be killed at any moment: it keeps nothing and writes only answers.
"""

import contextlib
import json
import os
import pickle
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REQUEST_LENGTH = struct.Struct("<I")
"""Goes before a request, which is JSON."""

ANSWER = struct.Struct("<QQ")
"""Place and length of the table of contents in the file that comes with it. An answer is a file without a
name: the arrays as they are, so that the caller maps them into its memory, a pickle of everything else, and a
table of contents that says where these are."""

_ALIGNMENT = 64
# The caller watches the time. This is for a worker whose caller is stopped or gone.
_SPARE_SECONDS = 10


def main(caller: socket.socket) -> None:
    """Answer requests until the caller closes its end.

    Parameters
    ----------
    caller : socket
        First it is told that this program is ready: `ANSWER` of zeros, without a file.
    """
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tem_pipeline.micrographs.reading_guards import only_files_of_a_request

    allow = only_files_of_a_request()
    caller.sendall(ANSWER.pack(0, 0))
    while length := caller.recv(REQUEST_LENGTH.size, socket.MSG_WAITALL):
        request = json.loads(caller.recv(REQUEST_LENGTH.unpack(length)[0], socket.MSG_WAITALL))
        path = Path(request["path"])
        with _limited(caller, request["seconds"], request["memory_bytes"]):
            with allow(path):
                answered = _answer(path, request["options"])
            answer, place, size = _write_answer(answered)
        with answer:
            socket.send_fds(caller, [ANSWER.pack(place, size)], [answer.fileno()])


def _answer(path: Path, options: dict[str, bool]) -> tuple[str, Any]:
    """Give "read" and the micrographs, or "refused" and the reason."""
    from tem_pipeline.micrographs.reading import MicrographError, read_micrographs

    try:
        return "read", read_micrographs(path, **options)
    except MicrographError as error:
        return "refused", error.reason


def _write_answer(answer: tuple[str, Any]) -> tuple[Any, int, int]:
    """Write an answer into a file without a name, and give the place and length of its table of contents."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    file = _unnamed_file()
    places = []
    for content in (pickled, *(buffer.raw() for buffer in buffers)):
        place = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
        file.seek(place)
        file.write(content)
        places.append((place, len(content)))
    contents = json.dumps(places).encode()
    place = file.tell()
    file.write(contents)
    file.flush()
    return file, place, len(contents)


def _unnamed_file() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("micrographs"), "w+b")
    return tempfile.TemporaryFile()


@contextlib.contextmanager
def _limited(caller: socket.socket, seconds: float, memory_bytes: int) -> Iterator[None]:
    """Let the system end this process when it takes too long or its caller dies, and limit its memory.

    Python code couldn't do that: a library that hangs may keep all of it from running.
    """
    import fcntl
    import resource

    signal.setitimer(signal.ITIMER_REAL, seconds + _SPARE_SECONDS)
    fcntl.fcntl(caller, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(caller, fcntl.F_GETFL)
    # Until it has its answer, the caller sends nothing. All that can happen to the socket is that it closes.
    fcntl.fcntl(caller, fcntl.F_SETFL, flags | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        if not caller.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            sys.exit()  # It died before the system was told to watch it.
    if sys.platform == "linux":  # Elsewhere the system ignores this limit, and only the caller watches.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, resource.RLIM_INFINITY))
    yield
    fcntl.fcntl(caller, fcntl.F_SETFL, flags)
    signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as own_end:
        main(own_end)
