import traceback
from pathlib import Path

import pandas as pd
import pytest

from tem_pipeline.demo import demo_installation
from tem_pipeline.errors import UserError
from tem_pipeline.installation import installation_of
from tem_pipeline.orchestration.resources import platform_of
from tem_pipeline.settings import PROJECT_ROOT, Settings, load_settings, resolve_root, settings_table
from tem_pipeline.storage import layout_of, read_table, write_table
from tem_pipeline.tracking.champion import champion_version


def test_relative_roots_are_below_the_project_from_any_folder(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert Path(str(resolve_root("data"))) == PROJECT_ROOT / "data"
    assert Path(str(resolve_root(str(tmp_path)))) == tmp_path


def test_tables_can_be_kept_on_another_file_system():
    layout = layout_of(Settings(data_root="memory://laboratory/data"))
    table = layout.table("particle_table", "s")
    assert not table.exists()
    write_table(table, pd.DataFrame({"area_px": [3]}))
    assert str(table) == "memory://laboratory/data/lake/particle_table/session=s/part-0.parquet"
    assert read_table(table)["area_px"].tolist() == [3]
    table.unlink()
    assert not list(PROJECT_ROOT.glob("memory*"))


def test_without_a_setting_dagster_keeps_its_records_in_the_project(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert installation_of(load_settings()).dagster_home == PROJECT_ROOT / ".dagster"
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert installation_of(load_settings()).dagster_home == tmp_path


def test_the_demo_has_its_own_folders_and_the_embedded_store(tmp_path: Path):
    laboratory = Settings(
        data_root=str(tmp_path / "data"),
        models_root=str(tmp_path / "models"),
        dagster_home=str(tmp_path / "dagster"),
        mlflow_tracking_uri="http://mlflow.example",
    )
    demo = demo_installation(laboratory)
    assert Path(str(demo.layout.data_root)) == tmp_path / "data/demo"
    assert Path(str(demo.layout.models_root)) == tmp_path / "models/demo"
    assert demo.dagster_home == tmp_path / "dagster/demo"
    assert demo.store.database == tmp_path / "models/demo/mlflow/mlflow.db"
    assert not list(tmp_path.iterdir())


def test_a_run_works_in_the_folders_of_its_installation(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("TEM_DATA_ROOT", str(tmp_path / "other"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    own = Settings(data_root=str(tmp_path / "own"), mlflow_tracking_uri=None)
    given = platform_of(installation_of(own)).installation
    assert Path(str(given.layout.data_root)) == tmp_path / "own"
    assert given.store == installation_of(own).store


def test_the_pretrained_model_does_not_follow_the_models_root(monkeypatch, tmp_path: Path):
    monkeypatch.delenv("TEM_PRETRAINED_MODEL")
    monkeypatch.setenv("TEM_MODELS_ROOT", str(tmp_path / "models"))
    layout = layout_of(load_settings())
    assert Path(str(layout.champion)) == tmp_path / "models/champion"
    assert Path(str(layout.pretrained)) == PROJECT_ROOT / "models/pretrained"


def test_the_environment_wins_and_is_named_as_the_origin(monkeypatch):
    monkeypatch.setenv("TEM_TILE_PX", "256")
    rows = {row["setting"]: row for row in settings_table(load_settings())}
    assert rows["TEM_TILE_PX"]["value"] == "256"
    assert rows["TEM_TILE_PX"]["origin"] == "environment"
    assert rows["TEM_TILE_OVERLAP_PX"]["origin"] == "default"


def test_settings_shared_with_dagster_and_mlflow_keep_their_names(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    rows = {row["setting"]: row for row in settings_table(load_settings())}
    assert rows["MLFLOW_TRACKING_URI"]["value"] == "http://mlflow.example"
    assert rows["DAGSTER_HOME"]["origin"] == "environment"


def test_a_wrong_setting_is_one_line_that_names_it(monkeypatch):
    monkeypatch.setenv("TEM_TILE_PX", "100")
    with pytest.raises(UserError, match=r"TEM_TILE_PX.*16"):
        load_settings()


@pytest.mark.parametrize("name", ["TEM_DATA_ROOT", "TEM_MODELS_ROOT", "TEM_PRETRAINED_MODEL"])
@pytest.mark.parametrize("root", ["memory://lab", "s3://bucket/data", "foo://x", "simplecache::s3://b"])
def test_a_root_that_is_no_folder_is_refused_at_once(monkeypatch, name: str, root: str):
    monkeypatch.setenv(name, root)
    with pytest.raises(UserError, match=f"{name}={root}: .*mount the store"):
        load_settings()


def test_a_root_given_as_a_file_address_is_that_folder(tmp_path: Path):
    assert Path(str(resolve_root(tmp_path.as_uri()))) == tmp_path


@pytest.mark.parametrize("home", [".dagster", "~/dagster", "a/../b"])
def test_a_dagster_home_that_dagster_refuses_is_refused_at_once(monkeypatch, home: str):
    monkeypatch.setenv("DAGSTER_HOME", home)
    with pytest.raises(UserError, match=f"DAGSTER_HOME={home}: must be an absolute path.*use /"):
        load_settings()


@pytest.mark.parametrize("name", ["50%", "a%20b", "what?"])
def test_a_models_root_that_mlflow_cannot_use_is_refused_at_once(monkeypatch, tmp_path: Path, name: str):
    monkeypatch.setenv("TEM_MODELS_ROOT", str(tmp_path / name))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"TEM_MODELS_ROOT=.*name another folder"):
        installation_of(load_settings())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    installation_of(load_settings())


def test_no_password_is_shown_in_settings_errors_and_resources(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:se@cret@mlflow.example:5000/x")
    monkeypatch.setenv("TEM_WEBHOOK_URL", "https://hooks.example/services/T0/secret")
    settings = load_settings()
    rows = {row["setting"]: row["value"] for row in settings_table(settings)}
    assert rows["MLFLOW_TRACKING_URI"] == "https://***@mlflow.example:5000/x"
    assert rows["TEM_WEBHOOK_URL"] == "https://hooks.example/***"
    installation = installation_of(settings)
    assert "cret" not in str(UserError(f"MLflow store {installation.store.uri}: no answer"))
    assert "cret" not in repr(installation.store)
    platform = platform_of(installation)
    assert "cret" not in repr(platform.model_dump())
    assert platform.store == installation.store


@pytest.mark.parametrize(
    "uri", ["http://ada:secret@127.0.0.1:9", "postgresql://ada:secret@127.0.0.1:9/mlflow"]
)
def test_no_password_is_in_the_error_of_a_store_that_is_away(tmp_path: Path, uri: str):
    settings = Settings(models_root=str(tmp_path), mlflow_tracking_uri=uri)
    with pytest.raises(UserError) as failed:
        champion_version(installation_of(settings).store)
    shown = "".join(traceback.format_exception(failed.value))
    assert "secret" not in shown, shown
    assert "***@127.0.0.1:9" in str(failed.value)
