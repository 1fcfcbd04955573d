from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tem_pipeline import model_comparison, model_training
from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation, installation_of
from tem_pipeline.segmentation.models import read_card, write_card
from tem_pipeline.settings import Settings
from tem_pipeline.storage import write_table
from tem_pipeline_tests.orchestration.conftest import lay_model

PRESENT, FORMER = "1" * 64, "2" * 64


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return installation_of(Settings(data_root=str(tmp_path / "data"), models_root=str(tmp_path / "models")))


def test_no_model_is_trained_on_crops_of_other_annotated_images(installation: Installation):
    catalogue = pd.DataFrame({"dataset_hash": [PRESENT], "part": ["training"]})
    crops = pd.DataFrame({"dataset_hash": [FORMER], "profile": ["quick"], "shard_file": ["x"]})
    with pytest.raises(UserError, match="materialise augmented_dataset again") as raised:
        model_training.prepare_training(installation, catalogue, crops, "dice")
    assert FORMER[:12] in str(raised.value)
    assert PRESENT[:12] in str(raised.value)


@pytest.mark.parametrize("changed", [{"run_id": "another"}, {"dataset_hash": FORMER}])
@pytest.mark.parametrize("use", [model_comparison.compare_losses, model_comparison.choose_champion])
def test_a_model_of_another_store_is_not_taken_for_the_trained_one(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use, changed: dict
):
    """After a change of TEM_MODELS_ROOT the number of the version names another model."""
    lay_model(tmp_path / "model", "tem_segmentation")
    card = replace(read_card(tmp_path / "model"), run_id="run", dataset_hash=PRESENT)
    write_card(tmp_path / "model", replace(card, **changed))
    row = {"loss": "dice", "model_version": "1", "run_id": "run", "dataset_hash": PRESENT}
    table = pd.DataFrame([{**row, "validation_dice": 0.9}])
    write_table(installation.layout.table("training/model_dice"), table)
    monkeypatch.setattr(model_comparison.champion, "fetch_version", lambda store, version: tmp_path / "model")
    with pytest.raises(UserError, match="is not the model of the table training/model_dice"):
        use(installation, pd.DataFrame({"dataset_hash": [PRESENT], "part": ["test"]}))
