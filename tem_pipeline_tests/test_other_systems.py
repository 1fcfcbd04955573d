"""macOS and Windows lack some of Linux' functions: every command must run without them."""

import os
import subprocess
import sys
from pathlib import Path

from tem_pipeline.settings import PROJECT_ROOT

WITHOUT_LINUX = """
import os, sys
for name in (
    "sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "sendfile", "splice",
    "copy_file_range", "memfd_create", "fdatasync", "eventfd", "pidfd_open", "getrandom",
):
    if hasattr(os, name):
        delattr(os, name)

class Missing:
    # Libraries ask before they use these modules. Our own code must not use them at all.
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while frame and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        caller = frame.f_globals.get("__name__", "") if frame else ""
        # The reading worker is not started on Windows, and macOS has these modules.
        if caller.startswith("tem_pipeline") and caller != "tem_pipeline.micrographs.reading_worker":
            if name in ("fcntl", "resource", "pwd", "grp", "termios"):
                raise ModuleNotFoundError(name)

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing())
"""
RUN_ALL = """
import os, sys
assert not hasattr(os, "sched_getaffinity")
from tem_pipeline import cli
for line in sys.stdin.read().splitlines():
    sys.argv = ["tem-pipeline", *line.split("|")]
    print("$", *sys.argv, flush=True)
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""


def test_every_command_runs_without_the_functions_of_linux(tmp_path: Path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_LINUX)
    out, session = tmp_path / "simulated", tmp_path / "simulated" / "session"
    commands = [
        ["--version"],
        ["settings"],
        ["simulate", out, "--images", "1", "--size", "128"],
        ["info", session / "image_000.tif"],
        ["process", session],
        ["sessions"],
        ["query", "SELECT count(*) FROM particle_table"],
        ["segment", session, "--out", tmp_path / "segmented", "--model", "pretrained"],
        ["evaluate", "--help"],
        ["train", "--help"],
        ["demo", "--help"],
        ["dev", "--help"],
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{PROJECT_ROOT}",
        "TEM_DATA_ROOT": str(tmp_path / "data"),
        "TEM_MODELS_ROOT": str(tmp_path / "models"),
        "TEM_PRETRAINED_MODEL": str(PROJECT_ROOT / "models" / "pretrained"),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    (tmp_path / "data" / "incoming").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input="\n".join("|".join(map(str, command)) for command in commands),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("$ tem-pipeline") == len(commands)
