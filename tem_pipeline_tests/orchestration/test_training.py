from dataclasses import replace
from pathlib import Path

import pytest

from tem_pipeline.installation import Installation, installation_of
from tem_pipeline.orchestration.training_run import train_sets
from tem_pipeline.segmentation.models import read_card, write_card
from tem_pipeline.settings import Settings
from tem_pipeline.simulation.sessions import simulate_annotated_set
from tem_pipeline.storage import read_table
from tem_pipeline.training.fitting import PROFILES


@pytest.fixture
def laboratory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Installation:
    """An installation with a small annotated set and profiles that take seconds."""
    tiny = {"base_width": 4, "crop_px": 64, "augmented_images": 16, "steps": 4, "epoch_steps": 2, "batch": 4}
    for name, width in (("quick", 4), ("standard", 6)):
        monkeypatch.setitem(PROFILES, name, replace(PROFILES[name], **{**tiny, "base_width": width}))
    installation = installation_of(
        Settings(
            data_root=str(tmp_path / "data"),
            models_root=str(tmp_path / "models"),
            pretrained_model=str(tmp_path / "pretrained"),
            dagster_home=str(tmp_path / "dagster"),
        )
    )
    simulate_annotated_set(Path(str(installation.layout.annotated / "small")), images=8, size=96)
    return installation


def test_a_training_logs_its_scores_and_writes_them_into_the_card(laboratory: Installation):
    import mlflow

    said = train_sets(laboratory, ["small"], "quick", ["dice"])
    card = read_card(laboratory.layout.champion)
    run = mlflow.MlflowClient(laboratory.store.uri).get_run(card.run_id)
    assert card.validation_scores.keys() == {"accuracy", "mean_iou", "dice", "iou"}
    logged = {name: run.data.metrics[f"best_val_{name}"] for name in card.validation_scores}
    assert logged == pytest.approx(card.validation_scores)
    assert run.data.metrics.get("best_val_diameter_error") == card.diameter_error
    assert run.data.params["training_images"] == str(len(card.training_images))
    row = read_table(laboratory.layout.table("training/model_dice")).iloc[0]
    assert (row["run_id"], row["validation_dice"]) == (card.run_id, card.validation_scores["dice"])
    assert "champion: models:/tem_segmentation/1 (dice)" in said


def test_training_from_the_pretrained_model_keeps_its_width(laboratory: Installation, tmp_path: Path):
    train_sets(laboratory, ["small"], "quick", ["dice"])
    first = read_card(laboratory.layout.champion)
    assert (first.base_width, first.version, first.pixel_size_nm) == (4, "1", pytest.approx((0.1, 0.1)))
    Path(str(laboratory.layout.champion)).rename(tmp_path / "pretrained")
    # Another laboratory with the same images, which has no champion.
    others = installation_of(laboratory.settings.model_copy(update={"models_root": str(tmp_path / "others")}))
    seen_before = ("an image of the pretraining",)
    card = replace(first, name="pretrained", version="9", training_images=seen_before)
    write_card(others.layout.pretrained, card)
    train_sets(others, ["small"], "standard", ["dice"], start_from="pretrained")
    card = read_card(others.layout.champion)
    assert (card.name, card.version, card.base_width) == ("tem_segmentation", "1", 4)
    assert set(seen_before) < set(card.training_images)
    import mlflow

    logged = mlflow.MlflowClient(others.store.uri).get_run(card.run_id).data.params
    assert (logged["base_width"], logged["start_from"]) == ("4", "pretrained")
    assert logged["start_weights_sha256"] == first.weights_sha256
    assert "pretrained version 9" in logged["start_remark"]
    assert "base width 4, not the plan's, ds_unet of base width 6" in logged["start_remark"]
