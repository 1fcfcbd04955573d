"""What the command line does without a model: exit status, one line a failure, nothing but JSON on stdout."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline_tests.orchestration.conftest import lay_model


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEM_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("TEM_MODELS_ROOT", str(tmp_path / "models"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tem_pipeline.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)

    return run


def test_info_describes_reference_files_as_json(run, reference_data: Path):
    files = [reference_data / "microscope_formats" / name for name in ("dm/multi_signal.dm3", "mrc/temp.mrc")]
    done = run("info", "--json", *files)
    assert done.returncode == 0
    described = json.loads(done.stdout)["files"]
    assert described[0]["images"][0]["shape"] == [512, 512]
    assert described[0]["images"][0]["pixel_size_nm"][0] == pytest.approx(0.0177515782)
    assert described[0]["images"][0]["calibration"] == "metadata"
    assert described[1]["images"][0]["pixel_size_nm"] == pytest.approx([0.2, 0.2])


def test_info_tells_a_person_why_a_file_is_no_micrograph(run, tmp_path: Path):
    (tmp_path / "note.dm3").write_text("a note")
    done = run("info", tmp_path / "note.dm3")
    assert done.returncode == 0
    assert "refused" in done.stdout


def test_a_file_that_is_not_there_is_a_failure(run, tmp_path: Path):
    done = run("info", tmp_path / "gone.dm3")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("file_format", ["tif", "mrc", "emd", "hspy"])
def test_simulated_files_come_back_with_their_pixel_size(run, tmp_path: Path, file_format: str):
    out = tmp_path / "out"
    done = run("simulate", out, "--images", 1, "--size", 96, "--pixel-size-nm", 0.25, "--format", file_format)
    assert done.returncode == 0, done.stderr
    assert (out / "truth/particles.parquet").exists()
    assert len(list((out / "truth/cores").glob("*.tif"))) == 1
    described = json.loads(run("info", "--json", *(out / "session").glob(f"*.{file_format}")).stdout)
    image = described["files"][0]["images"][0]
    assert image["shape"] == [96, 96]
    assert image["pixel_size_nm"] == pytest.approx([0.25, 0.25], rel=1e-5)
    assert image["calibration"] == "metadata"


def test_query_without_any_table_answers_with_an_empty_one(run):
    done = run("query", "SELECT count(*) AS n FROM particle_table", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"n": 0}]


def test_query_refuses_to_write_or_to_read_other_files(run):
    for sql in (
        "COPY (SELECT 1) TO 'x.csv'",
        "SELECT * FROM '/etc/passwd'",
        "DROP VIEW particle_table",
        "SELEC",
    ):
        done = run("query", sql)
        assert done.returncode == 1, sql
        assert len(done.stderr.strip().splitlines()) == 1


def test_query_writes_the_file_that_is_asked_for(run, tmp_path: Path):
    for suffix in ("csv", "parquet", "xlsx"):
        done = run("query", "SELECT 1 AS n", "--out", tmp_path / f"answer.{suffix}")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"answer.{suffix}").stat().st_size > 0


def test_settings_are_listed_with_their_origin(run, tmp_path: Path):
    rows = {row["setting"]: row for row in json.loads(run("settings", "--json").stdout)}
    assert rows["TEM_DATA_ROOT"]["value"] == str(tmp_path / "data")
    assert rows["TEM_DATA_ROOT"]["origin"] == "environment"
    assert rows["TEM_TILE_PX"]["origin"] == "default"


def test_training_without_a_set_says_where_sets_lie(run, tmp_path: Path):
    done = run("train", "nothing", "--profile", "quick")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "annotated" in done.stderr


def test_a_faulty_set_is_one_line_that_names_the_fault(run, tmp_path: Path):
    from PIL import Image

    folder = tmp_path / "set"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "images/a.png")
    done = run("train", folder, "--profile", "quick")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "mask" in done.stderr


def test_segmenting_without_a_model_says_to_train_one(run, tmp_path: Path):
    done = run("segment", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "train" in done.stderr


def test_segmenting_a_file_loads_nothing_that_it_does_without(tmp_path: Path):
    lay_model(tmp_path / "model", "threshold")
    image = np.random.default_rng(0).normal(1000, 30, (128, 128)).astype(np.uint16)
    image[40:60, 40:60] = image[60:80, 56:76] = 500
    tifffile.imwrite(tmp_path / "image.tif", image, imagej=True, resolution=(10, 10), metadata={"unit": "nm"})
    program = (
        "import sys; from tem_pipeline.cli import app;"
        "app(['segment', 'image.tif', '--model', 'model', '--out', 'out'], standalone_mode=False);"
        "print({'matplotlib', 'scipy.stats', 'scipy.optimize', 'tensorflow', 'keras', 'mlflow', 'dagster',"
        " 'duckdb', 'jinja2', 'h5py', 'dask', 'mrcfile', 'imageio', 'hypothesis'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
    assert (tmp_path / "out/image_overlay.png").exists()
    assert pq.read_metadata(tmp_path / "out/particle_table.parquet").num_rows > 0


def test_a_model_is_found_before_what_tables_bars_and_training_need_is_loaded():
    program = (
        "import sys, tem_pipeline.cli, tem_pipeline.tracking;"
        "print({'pandas', 'rich', 'tem_pipeline.training.fitting'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_help_is_the_same_from_the_installed_command():
    command = [str(Path(sys.executable).parent / "tem-pipeline"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    for name in ("demo", "simulate", "train", "evaluate", "process", "segment", "info", "query", "settings"):
        assert name in done.stdout
