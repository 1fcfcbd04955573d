"""Runs Dagster and MLflow on this machine until Ctrl-C or SIGTERM: the command `tem-pipeline dev`.

Each service runs in a process session of its own. Ctrl-C in a terminal therefore reaches this process only,
which ends the services one after the other and leaves no process behind.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation, prepare_dagster_home
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.text import redacted
from tem_pipeline.tracking.store import EXPERIMENT

HOST = "127.0.0.1"
START_S = 180.0
GRACE_S = 5.0
"""Seconds in which a service may end by itself; then its processes are killed."""


@dataclass(frozen=True)
class Service:
    """A program, and the port of this machine that it listens on if it listens at all."""

    name: str
    command: tuple[str, ...]
    port: int | None
    environment: dict[str, str]


def serve(installation: Installation, dagster_port: int, mlflow_port: int) -> None:
    """Run Dagster and MLflow until a signal asks to end; print their addresses once both answer.

    Parameters
    ----------
    installation : Installation
    dagster_port, mlflow_port : int
        Ports of 127.0.0.1.

    Raises
    ------
    UserError
        When a port is taken, or a service ends by itself or does not answer.
    """
    for remark in prepare_dagster_home(installation.dagster_home):
        print(remark, flush=True)
    services = services_of(installation, dagster_port, mlflow_port)
    for service in services:
        _require_free_port(service)
    names = " and ".join(service.name for service in services)
    print(f"Starting {names}; this takes about half a minute …", flush=True)
    with _stop_signal() as stop, _running(services) as processes:
        _wait_for_answers(services, processes, stop)
        if not stop.is_set():
            print(_addresses(installation, dagster_port, mlflow_port), flush=True)
        while not stop.wait(0.5):
            _require_running(services, processes)
        print(f"Ending {names} …", flush=True)


def services_of(installation: Installation, dagster_port: int, mlflow_port: int) -> list[Service]:
    """Give the services of an installation. With an MLflow server elsewhere there is only Dagster."""
    layout, store, settings = installation.layout, installation.store, installation.settings
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(installation.dagster_home),
        "TEM_DATA_ROOT": settings.data_root,
        "TEM_MODELS_ROOT": settings.models_root,
        "TEM_TRAINING_PROFILE": settings.training_profile,
        "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri or "",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    # Both refuse what pages of other origins ask: see `same_origin`.
    where = ("--host", HOST, "--port")
    dagster = (*_module("tem_pipeline.orchestration.dev"), "-w", "workspace.yaml", *where, str(dagster_port))
    services = [Service("Dagster", dagster, dagster_port, environment)]
    if store.database:
        artifacts = Path(str(layout.mlflow)) / "artifacts"
        mlflow = (
            *_module("tem_pipeline.tracking.pages"),
            store.uri,
            str(artifacts),
            *where,
            str(mlflow_port),
        )
        services.append(Service("MLflow", mlflow, mlflow_port, environment))
    return services


def _module(name: str) -> tuple[str, ...]:
    return sys.executable, "-m", name


def _require_free_port(service: Service) -> None:
    if service.port is None:
        return
    with socket.socket() as probe:
        # As the servers do: a port that was in use a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, service.port))
        except OSError as error:
            raise UserError(
                f"port {service.port} for {service.name} can't be used ({error.strerror}); "
                f"end the program that uses it, or choose another: {service.name.upper()}_PORT=… make dev"
            ) from error


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set. Later signals don't disturb the ending."""
    stop = threading.Event()
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), lambda *_: stop.set()) for name in names}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


@contextmanager
def _running(services: Sequence[Service]) -> Iterator[list[subprocess.Popen]]:
    """Run the services while the block runs."""
    processes: list[subprocess.Popen] = []
    try:
        for service in services:
            processes.append(
                subprocess.Popen(
                    service.command,
                    cwd=PROJECT_ROOT,
                    env=service.environment,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        yield processes
    finally:
        _end(processes)


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Ask the services to end. After `GRACE_S` kill whatever is left of them and of what they started."""
    family = {member for process in processes for member in _started_by(process.pid)}
    for process in processes:
        with suppress(ProcessLookupError):
            process.terminate()
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        time.sleep(0.1)
    for process in processes:
        family |= _started_by(process.pid)
    family |= _members_of_sessions({process.pid for process in processes})
    for member in family:
        with suppress(psutil.Error):
            member.kill()
    psutil.wait_procs(list(family), timeout=2)
    for process in processes:
        process.wait()


def _started_by(pid: int) -> set[psutil.Process]:
    with suppress(psutil.Error):
        leader = psutil.Process(pid)
        return {leader, *leader.children(recursive=True)}
    return set()


def _members_of_sessions(leaders: set[int]) -> set[psutil.Process]:
    """Find what is left of process sessions, also where the parent has ended. Windows has no sessions."""
    members: set[psutil.Process] = set()
    for pid in psutil.pids() if hasattr(os, "getsid") else ():
        with suppress(psutil.Error, OSError):
            if os.getsid(pid) in leaders:
                members.add(psutil.Process(pid))
    return members


def _wait_for_answers(
    services: Sequence[Service], processes: Sequence[subprocess.Popen], stop: threading.Event
) -> None:
    end = time.monotonic() + START_S
    for service in services:
        while service.port and not _answers(service.port) and not stop.wait(0.3):
            _require_running(services, processes)
            if time.monotonic() > end:
                raise UserError(
                    f"{service.name} does not answer after {START_S:.0f} s; see its messages above"
                )


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def _require_running(services: Sequence[Service], processes: Sequence[subprocess.Popen]) -> None:
    for service, process in zip(services, processes, strict=True):
        if process.poll() is not None:
            raise UserError(
                f"{service.name} ended by itself (exit code {process.returncode}); see its messages above"
            )


def _addresses(installation: Installation, dagster_port: int, mlflow_port: int) -> str:
    mlflow = redacted(installation.settings.mlflow_tracking_uri or "")
    if not mlflow:
        mlflow = f"http://{HOST}:{mlflow_port}"
        experiment = _experiment(mlflow)
        if experiment:
            # MLflow's first page is about language models; this one lists the trainings.
            mlflow += f"/#/experiments/{experiment}/runs?workflowType=machine_learning"
    return f"\nDagster: http://{HOST}:{dagster_port}\nMLflow:  {mlflow}\nCtrl-C ends them.\n"


def _experiment(server: str) -> str | None:
    """Ask MLflow's server for the experiment of the trainings; None before the first training."""
    url = f"{server}/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(json.load(answer)["experiment"]["experiment_id"])
    except (OSError, ValueError, KeyError):
        return None
