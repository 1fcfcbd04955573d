import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pandas as pd
import pytest
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.models import load_model, read_card, write_card
from tem_pipeline.settings import Settings
from tem_pipeline.storage import Layout
from tem_pipeline.tracking import champion
from tem_pipeline.tracking.runs import training_run
from tem_pipeline.tracking.store import EXPERIMENT, REGISTERED_MODEL, ModelStore, store_of
from tem_pipeline.training.fitting import PROFILES, TrainedNetwork, export_model, prepare_keras, train_network

TINY = replace(PROFILES["quick"], base_width=4, crop_px=32, steps=4, epoch_steps=2, batch=2)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    root = tmp_path_factory.mktemp("tracking")
    return Layout(UPath(root / "data"), UPath(root / "models"))


@pytest.fixture(scope="module")
def store(layout: Layout) -> ModelStore:
    return store_of(Settings(mlflow_tracking_uri=None), layout)


@pytest.fixture
def environment_changes() -> Iterator[list[str]]:
    """Name every variable of the environment that any thread sets or removes, even for a moment."""
    changed: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple) -> None:
        if watching and event in ("os.putenv", "os.unsetenv"):
            name = os.fsdecode(arguments[0])
            if name != "PYTEST_CURRENT_TEST":
                changed.append(name)

    sys.addaudithook(watch)
    yield changed
    watching = False


def tiny_trained_network() -> TrainedNetwork:
    import keras

    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 1)])
    return TrainedNetwork(model, pd.DataFrame({"epoch": [1], "loss": [1.0]}), 1, 0.1)


