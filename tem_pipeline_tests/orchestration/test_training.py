from dataclasses import replace
from pathlib import Path

import pytest

from tem_pipeline import tracking
from tem_pipeline.orchestration.training_run import train_sets
from tem_pipeline.segmentation.models import ModelCard, read_card, write_card
from tem_pipeline.settings import Settings, load_settings
from tem_pipeline.simulation.sessions import simulate_annotated_set
from tem_pipeline.storage import Layout, layout_of
from tem_pipeline.training.fitting import PROFILES


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A laboratory with a small annotated set and a quick profile that takes seconds."""
    for name in ("data", "models"):
        monkeypatch.setenv(f"TEM_{name.upper()}_ROOT", str(tmp_path / name))
    monkeypatch.setenv("TEM_PRETRAINED_MODEL", str(tmp_path / "pretrained"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    tiny = {"base_width": 4, "crop_px": 64, "augmented_images": 16, "steps": 4, "epoch_steps": 2, "batch": 4}
    for name, width in (("quick", 4), ("standard", 6)):
        monkeypatch.setitem(PROFILES, name, replace(PROFILES[name], **{**tiny, "base_width": width}))
    load_settings.cache_clear()
    layout = layout_of(load_settings())
    simulate_annotated_set(Path(str(layout.annotated / "small")), images=8, size=96)
    yield layout
    load_settings.cache_clear()


def parameters(card: ModelCard, layout: Layout) -> dict[str, str]:
    import mlflow

    return mlflow.MlflowClient(tracking.store_of(Settings(), layout).uri).get_run(card.run_id).data.params


def test_a_training_from_the_pretrained_model_has_its_width_and_the_first_model_is_champion(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
):
    train_sets(["small"], "quick", ["dice"])
    first = read_card(layout.champion)
    assert (first.base_width, first.version, first.pixel_size_nm) == (4, "1", pytest.approx((0.1, 0.1)))
    Path(str(layout.champion)).rename(str(layout.pretrained))
    # Another laboratory, which has no champion.
    monkeypatch.setenv("TEM_MODELS_ROOT", f"{layout.models_root}_of_others")
    load_settings.cache_clear()
    layout = layout_of(load_settings())
    elsewhere = ("an image of the pretraining",)
    write_card(layout.pretrained, replace(first, name="pretrained", version="9", training_images=elsewhere))
    train_sets(["small"], "standard", ["dice"], start_from="pretrained")
    card = read_card(layout.champion)
    assert (card.name, card.version, card.base_width) == ("tem_segmentation", "1", 4)
    assert set(elsewhere) < set(card.training_images)
    logged = parameters(card, layout)
    assert (logged["base_width"], logged["start_from"]) == ("4", "pretrained")
    assert logged["start_weights_sha256"] == first.weights_sha256
    assert "pretrained version 9" in logged["start_remark"]
    assert "base width 4, not the plan's, ds_unet of base width 6" in logged["start_remark"]
