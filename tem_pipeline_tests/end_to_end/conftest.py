"""One small laboratory that the end-to-end tests share: it simulates, trains one loss, and has a champion."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tem_pipeline.simulation.sessions import simulate_annotated_set


@dataclass(frozen=True)
class Laboratory:
    """Roots of its own, and the command line working on them."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def environment(self) -> dict[str, str]:
        roots = {
            "TEM_DATA_ROOT": str(self.data),
            "TEM_MODELS_ROOT": str(self.models),
            "DAGSTER_HOME": str(self.root / "dagster"),
        }
        return {**os.environ, **roots}

    def run(
        self, *arguments: object, timeout_s: float = 1200, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `tem-pipeline` as a user would, from another working directory."""
        return subprocess.run(
            [sys.executable, "-m", "tem_pipeline.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=self.root,
            env={**self.environment, **environment},
            timeout=timeout_s,
        )

    def succeed(self, *arguments: object, timeout_s: float = 1200) -> str:
        """Run `tem-pipeline`; it must end well. Gives what it printed."""
        done = self.run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def bare_laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A laboratory without a model."""
    return Laboratory(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A laboratory whose champion was trained for about a minute on simulated micrographs."""
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
    simulate_annotated_set(laboratory.data / "annotated" / "simulated", images=8, size=384, seed=1)
    laboratory.succeed("train", "simulated", "--profile", "quick", "--loss", "dice")
    return laboratory
