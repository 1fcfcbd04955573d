import os
import subprocess
import sys
from pathlib import Path

from tem_pipeline.settings import PROJECT_ROOT

PROGRAM = """
import tem_pipeline
import openvino
from mlflow.telemetry.utils import is_telemetry_disabled
assert is_telemetry_disabled()
"""


def test_no_library_reports_what_a_laboratory_does(tmp_path: Path):
    # Within tests and on build servers they keep still by themselves.
    quiet = ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(PROJECT_ROOT)}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=120)
    assert not list(tmp_path.rglob("*"))
