import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from tem_pipeline import tracking
from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.models import load_model, read_card, write_card
from tem_pipeline.settings import Settings
from tem_pipeline.storage import Layout
from tem_pipeline.training.fitting import PROFILES, prepare_keras, train_network

TINY = replace(PROFILES["quick"], base_width=4, crop_px=32, steps=4, epoch_steps=2, batch=2)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    root = tmp_path_factory.mktemp("tracking")
    return Layout(UPath(root / "data"), UPath(root / "models"))


@pytest.fixture(scope="module")
def store(layout: Layout) -> tracking.ModelStore:
    return tracking.store_of(Settings(), layout)


@pytest.fixture(scope="module")
def versions(
    layout: Layout, store: tracking.ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Two tiny models in the registry."""
    prepare_keras(2)
    images = np.random.default_rng(0).normal(size=(4, 32, 32)).astype(np.float32)
    class_maps = (images > 1).astype(np.uint8)
    registered = []
    for seed in (0, 1):

        def train(log_epoch, seed=seed):
            return train_network(
                images,
                class_maps,
                [(images[0], class_maps[0])],
                classes=("background", "core"),
                loss="dice",
                profile=TINY,
                seed=seed,
                on_epoch=log_epoch,
            )

        card = tracking.log_training(
            store,
            train,
            parameters={"seed": seed},
            card={
                "loss": "dice",
                "network": "ds_unet",
                "base_width": 4,
                "classes": ("background", "core"),
                "dataset_hash": "abc",
            },
            staging=tmp_path_factory.mktemp("staging"),
            score=lambda folder: ({"dice": 0.5}, 0.013),
        )
        registered.append(card.version)
    return registered


def test_naming_a_store_to_mlflow_leaves_the_environment_to_the_person(store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.champion_version(store)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    tracking.champion_version(store)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:1"


def test_a_training_is_logged_with_metrics_an_epoch_and_both_forms_of_the_model(versions, store, monkeypatch):
    import mlflow

    client = mlflow.MlflowClient(store.uri)
    version = client.get_model_version(tracking.REGISTERED_MODEL, versions[0])
    assert version.tags["loss"] == "dice"
    assert version.run_id
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "0"
    assert len(client.get_metric_history(version.run_id, "val_dice")) == 2
    folder = tracking.fetch_version(store, versions[0])
    names = {path.name for path in (folder / read_card(folder).weights).iterdir()}
    assert names == {"model.keras", "model.xml", "model.bin"}
    assert read_card(folder).diameter_error == 0.013
    assert run.data.metrics["best_val_diameter_error"] == 0.013
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    mlflow.set_tracking_uri(store.uri)
    reloaded = mlflow.keras.load_model(f"models:/{tracking.REGISTERED_MODEL}/{versions[0]}")  # type: ignore[attr-defined]
    assert reloaded.count_params() > 0


def test_the_inference_form_answers_as_the_keras_form(versions, store):
    import keras

    folder = tracking.fetch_version(store, versions[0])
    model = load_model(folder, precision="f32")
    weights = folder / model.card.weights / "model.keras"
    reference = keras.models.load_model(weights, compile=False)
    tile = np.random.default_rng(1).normal(size=(48, 80)).astype(np.float32)
    expected = np.asarray(reference(tile[None, :, :, None]))[0]  # type: ignore[operator]
    assert np.abs(model.predict_tile(tile) - expected).max() < 2e-4


def test_tiles_predicted_two_at_a_time_are_those_predicted_one_by_one(versions, store):
    folder = tracking.fetch_version(store, versions[0])
    one, two = load_model(folder, 2), load_model(folder, 2, tiles_at_a_time=2)
    tiles = [np.random.default_rng(k).normal(size=(64, 80)).astype(np.float32) for k in range(12)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(two.predict_tile, tiles))
    assert all(
        np.array_equal(found, one.predict_tile(tile)) for found, tile in zip(together, tiles, strict=True)
    )


def test_two_threads_that_are_the_first_to_predict_do_not_wait_for_each_other(versions, store):
    folder = tracking.fetch_version(store, versions[0])
    program = (
        "import sys, numpy as np; from pathlib import Path;"
        "from concurrent.futures import ThreadPoolExecutor;"
        "from tem_pipeline.segmentation.models import load_model;"
        f"model = load_model(Path({str(folder)!r}), 2, tiles_at_a_time=2);"
        "sys.setswitchinterval(1e-6);"
        "pool = ThreadPoolExecutor(2);"
        "print(len(list(pool.map(model.predict_tile, [np.zeros((64, 64), np.float32)] * 6))))"
    )
    for _ in range(8):  # without what load_model does about it, one in eight hung
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "6"


def test_a_promotion_moves_the_alias_and_the_folder_together(versions, store, layout):
    for version in versions:
        tracking.promote(store, layout, version)
        assert tracking.champion_version(store) == version
        assert read_card(layout.champion).version == version
        load_model(layout.champion)


def test_a_champion_folder_that_fell_behind_the_alias_is_written_anew(versions, store, layout):
    tracking.promote(store, layout, versions[1])
    stale = read_card(tracking.fetch_version(store, versions[0]))
    write_card(layout.champion, stale)
    assert tracking.check_champion(store, layout).version == versions[1]
    assert read_card(layout.champion).version == versions[1]


def test_a_champion_folder_without_a_registry_is_taken_as_it_is(versions, store, layout, tmp_path: Path):
    tracking.promote(store, layout, versions[0])
    elsewhere = Layout(UPath(tmp_path / "data"), UPath(tmp_path / "models"))
    tracking._lay_weights(Path(str(layout.champion)), elsewhere.champion, read_card(layout.champion))
    write_card(elsewhere.champion, read_card(layout.champion))
    found = tracking.check_champion(tracking.store_of(Settings(), elsewhere), elsewhere)
    assert found.version == versions[0]


def test_references_name_models_or_say_how_models_are_named(versions, store, layout):
    folder = tracking.resolve_model(f"models:/{tracking.REGISTERED_MODEL}/{versions[0]}", store, layout)
    assert read_card(folder).version == versions[0]
    assert tracking.resolve_model("champion", store, layout) == layout.champion
    with pytest.raises(UserError, match="VERSION a number"):
        tracking.resolve_model("models:/tem_segmentation/latest", store, layout)
    with pytest.raises(UserError, match="MLflow store"):
        tracking.resolve_model(f"models:/{tracking.REGISTERED_MODEL}/999", store, layout)


def test_a_training_that_fails_leaves_a_failed_run_and_no_version(versions, store, tmp_path: Path):
    import mlflow

    def train(log_epoch):
        raise ValueError("out of memory")

    card = {"loss": "dice", "network": "ds_unet", "base_width": 4, "classes": ("core",), "dataset_hash": "x"}
    with pytest.raises(ValueError, match="out of memory"):
        tracking.log_training(store, train, parameters={}, card=card, staging=tmp_path)
    client = mlflow.MlflowClient(store.uri)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    last = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"], max_results=1)[0]
    assert last.info.status == "FAILED"
    registered = client.search_model_versions(f"name='{tracking.REGISTERED_MODEL}'")
    assert {str(version.version) for version in registered} == set(versions)


def test_an_unreachable_server_is_one_line_within_seconds(layout):
    server = tracking.ModelStore("http://127.0.0.1:9", None)
    with pytest.raises(UserError, match=r"MLflow store http://127\.0\.0\.1:9"):
        tracking.champion_version(server)
