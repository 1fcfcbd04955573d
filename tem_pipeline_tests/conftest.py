"""What every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Tests that want a pretrained model lay one down; whether the project ships one mustn't matter to the others.
os.environ["TEM_PRETRAINED_MODEL"] = "models/none"

# Machines are noisy: an example that takes long on one is no fault of the code.
settings.register_profile("tem_pipeline", deadline=None)
settings.load_profile("tem_pipeline")


@pytest.fixture(scope="session", autouse=True)
def own_dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test out of the home of the installation that it is run from."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("dagster_home")))
        yield


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Real images and microscope files; tests that need them are skipped where they are not at hand."""
    folder = os.environ.get("TEM_REFERENCE_DATA")
    if not folder:
        pytest.skip("TEM_REFERENCE_DATA is not set: it names the folder of real microscope files")
    return Path(folder)
