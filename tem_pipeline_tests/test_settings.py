from pathlib import Path

import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.settings import PROJECT_ROOT, load_settings, resolve_root, settings_table
from tem_pipeline.storage import layout_of


@pytest.fixture(autouse=True)
def fresh_settings():
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


def test_relative_roots_lie_below_the_project_whatever_the_working_directory(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert Path(str(resolve_root("data"))) == PROJECT_ROOT / "data"
    assert Path(str(resolve_root(str(tmp_path)))) == tmp_path


def test_a_root_may_be_elsewhere_than_on_this_machine():
    assert str(resolve_root("memory://lake/data")) == "memory://lake/data"


def test_the_pretrained_model_lies_in_the_project_whatever_the_models_root(monkeypatch, tmp_path: Path):
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


def test_a_wrong_setting_is_one_line_that_names_it(monkeypatch):
    monkeypatch.setenv("TEM_TILE_PX", "100")
    with pytest.raises(UserError, match=r"TEM_TILE_PX.*16"):
        load_settings()
