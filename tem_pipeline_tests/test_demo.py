import os
from pathlib import Path

import pytest

from tem_pipeline import demo
from tem_pipeline.demo import MARKER, _start_afresh, run_demo
from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation
from tem_pipeline.orchestration import session_run, training_run
from tem_pipeline.settings import Settings


def laboratory(root: Path) -> Settings:
    return Settings(
        data_root=str(root / "data"),
        models_root=str(root / "models"),
        dagster_home=str(root / "homes" / "demo"),
        mlflow_tracking_uri=None,
    )


@pytest.mark.parametrize("own", ["data/demo", "models/demo", "homes/demo/demo"])
def test_the_demo_refuses_a_folder_that_it_did_not_make(tmp_path: Path, own: str):
    kept = tmp_path / own / "kept.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("a laboratory's")
    with pytest.raises(UserError, match=r"the demo did not make this") as refused:
        run_demo(laboratory(tmp_path))
    assert str(refused.value).startswith(f"{tmp_path / own}: ")
    assert kept.read_text() == "a laboratory's"


def test_a_dagster_home_called_demo_is_never_removed(tmp_path: Path, monkeypatch):
    records = tmp_path / "homes" / "demo" / "history"
    records.mkdir(parents=True)
    (tmp_path / "data" / "demo").mkdir(parents=True)
    (tmp_path / "data" / "demo" / "mine").touch()
    with pytest.raises(UserError, match="did not make this"):
        run_demo(laboratory(tmp_path))
    assert records.is_dir()


def test_the_demo_empties_only_what_an_earlier_demo_made(tmp_path: Path):
    folders = [tmp_path / "data" / "demo", tmp_path / "models" / "demo"]
    _start_afresh(folders)
    (folders[0] / "old.txt").touch()
    _start_afresh(folders)
    assert [path.name for folder in folders for path in folder.iterdir()] == [MARKER, MARKER]
    (folders[1] / MARKER).unlink()
    (folders[1] / "mine.txt").touch()
    (folders[0] / "new.txt").touch()
    with pytest.raises(UserError, match="did not make this"):
        _start_afresh(folders)
    assert (folders[0] / "new.txt").exists()


def test_the_demo_follows_no_link_to_a_folder_elsewhere(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / MARKER).touch()
    (tmp_path / "demo").symlink_to(elsewhere)
    with pytest.raises(UserError, match="did not make this"):
        _start_afresh([tmp_path / "demo"])
    assert (elsewhere / MARKER).exists()


def test_no_step_of_the_demo_changes_the_environment(tmp_path: Path, monkeypatch, capsys):
    before = dict(os.environ)
    seen = []

    def step(installation: Installation, *given: object, **options: object) -> str:
        seen.append((str(installation.layout.data_root), dict(os.environ)))
        return ""

    monkeypatch.setattr(training_run, "train_sets", step)
    monkeypatch.setattr(session_run, "process_session", step)
    monkeypatch.setattr(demo, "_compare", lambda layout, truth: "")
    monkeypatch.setattr(demo, "ANNOTATED_IMAGES", 1)
    monkeypatch.setattr(demo, "IMAGES_PER_FORMAT", 1)
    run_demo(laboratory(tmp_path))
    assert seen == [(str(tmp_path / "data/demo"), before)] * 2
    assert dict(os.environ) == before
