"""The command line without a model: exit status, one line per failure, nothing but JSON on stdout."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tifffile
import typer

from tem_pipeline import __version__, cli
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.simulation.imaging import Imaging
from tem_pipeline.simulation.specimens import Population
from tem_pipeline.tables import LOSSES
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


@pytest.mark.parametrize("command", ["info", "process", "segment"])
def test_errors_never_send_control_characters_to_the_terminal(run, tmp_path: Path, command: str):
    lay_model(tmp_path / "model", "threshold")
    segmenting = ("--out", tmp_path / "out", "--model", tmp_path / "model") if command == "segment" else ()
    done = run(command, "gone\x1b[31m.tif", *segmenting)
    assert done.returncode == 1
    assert "gone\ufffd[31m" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


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


@pytest.mark.parametrize(
    ("suffix", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet), ("xlsx", pd.read_excel)]
)
def test_query_writes_its_result_into_the_named_file(run, tmp_path: Path, suffix: str, read):
    sql = "SELECT * FROM (VALUES (1, 'a', 0.5), (2, 'b', 1.5)) AS v(n, name, share) ORDER BY n"
    file = tmp_path / f"answer.{suffix}"
    done = run("query", sql, "--out", file)
    assert (done.returncode, done.stdout.strip()) == (0, str(file)), done.stderr
    expected = pd.DataFrame({"n": [1, 2], "name": ["a", "b"], "share": [0.5, 1.5]})
    pd.testing.assert_frame_equal(read(file), expected, check_dtype=False)


def test_settings_are_listed_with_their_origin(run, tmp_path: Path):
    rows = {row["setting"]: row for row in json.loads(run("settings", "--json").stdout)}
    assert rows["TEM_DATA_ROOT"]["value"] == str(tmp_path / "data")
    assert rows["TEM_DATA_ROOT"]["origin"] == "environment"
    assert rows["TEM_TILE_PX"]["origin"] == "default"


def test_training_without_a_set_names_the_folder_of_sets(run, tmp_path: Path):
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


def test_absurd_values_are_one_line_and_exit_status_1(run, tmp_path: Path):
    lay_model(tmp_path / "model", "threshold")
    image = np.random.default_rng(0).normal(1, 0.03, (64, 64))
    tifffile.imwrite(tmp_path / "absurd.tif", image * 1e42)
    tifffile.imwrite(tmp_path / "plain.tif", image.astype(np.float32))
    done = run("segment", "absurd.tif", "plain.tif", "--model", tmp_path / "model", "--out", "out")
    assert done.returncode == 1
    assert "1 image segmented" in done.stdout
    assert done.stderr == "tem-pipeline: absurd.tif: its values are too large: export it again\n"
    assert (tmp_path / "out/plain_labels.tif").exists()


def test_segmenting_a_file_loads_no_library_that_it_does_not_need(tmp_path: Path):
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
    assert done.stdout.splitlines()[-1] == "set()"
    assert (tmp_path / "out/image_overlay.png").exists()
    assert pq.read_metadata(tmp_path / "out/particle_table.parquet").num_rows > 0


def test_the_command_line_starts_without_the_libraries_of_its_commands():
    program = (
        "import sys, tem_pipeline.cli, tem_pipeline.tracking.champion;"
        "print({'pandas', 'rich', 'openvino', 'mlflow', 'dagster', 'tem_pipeline.training.fitting'}"
        " & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def parameters() -> Iterator[tuple[str, Any]]:
    """Give every argument and option of every command, with the name of its command."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert command.help, name
        yield from ((name, parameter) for parameter in command.params if parameter.name != "help")


def test_every_argument_and_option_has_a_help_text_and_a_default():
    told = list(parameters())
    assert len(told) > 30
    for command, parameter in told:
        what = f"{command} {parameter.name}"
        assert parameter.help, what
        has_default = parameter.default is not None or isinstance(parameter.show_default, str)
        assert parameter.required or has_default, f"{what}: neither required nor a default"
        unit = {"size": "px", "dose": "per pixel"}.get(parameter.name) or (
            "nm" if parameter.name.endswith("_nm") else ""
        )
        assert unit in parameter.help, f"{what}: no unit"


def test_the_defaults_told_for_a_simulation_are_the_simulators():
    told = {parameter.name: parameter.show_default for name, parameter in parameters() if name == "simulate"}
    population = Population()
    assert float(told["dose"]) == Imaging().dose
    assert float(told["mean_nm"]) == population.mean_nm
    share = population.sd_nm / population.mean_nm
    assert float(told["sd_nm"].split()[0]) == pytest.approx(share, abs=5e-4)


