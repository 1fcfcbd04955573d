"""What the command line does before and after a run of Dagster."""

from pathlib import Path

import pandas as pd
import pytest
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.sessions import session_fingerprint
from tem_pipeline.orchestration.session_run import _refuse_taken_key
from tem_pipeline.orchestration.training_run import summarise_training
from tem_pipeline.storage import Layout, mark_fingerprint, write_table
from tem_pipeline.tables import MANIFEST_SCHEMA
from tem_pipeline.training.metrics import SCORES


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(UPath(tmp_path / "data"), UPath(tmp_path / "models"))


def session(folder: Path, text: str = "sample_id: a") -> Path:
    folder.mkdir(parents=True)
    (folder / "session.yaml").write_text(text)
    return folder


def record(layout: Layout, key: str, folder: Path, content: Path) -> None:
    row = dict.fromkeys(MANIFEST_SCHEMA.names) | {"session_id": key, "session_folder": str(folder)}
    table = MANIFEST_SCHEMA.empty_table().from_pylist([row], MANIFEST_SCHEMA)
    write_table(layout.table("raw_tem_images", key), mark_fingerprint(table, session_fingerprint(content)))


def test_a_session_behind_a_link_or_on_a_moved_root_is_itself(tmp_path: Path, layout: Layout):
    folder = session(tmp_path / "data" / "incoming" / "s")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for recorded in (folder, tmp_path / "link" / "incoming" / "s", Path("/gone/incoming/s")):
        record(layout, "s", recorded, folder)
        _refuse_taken_key(layout, "s", folder)
        linked = Layout(UPath(tmp_path / "link"), layout.models_root)
        _refuse_taken_key(linked, "s", folder)


def test_a_moved_folder_is_known_by_its_content(tmp_path: Path, layout: Layout):
    folder = session(tmp_path / "new" / "s")
    record(layout, "s", tmp_path / "old" / "s", folder)
    _refuse_taken_key(layout, "s", folder)
    (folder / "session.yaml").write_text("sample_id: b")
    with pytest.raises(UserError, match="was read from"):
        _refuse_taken_key(layout, "s", folder)


def test_a_comparison_with_one_test_source_has_no_interval(layout: Layout):
    scores = dict.fromkeys(SCORES, 0.9)
    row = {"loss": "dice", **scores, "dice_low": None, "dice_high": None, "images": 1, "sources": 1}
    write_table(layout.table("training/loss_comparison"), pd.DataFrame([row | {"figure": "figure.png"}]))
    champion = {"model_name": "m", "model_version": "1", "loss": "dice", "promoted": True, "reason": "first"}
    write_table(layout.table("training/champion_model"), pd.DataFrame([champion]))
    assert "none" in summarise_training(layout)
