"""Installations of their own for tests of the Dagster layer: real folders, real stores, an own instance."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tem_pipeline.orchestration.build import build_definitions
from tem_pipeline.orchestration.io_managers import LakeTables
from tem_pipeline.orchestration.resources import Platform, SessionLock


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        yield instance


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(data_root=str(tmp_path / "data"), models_root=str(tmp_path / "models"))


@pytest.fixture
def definitions(platform: Platform) -> dg.Definitions:
    return build_definitions(
        {
            "platform": platform,
            "session_lock": SessionLock(platform=platform),
            "tables": LakeTables(platform=platform),
        }
    )
