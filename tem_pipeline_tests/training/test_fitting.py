from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.training.fitting import (
    PROFILES,
    StartingModel,
    TrainedNetwork,
    export_model,
    train_network,
    with_fused_normalisation,
)


def test_fused_normalisation_trains_and_predicts_as_keras_does():
    import keras

    from tem_pipeline.training.networks import ds_unet

    keras.utils.set_random_seed(0)
    plain = ds_unet(4)
    fused = with_fused_normalisation(plain)
    assert all(np.array_equal(a, b) for a, b in zip(plain.get_weights(), fused.get_weights(), strict=True))
    images = np.random.default_rng(0).normal(size=(4, 64, 64, 1)).astype(np.float32)
    np.testing.assert_allclose(plain(images, training=True), fused(images, training=True), atol=1e-4)
    for mine, theirs in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0.01, atol=1e-4)
    plain.set_weights(fused.get_weights())
    np.testing.assert_allclose(plain(images), fused(images), atol=1e-4)


def test_training_without_a_validation_image_is_refused():
    crops = np.zeros((8, 128, 128), np.float32)
    with pytest.raises(UserError, match="validation"):
        train_network(
            crops,
            crops.astype(np.uint8),
            [],
            classes=("background", "core"),
            loss="dice",
            profile=PROFILES["quick"],
        )


BOTH = ("background", "core"), ("background", "shell", "core")


@pytest.fixture(scope="module")
def crops() -> tuple[np.ndarray, np.ndarray]:
    """Cores of -6 in shells of -3."""
    images = np.random.default_rng(0).normal(0, 0.5, size=(8, 32, 32)).astype(np.float32)
    class_maps = np.zeros(images.shape, np.uint8)
    class_maps[:, 6:26, 6:26], class_maps[:, 11:21, 11:21] = 1, 2
    return images - 3 * class_maps, class_maps


def learn(crops, classes: tuple[str, ...], start: StartingModel | None = None, **plan) -> TrainedNetwork:
    images, class_maps = crops
    if "shell" not in classes:
        class_maps = (class_maps == 2).astype(np.uint8)
    plan = {"base_width": 8, "crop_px": 32, "steps": 60, "epoch_steps": 30, "batch": 4, **plan}
    return train_network(
        images,
        class_maps,
        [(images[0], class_maps[0])],
        classes=classes,
        loss="cross_entropy",
        profile=replace(PROFILES["quick"], **plan),
        start=start,
    )


@pytest.fixture(scope="module")
def started_from(crops, tmp_path_factory) -> dict[tuple[str, ...], StartingModel]:
    """A small trained network for two classes and one for three, as model folders."""
    found = {}
    for classes in BOTH:
        folder = tmp_path_factory.mktemp("model")
        facts = {"loss": "cross_entropy", "network": "ds_unet", "base_width": 8, "classes": classes}
        card = export_model(learn(crops, classes), folder, name="pretrained", version="1", **facts)
        found[classes] = StartingModel(folder, card)
    return found


def predict(network, crops) -> np.ndarray:
    return np.asarray(network(crops[0][..., np.newaxis])).argmax(axis=-1)


def core_dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


@pytest.mark.parametrize("classes", BOTH)
@pytest.mark.parametrize("known", BOTH)
def test_a_training_starts_with_the_predictions_of_its_starting_model(crops, started_from, known, classes):
    from tem_pipeline.training.networks import ds_unet

    network = ds_unet(8, len(classes))
    network.set_weights(started_from[known].weights_for(classes))
    found = predict(network, crops) == len(classes) - 1
    assert core_dice(found, crops[1] == 2) > 0.8


def test_the_starting_models_width_replaces_the_profiles(crops, started_from):
    start = started_from[BOTH[1]]
    trained = learn(crops, BOTH[0], start, base_width=4, steps=2, learning_rate=1e-6)
    assert trained.model.get_layer("encoder0_conv1").get_weights()[0].shape[-1] == 8
    assert core_dice(predict(trained.model, crops) == 1, crops[1] == 2) > 0.8
    said = start.changes(PROFILES["standard"], "unet", BOTH[0])
    for part in ("pretrained version 1", "ds_unet of base width 8", "unet of base width 32", "no shells"):
        assert part in said
    assert "\n" not in said


def test_an_unusable_starting_model_is_refused_in_one_line(started_from, tmp_path: Path):
    start = started_from[BOTH[0]]
    with pytest.raises(UserError, match="can't start from it"):
        start.weights_for(("background", "pore", "core"))
    with pytest.raises(UserError, match="can't start from it"):
        replace(start, card=replace(start.card, base_width=16)).weights_for(BOTH[0])
    with pytest.raises(UserError, match=r"model\.keras"):
        replace(start, folder=tmp_path).weights_for(BOTH[0])
