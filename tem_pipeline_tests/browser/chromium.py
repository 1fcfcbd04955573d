"""Headless Chromium, with a profile of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def chromium(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run Chromium while the block runs. A test that needs it is skipped where it isn't installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    # Without arguments that begin with --, it opens the addresses and stays until it is ended.
    options = ["--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder / 'profile'}"]
    if not any(argument.startswith("--") for argument in arguments):
        options.append("--remote-debugging-port=0")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium's sandbox doesn't work for root.
    with subprocess.Popen(
        [program, *options, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
