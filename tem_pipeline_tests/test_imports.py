import subprocess
import sys
from pathlib import Path

import pytest

from docs.imports import LAYERS, OWNERS, SCIENCE, import_faults, package_of, packages_used, read_imports
from tem_pipeline.settings import PROJECT_ROOT

ROOT = PROJECT_ROOT / "tem_pipeline"

# One wrong import of every kind: the file, its text, and what the checker says about it.
WRONG = {
    "module": ("particles/table.py", "import tem_pipeline.reports.page", "reports comes after particles"),
    "name_from_module": (
        "particles/table.py",
        "from tem_pipeline.reports.page import draw",
        "reports comes after particles",
    ),
    "module_from_package": (
        "particles/table.py",
        "from tem_pipeline.reports import page",
        "reports comes after particles",
    ),
    "package_from_root": (
        "training/fitting.py",
        "from tem_pipeline import tracking",
        "tracking comes after training",
    ),
    "alias": (
        "micrographs/reading.py",
        "import tem_pipeline.simulation.imaging as i",
        "simulation comes after micrographs",
    ),
    "star": (
        "particles/table.py",
        "from tem_pipeline.reports.page import *",
        "reports comes after particles",
    ),
    "relative": ("particles/table.py", "from ..reports import page", "reports comes after particles"),
    "relative_from_root": ("particles/table.py", "from .. import cli", "cli comes after particles"),
    "in_a_function": (
        "particles/table.py",
        "def f():\n    from tem_pipeline import demo",
        "demo comes after particles",
    ),
    "for_types_only": (
        "segmentation/masks.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tem_pipeline.training import fitting",
        "training comes after segmentation",
    ),
    "in_a_try": (
        "reports/page.py",
        "try:\n    import tem_pipeline.orchestration.build\nexcept ImportError:\n    pass",
        "orchestration comes after reports",
    ),
    "by_name": (
        "reports/page.py",
        "import importlib\nimportlib.import_module('tem_pipeline.cli')",
        "cli comes after reports",
    ),
    "by_name_under_another_name": (
        "particles/table.py",
        "from importlib import import_module as load\nload('tem_pipeline.cli')",
        "computed or relative name",
    ),
    "by_relative_name": (
        "particles/table.py",
        "from importlib import import_module\nimport_module('..cli', __package__)",
        "computed or relative name",
    ),
    "by_name_as_keyword": (
        "particles/table.py",
        "import importlib\nimportlib.import_module(name='tem_pipeline.cli')",
        "computed or relative name",
    ),
    "by_computed_name": (
        "particles/table.py",
        "import importlib\nimportlib.import_module(f'tem_pipeline.{1}')",
        "computed or relative name",
    ),
    "import_function_as_value": (
        "particles/table.py",
        "import importlib\nload = importlib.import_module",
        "computed or relative name",
    ),
    "attribute_of_the_root": (
        "particles/table.py",
        "import tem_pipeline\nopened = tem_pipeline.tracking.store",
        "tracking comes after particles",
    ),
    "attribute_of_the_renamed_root": (
        "particles/table.py",
        "import tem_pipeline as t\nt.reports.page.draw()",
        "reports comes after particles",
    ),
    "attribute_of_an_imported_module": (
        "particles/table.py",
        "import tem_pipeline.micrographs.reading\ntem_pipeline.reports.page.draw()",
        "reports comes after particles",
    ),
    "tests": ("storage.py", "from tem_pipeline_tests.conftest import small", "not part of tem_pipeline"),
    "benchmarks": ("cli.py", "import benchmarks.sizes", "not part of tem_pipeline"),
    "studies": ("demo.py", "def f():\n    from studies import tables", "not part of tem_pipeline"),
    "docs": ("cli.py", "from docs.imports import LAYERS", "not part of tem_pipeline"),
    "fuzzing": ("cli.py", "import fuzzing", "not part of tem_pipeline"),
    "foundation": (
        "storage.py",
        "from tem_pipeline.micrographs import reading",
        "micrographs comes after storage",
    ),
    "root": ("__init__.py", "from tem_pipeline import storage", "everything else is above tem_pipeline"),
    "missing_module": ("reports/page.py", "from tem_pipeline.gone import draw", "which does not exist"),
    "missing_name": ("reports/page.py", "from tem_pipeline import gone", "which does not exist"),
    "new_package": ("helpers/__init__.py", "", "helpers is in no layer"),
    "mlflow": ("training/fitting.py", "import mlflow", "which only tracking may"),
    "mlflow_part": (
        "orchestration/build.py",
        "from mlflow.tracking import MlflowClient",
        "which only tracking may",
    ),
    "mlflow_in_a_function": ("cli.py", "def f():\n    import mlflow.keras", "which only tracking may"),
    "dagster": ("tracking.py", "import dagster as dg", "which only orchestration may"),
    "keras": ("segmentation/masks.py", "def f():\n    from keras import ops", "which only training may"),
    "tensorflow": ("tracking.py", "import tensorflow", "which only training may"),
    "openvino": (
        "particles/table.py",
        "def f():\n    import openvino",
        "which only segmentation and training may",
    ),
    "dagster_graphql": ("cli.py", "import dagster_graphql.client", "which only orchestration may"),
    "dagster_webserver": (
        "demo.py",
        "def f():\n    from dagster_webserver import app",
        "which only orchestration may",
    ),
    "circle": ("particles/measurement.py", "from tem_pipeline.particles import table", "circle: "),
    "circle_in_a_function": (
        "particles/measurement.py",
        "def f():\n    from .table import join",
        "tem_pipeline.particles.measurement",
    ),
}


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    """A package whose imports follow every rule."""
    root = tmp_path / "tem_pipeline"
    texts = {
        "__init__.py": "__version__ = '1'",
        "storage.py": "import json",
        "tracking.py": "def f():\n    import mlflow\n    from tem_pipeline.training.fitting import fit",
        "cli.py": "from tem_pipeline import __version__, demo, tracking",
        "demo.py": "from tem_pipeline.orchestration.build import definitions",
        "micrographs/reading.py": "from tem_pipeline import storage",
        "simulation/imaging.py": "from tem_pipeline.micrographs.reading import read",
        "segmentation/masks.py": "import openvino",
        "training/fitting.py": "import keras, openvino, tensorflow\nfrom ..segmentation import masks",
        "particles/measurement.py": "import numpy",
        "particles/table.py": "from .measurement import measure",
        "reports/page.py": "from tem_pipeline.particles.table import join",
        "orchestration/build.py": "import dagster, dagster_webserver\nfrom tem_pipeline import tracking",
        "orchestration/loading.py": "import importlib\nimportlib.import_module('tem_pipeline.reports.page')",
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        (path.parent / "__init__.py").touch()
    return root


def test_the_imports_of_the_project_follow_the_rules():
    assert import_faults(ROOT) == []


def test_every_package_that_the_rules_name_exists():
    named = {name for layer in LAYERS for name in layer}
    assert named == packages_used(read_imports(ROOT)).keys()
    assert set().union(*OWNERS.values(), SCIENCE) <= named


def test_imports_that_follow_the_rules_are_accepted(small_project: Path):
    assert import_faults(small_project) == []


@pytest.mark.parametrize(("file", "text", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_import_is_named(file: str, text: str, message: str, small_project: Path):
    path = small_project / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    module = path.parent.name if path.stem == "__init__" else path.stem
    # Where two modules import each other, the circle is named too.
    assert any(message in fault and module in fault for fault in import_faults(small_project))


def test_importing_the_science_loads_no_heavy_library():
    science = [module for module in read_imports(ROOT) if package_of(module) in (*LAYERS[0], *SCIENCE)]
    assert len(science) > 40
    heavy = set(OWNERS)
    script = (
        f"import importlib, sys\nfor module in {science!r}: importlib.import_module(module)\n"
        f"print(sorted({{name.split('.')[0] for name in sys.modules}} & {heavy!r}))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
