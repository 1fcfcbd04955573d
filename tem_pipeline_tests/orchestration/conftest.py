"""Installations of their own for tests of the Dagster layer: real folders, real stores, an own instance."""

import ctypes
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from tem_pipeline.installation import Installation, installation_of
from tem_pipeline.orchestration.build import build_definitions
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.session_life.failures import failure_reason
from tem_pipeline.orchestration.session_life.schedules import build_nightly_schedule
from tem_pipeline.segmentation.models import ModelCard, write_card
from tem_pipeline.settings import Settings, load_settings
from tem_pipeline.simulation.sessions import simulate_session
from tem_pipeline.storage import AnyPath


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        yield instance


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """A platform that reads the environment each time, so that a test can change settings."""

    class OfTheTest(Platform):
        @property
        def installation(self) -> Installation:
            return installation_of(
                Settings(
                    data_root=str(tmp_path / "data"),
                    models_root=str(tmp_path / "models"),
                    pretrained_model=str(tmp_path / "pretrained"),
                )
            )

        @property
        def named(self) -> frozenset[str]:
            return frozenset()

    return OfTheTest()


@pytest.fixture
def definitions(platform: Platform, instance: dg.DagsterInstance) -> dg.Definitions:
    # Dagster resolves definitions with the instance opened last in this process, which must be open.
    return definitions_of(platform)


def definitions_of(platform: Platform) -> dg.Definitions:
    return build_definitions(platform.installation)


def deliver(files: list[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for file in files:
        shutil.copy(file, folder)


@pytest.fixture
def settle_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEM_SETTLING_S", "0")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("simulated")
    simulate_session(out, images=3, size=64)
    return sorted((out / "session").glob("*.tif"))


@pytest.fixture
def incoming(platform: Platform) -> Path:
    folder = Path(str(platform.layout.incoming))
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def run(definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform):
    """Run a job as a page or the daemon does, or as the command line does, which names folders."""

    def run(request: dg.RunRequest, named: Sequence[Path] = ()) -> bool:
        instance.add_dynamic_partitions(str(SESSIONS.name), [str(request.partition_key)])
        folders = [str(folder) for folder in named]
        known = build_definitions(platform.installation, folders) if folders else definitions
        job = known.resolve_job_def(str(request.job_name))
        return job.execute_in_process(
            instance=instance,
            partition_key=request.partition_key,
            tags=dict(request.tags),
            raise_on_error=False,
        ).success

    return run


@pytest.fixture
def night(instance: dg.DagsterInstance, platform: Platform):
    """Let the nightly schedule look, and give what it asks for."""

    def night() -> list[dg.RunRequest]:
        schedule = build_nightly_schedule(load_settings())
        result = schedule(dg.build_schedule_context(instance=instance), platform=platform)
        return result if isinstance(result, list) else []

    return night


def lay_champion(platform: Platform, version: str = "1") -> None:
    """Write a champion without a registry."""
    lay_model(platform.layout.champion, "tem_segmentation", version)


def lay_model(folder: AnyPath, name: str, version: str = "1") -> None:
    """Write a network that classifies dark pixels as core."""
    import openvino as ov
    from openvino import opset13 as ops

    tile = ops.parameter([1, -1, -1, 1], np.float32)
    core = ops.sigmoid(ops.multiply(ops.add(tile, ops.constant(np.float32(1))), ops.constant(np.float32(-8))))
    both = ops.concat([ops.subtract(ops.constant(np.float32(1)), core), core], axis=3)
    weights = Path(str(folder)) / f"weights-{version}"
    weights.mkdir(parents=True, exist_ok=True)
    model = ov.Model([both], [tile])  # type: ignore[misc]
    ov.save_model(model, weights / "model.xml", compress_to_fp16=False)
    card = ModelCard(
        name,
        version,
        "dice",
        "threshold",
        4,
        ("background", "core"),
        weights.name,
        f"sha of {name} {version}",
    )
    write_card(folder, card)


def process(platform: Platform, session: str = "a") -> str | None:
    """Process a session in this process; give the reason of a failure."""
    # Its records lie in memory: faults hit the laboratory's folders only.
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(SESSIONS.name), [session])
        job = definitions_of(platform).resolve_job_def("process_session")
        result = job.execute_in_process(instance=instance, partition_key=session, raise_on_error=False)
        if result.success:
            return None
        reason = failure_reason(result.all_events)
        assert "\n" not in reason
        return reason


@contextmanager
def without_capabilities() -> Iterator[None]:
    """Lay down this thread's effective capabilities, as `capset(2)` does; an ordinary user has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    none = (ctypes.c_uint32 * 6)(*held)
    none[0] = none[3] = 0
    assert libc.capset(header, none) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0
