import os
import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation, installation_of
from tem_pipeline.orchestration import io_managers
from tem_pipeline.orchestration.assets import training
from tem_pipeline.orchestration.launch import open_instance, run_job
from tem_pipeline.orchestration.resources import TrainingLock
from tem_pipeline.orchestration.training_run import train_sets
from tem_pipeline.segmentation.models import read_card, write_card
from tem_pipeline.settings import PROJECT_ROOT, Settings
from tem_pipeline.simulation.sessions import simulate_annotated_set
from tem_pipeline.storage import read_table, training_lock, write_table
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


def test_every_training_asset_holds_the_lock_of_the_training_tables(definitions: dg.Definitions):
    graph = definitions.resolve_asset_graph()
    found = {
        key.to_user_string(): "training_lock" in graph.get(key).assets_def.required_resource_keys
        for key in graph.get_all_asset_keys()
        if graph.get(key).is_materializable
    }
    assert found == {key: key.startswith("training/") for key in found}


def test_a_training_waits_for_the_one_that_is_under_way(platform, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training_lock.__wrapped__, "__defaults__", (0.1,))  # type: ignore[attr-defined]
    context = dg.build_init_resource_context()
    with training_lock(platform.layout):
        started = time.monotonic()
        with (
            pytest.raises(UserError, match="the training tables are being written by somebody else"),
            TrainingLock(platform=platform).yield_for_execution(context),
        ):
            pass
        assert time.monotonic() - started >= 0.1
    with TrainingLock(platform=platform).yield_for_execution(context):
        pass


def made_long_ago(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"former")
    os.utime(path, (0, 0))
    return path


def make_crops(laboratory: Installation) -> None:
    assets = ["training/annotated_images", "training/augmented_dataset"]
    plan = {"training_plan": {"sets": ["small"], "profile": "quick"}}
    run_job(laboratory, "train_models", assets=assets, resources=plan)


def test_the_crops_of_the_former_table_stay_until_a_new_one_is_written(
    laboratory: Installation, monkeypatch: pytest.MonkeyPatch
):
    folder = Path(str(laboratory.layout.partition("training/augmented_dataset")))
    former, unnamed = made_long_ago(folder / "former.parquet"), made_long_ago(folder / "unnamed.parquet")
    table = laboratory.layout.table("training/augmented_dataset")
    write_table(table, pd.DataFrame({"shard_file": [former.name]}))
    full_disk = [UserError("the disk is full")]

    def write(target, written) -> None:
        if target == table and full_disk:
            raise full_disk.pop()
        write_table(target, written)

    monkeypatch.setattr(io_managers, "write_table", write)
    with pytest.raises(UserError, match="the disk is full"):
        make_crops(laboratory)
    assert former.exists()
    make_crops(laboratory)
    assert former.exists()  # a reader of the former table may still open it
    assert not unnamed.exists()
    made_long_ago(former)
    make_crops(laboratory)
    assert not former.exists()


def test_the_figure_of_the_former_comparison_stays(platform, monkeypatch: pytest.MonkeyPatch):
    reports = Path(str(platform.layout.reports)) / "loss_comparison"
    former, unnamed = (
        made_long_ago(reports / "figure_4-former.png"),
        made_long_ago(reports / "figure_4-unnamed.png"),
    )
    write_table(platform.layout.table("training/loss_comparison"), pd.DataFrame({"figure": [former.name]}))
    compared = pd.DataFrame([dict.fromkeys([*training.COMPARED, "dice_low", "dice_high"], 0.5)])
    compared = compared.assign(loss="dice", images=1)
    monkeypatch.setattr(training, "compare_losses", lambda *arguments: (compared, Figure()))
    training.loss_comparison(
        platform=platform, training_lock=TrainingLock(platform=platform), annotated_images=pd.DataFrame()
    )
    assert former.exists()
    assert not unnamed.exists()


def test_runs_of_the_command_line_count_on_the_pages_of_dagster(laboratory: Installation):
    make_crops(laboratory)
    location = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())["load_from"][0]
    module = location["python_module"]["module_name"]
    with open_instance(laboratory) as instance:
        # Home, timeline and the pages of jobs ask for this tag and this origin.
        shown = instance.get_runs(dg.RunsFilter(tags={".dagster/repository": f"__repository__@{module}"}))
        assert [run.job_name for run in shown] == ["train_models"]
        origin = shown[0].remote_job_origin
        assert origin is not None
        assert origin.repository_origin.code_location_origin.location_name == module
        assert shown[0].tags["dagster/max_retries"] == "0"