def test_an_unknown_loss_is_wrong_usage_that_names_the_losses(run):
    done = run("train", "nothing", "--loss", "hinge")
    assert done.returncode == 2
    assert all(name in " ".join(done.stderr.split()) for name in ("hinge", *LOSSES))


def test_the_version_is_told(run):
    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_the_installed_command_has_the_same_help_as_the_module():
    def helped(*program: str) -> tuple[str, str]:
        done = subprocess.run(
            [*program, "--help"], capture_output=True, text=True, cwd=PROJECT_ROOT, check=True
        )
        usage, _, rest = done.stdout.partition("Usage:")[2].partition("\n")
        return usage.strip(), rest

    installed = str(Path(sys.executable).parent / "tem-pipeline")
    for command in ([], ["segment"]):
        usage, described = helped(installed, *command)
        assert usage.startswith(" ".join(["tem-pipeline", *command]))
        assert described == helped(sys.executable, "-m", "tem_pipeline.cli", *command)[1]
    described = helped(installed)[1]
    assert all(name in described for name in typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


def test_every_command_can_work_on_what_the_demo_made(run, tmp_path: Path):
    done = run("sessions", "--demo")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tem-pipeline: there is no demo yet: run `tem-pipeline demo` or `make demo` first\n"
    session = tmp_path / "data/demo/incoming/demo_session"
    session.mkdir(parents=True)
    tifffile.imwrite(session / "a.tif", np.zeros((8, 8), np.uint8))
    for command in (["sessions", "--demo"], ["--demo", "sessions"]):
        done = run(*command)
        assert (done.returncode, done.stdout.split()[0]) == (0, "demo_session"), done.stderr
    rows = {row["setting"]: row for row in json.loads(run("--demo", "settings", "--json").stdout)}
    assert rows["TEM_DATA_ROOT"]["value"] == str(tmp_path / "data/demo")
    assert rows["TEM_DATA_ROOT"]["origin"] == "--demo"
    assert rows["TEM_TILE_PX"]["origin"] == "default"


def test_info_of_a_folder_lists_its_images_and_no_notes(run, tmp_path: Path):
    session = tmp_path / "a session"
    session.mkdir()
    (session / "session.yaml").write_text("pixel_size_nm: 0.25")
    (session / "notes.txt").write_text("cloudy")
    (session / "broken.dm3").write_text("no micrograph")
    tifffile.imwrite(session / "image.tif", np.arange(64, dtype=np.uint16).reshape(8, 8))
    done = run("info", session)
    assert done.returncode == 0, done.stderr
    assert "image.tif: 8 × 8 px, 0.25 × 0.25 nm per pixel (session)" in done.stdout
    assert "broken.dm3: refused" in done.stdout
    given = run("info", "--json", *sorted(session.iterdir()))
    files = [Path(entry["file"]).name for entry in json.loads(given.stdout)["files"]]
    assert files == ["broken.dm3", "image.tif"]
    (tmp_path / "empty").mkdir()
    assert run("info", tmp_path / "empty").returncode == 1
    assert "refused" in run("info", session / "notes.txt").stdout


def test_a_wide_table_is_cut_for_a_terminal_and_columns_can_be_chosen(run):
    sql = "SELECT * FROM particle_table"
    assert "no rows; columns: session, sample_id, image_id, label, " in run("query", sql).stdout
    assert len(run("query", sql, "--format", "csv").stdout.split(",")) > 50
    assert run("query", sql, "--columns", "label,mode", "--format", "csv").stdout.strip() == "label,mode"
    wrong = run("query", sql, "--columns", "lable")
    assert wrong.returncode == 1
    assert "did you mean label" in wrong.stderr


def test_forgetting_needs_a_yes_and_a_known_session(run, tmp_path: Path):
    report = tmp_path / "data/reports/a/index.html"
    report.parent.mkdir(parents=True)
    report.write_text("page")
    asked = run("forget", "a")
    assert asked.returncode == 1
    assert asked.stderr == "tem-pipeline: session a: nothing was removed; confirm with --yes\n"
    assert report.exists()
    assert run("forget", "a", "--yes").returncode == 0
    assert not report.exists()
    assert run("forget", "a", "--yes").returncode == 1


def test_setting_an_unknown_champion_is_one_line(run):
    done = run("champion", "3")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert run("champion", "best").returncode == 2
