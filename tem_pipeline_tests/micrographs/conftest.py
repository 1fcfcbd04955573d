"""Fixtures for the tests of reading."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 4000, (48, 64), dtype=np.uint16)


@pytest.fixture(scope="module")
def formats(reference_data: Path) -> Path:
    return reference_data / "microscope_formats"