@pytest.fixture(scope="module")
def versions(layout: Layout, store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two tiny models in the registry."""
    prepare_keras(2)
    images = np.random.default_rng(0).normal(size=(4, 32, 32)).astype(np.float32)
    class_maps = (images > 1).astype(np.uint8)
    registered = []
    for seed in (0, 1):
        tags = {"loss": "dice", "dataset_hash": "abc"}
        with training_run(store, "dice", {"seed": seed}, tags) as run:
            trained = train_network(
                images,
                class_maps,
                [(images[0], class_maps[0])],
                classes=("background", "core"),
                loss="dice",
                profile=TINY,
                seed=seed,
                on_epoch=run.log_epoch,
            )
            folder = tmp_path_factory.mktemp("model")
            card = export_model(
                trained,
                folder,
                name=REGISTERED_MODEL,
                version=run.register(trained),
                run_id=run.run_id,
                network="ds_unet",
                base_width=4,
                classes=("background", "core"),
                **tags,
            )
            run.log_metrics({"best_val_dice": 0.5})
            run.log_model_folder(folder, {"predictions.png": b"a picture"})
        registered.append(card.version)
    return registered


def test_neither_a_training_nor_a_query_changes_the_environment(store, versions, environment_changes):
    champion.champion_version(store)
    with training_run(store, "dice", {"seed": 0}, {}) as run:
        run.log_epoch(1, {"loss": 1.0})
        run.register(tiny_trained_network())
    assert environment_changes == []


def test_the_watch_over_the_environment_sees_a_change(environment_changes, monkeypatch):
    monkeypatch.setenv("TEM_OF_THIS_TEST", "1")
    assert environment_changes == ["TEM_OF_THIS_TEST"]


def test_trainings_of_two_threads_are_logged_in_their_own_stores(versions, tmp_path: Path):
    import mlflow

    stores = [
        store_of(Settings(mlflow_tracking_uri=None), Layout(UPath(tmp_path), UPath(tmp_path / name)))
        for name in ("a", "b")
    ]
    both_under_way = Barrier(2, timeout=60)

    def train(store: ModelStore) -> str:
        with training_run(store, "dice", {}, {}) as run:
            both_under_way.wait()
            run.log_epoch(1, {"loss": 1.0})
            both_under_way.wait()
            assert run.register(tiny_trained_network()) == "1"
        return run.run_id

    with ThreadPoolExecutor(2) as pool:
        run_ids = list(pool.map(train, stores))
    for store, run_id in zip(stores, run_ids, strict=True):
        client = mlflow.MlflowClient(store.uri)
        assert client.get_run(run_id).info.status == "FINISHED"
        assert [metric.step for metric in client.get_metric_history(run_id, "loss")] == [1]
        registered = client.get_model_version(REGISTERED_MODEL, "1")
        assert registered.run_id == run_id
        assert str(tmp_path / Path(str(store.database)).parents[1].name) in str(registered.source)


def test_a_training_is_logged_with_its_epochs_and_both_forms_of_the_model(versions, store, monkeypatch):
    import mlflow

    client = mlflow.MlflowClient(store.uri)
    version = client.get_model_version(REGISTERED_MODEL, versions[0])
    assert version.tags == {"loss": "dice", "dataset_hash": "abc"}
    assert version.run_id
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "dice"
    assert run.data.params["seed"] == "0"
    assert run.data.tags["dataset_hash"] == "abc"
    assert run.data.metrics["best_val_dice"] == 0.5
    assert {"best_epoch", "training_seconds"} <= run.data.metrics.keys()
    assert [metric.step for metric in client.get_metric_history(version.run_id, "val_dice")] == [1, 2]
    logged = {artifact.path for artifact in client.list_artifacts(version.run_id)}
    assert logged == {"history.csv", "predictions.png", "inference"}
    folder = champion.fetch_version(store, versions[0])
    names = {path.name for path in (folder / read_card(folder).weights).iterdir()}
    assert names == {"model.keras", "model.xml", "model.bin"}
    assert not (folder / "predictions.png").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    mlflow.set_tracking_uri(store.uri)
    reloaded = mlflow.keras.load_model(f"models:/{REGISTERED_MODEL}/{versions[0]}")  # type: ignore[attr-defined]
    assert reloaded.count_params() > 0


def test_the_inference_form_predicts_as_the_keras_form(versions, store):
    import keras

    folder = champion.fetch_version(store, versions[0])
    model = load_model(folder, precision="f32")
    weights = folder / model.card.weights / "model.keras"
    reference = keras.models.load_model(weights, compile=False)
    tile = np.random.default_rng(1).normal(size=(48, 80)).astype(np.float32)
    expected = np.asarray(reference(tile[None, :, :, None]))[0]  # type: ignore[operator]
    assert np.abs(model.predict_tile(tile) - expected).max() < 2e-4


def test_predicting_two_tiles_at_a_time_changes_no_pixel(versions, store):
    folder = champion.fetch_version(store, versions[0])
    one, two = load_model(folder, 2), load_model(folder, 2, tiles_at_a_time=2)
    tiles = [np.random.default_rng(k).normal(size=(64, 80)).astype(np.float32) for k in range(12)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(two.predict_tile, tiles))
    assert all(
        np.array_equal(found, one.predict_tile(tile)) for found, tile in zip(together, tiles, strict=True)
    )


def test_two_threads_that_predict_first_do_not_deadlock(versions, store):
    folder = champion.fetch_version(store, versions[0])
    program = (
        "import sys, numpy as np; from pathlib import Path;"
        "from concurrent.futures import ThreadPoolExecutor;"
        "from tem_pipeline.segmentation.models import load_model;"
        f"model = load_model(Path({str(folder)!r}), 2, tiles_at_a_time=2);"
        "sys.setswitchinterval(1e-6);"
        "pool = ThreadPoolExecutor(2);"
        "print(len(list(pool.map(model.predict_tile, [np.zeros((64, 64), np.float32)] * 6))))"
    )
    for _ in range(8):  # Without the warm-up in load_model one run in eight hangs.
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "6"


def test_a_promotion_moves_the_alias_and_the_folder_together(versions, store, layout):
    for version in versions:
        champion.promote(store, layout, version)
        assert champion.champion_version(store) == version
        assert read_card(layout.champion).version == version
        load_model(layout.champion)


def test_an_outdated_champion_folder_is_rewritten(versions, store, layout):
    champion.promote(store, layout, versions[1])
    stale = read_card(champion.fetch_version(store, versions[0]))
    write_card(layout.champion, stale)
    assert champion.check_champion(store, layout).version == versions[1]
    assert read_card(layout.champion).version == versions[1]


def test_without_a_registry_the_champion_folder_decides(versions, store, layout, tmp_path: Path):
    champion.promote(store, layout, versions[0])
    elsewhere = Layout(UPath(tmp_path / "data"), UPath(tmp_path / "models"))
    champion._copy_weights(Path(str(layout.champion)), elsewhere.champion, read_card(layout.champion))
    write_card(elsewhere.champion, read_card(layout.champion))
    found = champion.check_champion(store_of(Settings(), elsewhere), elsewhere)
    assert found.version == versions[0]


def test_a_wrong_model_reference_says_how_models_are_named(versions, store, layout):
    folder = champion.resolve_model(f"models:/{REGISTERED_MODEL}/{versions[0]}", store, layout)
    assert read_card(folder).version == versions[0]
    assert champion.resolve_model("champion", store, layout) == layout.champion
    with pytest.raises(UserError, match="VERSION a number"):
        champion.resolve_model("models:/tem_segmentation/latest", store, layout)
    with pytest.raises(UserError, match="MLflow store"):
        champion.resolve_model(f"models:/{REGISTERED_MODEL}/999", store, layout)


def test_a_training_that_fails_leaves_a_failed_run_and_no_version(versions, store):
    import mlflow

    client = mlflow.MlflowClient(store.uri)
    before = {str(one.version) for one in client.search_model_versions(f"name='{REGISTERED_MODEL}'")}
    with pytest.raises(ValueError, match="out of memory"), training_run(store, "dice", {}, {}):
        raise ValueError("out of memory")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    last = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"], max_results=1)[0]
    assert last.info.status == "FAILED"
    registered = client.search_model_versions(f"name='{REGISTERED_MODEL}'")
    assert {str(version.version) for version in registered} == before


def test_an_unreachable_server_is_one_line_within_seconds(layout):
    server = ModelStore("http://127.0.0.1:9", None)
    with pytest.raises(UserError, match=r"MLflow store http://127\.0\.0\.1:9"):
        champion.champion_version(server)
