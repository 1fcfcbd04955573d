"""The command that runs Dagster and MLflow; ended with the signals that people and systems send."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tem_pipeline import dev
from tem_pipeline.dev import Service, serve, services_of
from tem_pipeline.errors import UserError
from tem_pipeline.installation import installation_of, prepare_dagster_home
from tem_pipeline.settings import PROJECT_ROOT, Settings

STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'\n"
    "print(subprocess.Popen([sys.executable, '-c', child]).pid, flush=True)\n"
    "time.sleep({})\n"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def installation(root: Path, **settings: str | None):
    roots = {"data_root": str(root / "data"), "models_root": str(root / "models")}
    return installation_of(Settings(**roots, dagster_home=str(root / "dagster"), **settings))  # type: ignore[arg-type]


def started_by(pid: int) -> list[psutil.Process]:
    """Give a process and what it started, and nothing of it that has ended."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def printed_processes(output: str) -> list[psutil.Process]:
    pids = [int(word) for word in output.split() if word.isdigit()]
    assert pids
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


def runs(process: psutil.Process) -> bool:
    """Tell whether a process still runs; one that has ended may wait to be collected by the system."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_services_get_the_roots_of_their_installation(tmp_path: Path):
    dagster, mlflow = services_of(installation(tmp_path, mlflow_tracking_uri=None), 1, 2)
    assert dagster.environment["TEM_DATA_ROOT"] == str(tmp_path / "data")
    assert dagster.environment["DAGSTER_HOME"] == str(tmp_path / "dagster")
    assert f"sqlite:///{tmp_path}/models/mlflow/mlflow.db" in mlflow.command


def test_both_services_refuse_pages_of_other_origins(tmp_path: Path):
    commands = [
        service.command for service in services_of(installation(tmp_path, mlflow_tracking_uri=None), 1, 2)
    ]
    assert [command[2] for command in commands] == [
        "tem_pipeline.orchestration.dev",
        "tem_pipeline.tracking.pages",
    ]


def test_no_second_mlflow_runs_beside_a_server(tmp_path: Path):
    services = services_of(installation(tmp_path, mlflow_tracking_uri="http://mlflow.example"), 1, 2)
    assert [service.name for service in services] == ["Dagster"]


def test_a_dagster_yaml_of_the_laboratory_is_kept(tmp_path: Path):
    home = tmp_path / "home"
    assert prepare_dagster_home(home) == []
    assert (home / "dagster.yaml").read_bytes() == (PROJECT_ROOT / "dagster.yaml").read_bytes()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (remark,) = prepare_dagster_home(home)
    assert "kept" in remark
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_a_taken_port_is_one_line_that_names_it(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} for Dagster .*DAGSTER_PORT"):
            serve(installation(tmp_path, mlflow_tracking_uri="http://mlflow.example"), port, 1)


def test_a_service_that_ends_by_itself_ends_the_others(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.setattr(dev, "GRACE_S", 0.5)
    commands = [STUBBORN.format(60), "import time; time.sleep(1); raise SystemExit(3)"]
    services = [
        Service(f"service {k}", (sys.executable, "-c", command), None, dict(os.environ))
        for k, command in enumerate(commands)
    ]
    monkeypatch.setattr(dev, "services_of", lambda *_: services)
    with pytest.raises(UserError, match=r"service 1 ended by itself \(exit code 3\)"):
        serve(installation(tmp_path, mlflow_tracking_uri="http://mlflow.example"), 1, 2)
    assert not any(runs(process) for process in printed_processes(capfd.readouterr().out))


def test_a_child_whose_parent_has_ended_is_ended_too(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.setattr(dev, "GRACE_S", 0.5)
    service = Service("service", (sys.executable, "-c", STUBBORN.format(1)), None, dict(os.environ))
    monkeypatch.setattr(dev, "services_of", lambda *_: [service])
    with pytest.raises(UserError, match="ended by itself"):
        serve(installation(tmp_path, mlflow_tracking_uri="http://mlflow.example"), 1, 2)
    assert not any(runs(process) for process in printed_processes(capfd.readouterr().out))


@pytest.mark.parametrize("sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_dagster_and_mlflow_without_orphans(tmp_path: Path, sign: signal.Signals):
    ports = free_port(), free_port()
    environment = {
        **os.environ,
        "TEM_DATA_ROOT": str(tmp_path / "data"),
        "TEM_MODELS_ROOT": str(tmp_path / "models"),
        "DAGSTER_HOME": str(tmp_path / "dagster"),
        "DAGSTER_PORT": str(ports[0]),
        "MLFLOW_PORT": str(ports[1]),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    (tmp_path / "data" / "incoming").mkdir(parents=True)
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "tem_pipeline.cli", "dev"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
        reader.start()
        end = time.monotonic() + 150
        while not any(line.startswith("MLflow: ") for line in lines):
            assert process.poll() is None, "".join(lines)
            assert time.monotonic() < end, "".join(lines)
            time.sleep(0.2)
        family = started_by(process.pid)
        assert len(family) > 4
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/server_info", timeout=30) as answer:
            assert "dagster_version" in json.load(answer)
        # A terminal sends Ctrl-C to everything that runs in it, here the process group.
        os.killpg(process.pid, sign) if sign == signal.SIGINT else process.send_signal(sign)
        asked = time.monotonic()
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - asked < 10
    reader.join(timeout=10)
    psutil.wait_procs(family, timeout=2)
    assert [member for member in family if runs(member)] == []
    assert "Segmentation fault" not in "".join(lines)
    for port in ports:
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=2):
            pass
