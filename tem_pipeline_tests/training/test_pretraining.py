"""Tests of pretraining with a very small recipe."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tem_pipeline.segmentation.models import load_model, read_card
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.simulation.varied_micrographs import AMBIGUOUS
from tem_pipeline.training.losses import cross_entropy, dice_loss
from tem_pipeline.training.pretraining import Recipe, _loss, crop, pretrain, validation_images

TINY = Recipe(
    base_width=4,
    images=6,
    uneven_images=4,
    image_px=128,
    validation_images=2,
    crop_px=64,
    batch=2,
    steps=12,
    closing_steps=4,
    uneven_steps=4,
    epoch_steps=4,
)


def test_an_interrupted_pretraining_resumes_to_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import keras

    pretrain(tmp_path / "whole", tmp_path / "work", TINY, threads=1)

    class PowerCut(BaseException):
        pass

    begin = keras.utils.PyDataset.__init__

    def cut_in_third_epoch(self: keras.utils.PyDataset, *args: object, **kwargs: object) -> None:
        begin(self, *args, **kwargs)  # type: ignore[arg-type]
        get = type(self).__getitem__

        def failing(batches: keras.utils.PyDataset, index: int) -> object:
            if batches.epoch == 2 and index == 1:  # type: ignore[attr-defined]
                raise PowerCut
            return get(batches, index)

        type(self).__getitem__ = failing  # type: ignore[method-assign]

    with monkeypatch.context() as patch:
        patch.setattr(keras.utils.PyDataset, "__init__", cut_in_third_epoch)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - TensorFlow wraps what a batch raises
            pretrain(tmp_path / "resumed", tmp_path / "work2", TINY, threads=1)
    assert not (tmp_path / "resumed" / "model.json").exists()
    pretrain(tmp_path / "resumed", tmp_path / "work2", TINY, threads=1)
    histories = [
        np.loadtxt(next((tmp_path / name).glob("*/stage_1/history.csv")), delimiter=",")
        for name in ("work", "work2")
    ]
    assert histories[1][:, 0].tolist() == [1, 2, 3]
    # Sums of many threads differ in their last digits, and the first steps of a training enlarge that.
    assert np.allclose(histories[0][:, 1], histories[1][:, 1], rtol=0.01)
    whole, resumed = (load_model(tmp_path / name, 1, "f32") for name in ("whole", "resumed"))
    image = validation_images(TINY)[0].image
    assert np.abs(whole.predict_tile(image) - resumed.predict_tile(image)).mean() < 0.05
    # Resuming the first stage must not shorten the later ones.
    for name, stage in product(("work", "work2"), (2, 3)):
        history = next((tmp_path / name).glob(f"*/stage_{stage}/history.csv"))
        assert np.loadtxt(history, delimiter=",", ndmin=2)[:, 0].tolist() == [1]
    card = read_card(tmp_path / "whole")
    assert card.classes == ("background", "shell", "core")
    assert 0 <= card.validation_scores["dice"] <= 1
    assert card.core_threshold is not None
    assert 0 < card.core_threshold < 1


def test_crops_keep_image_and_classes_together():
    rng = np.random.default_rng(0)
    class_maps = rng.integers(0, 3, (3, 40, 40)).astype(np.uint8)
    images = class_maps.astype(np.float16)
    for seed in range(30):
        image, class_map = crop(np.random.default_rng(seed), images, class_maps, 24)
        levels = [float(np.median(image[class_map == index])) for index in range(3)]
        assert image.shape == class_map.shape == (24, 24)
        assert levels[0] < levels[1] < levels[2]


@pytest.mark.parametrize("size", [2.0, 0.5])
def test_resampled_crops_keep_image_and_classes_together(size: float):
    rng = np.random.default_rng(0)
    class_maps = rng.integers(0, 3, (3, 6, 6)).astype(np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    images = class_maps.astype(np.float16)
    for seed in range(30):
        image, class_map = crop(np.random.default_rng(seed), images, class_maps, 48, (size,))
        assert image.shape == class_map.shape == (48, 48)
        levels = {int(index): float(np.median(image[class_map == index])) for index in np.unique(class_map)}
        assert sorted(levels.values()) == [levels[index] for index in sorted(levels)]
        if len(levels) > 1:  # image and classes are aligned: nearly all pixels have the level of their class
            step = max(levels.values()) - min(levels.values())
            level_of = np.vectorize(levels.get)(class_map)
            assert np.mean(np.abs(image - level_of) < 0.1 * step) > 0.75


def test_ambiguous_pixels_do_not_count_in_the_loss():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (2, 16, 16)).astype(np.uint8)
    found = rng.dirichlet((1, 1, 1), (2, 16, 16)).astype(np.float32)
    plain = float(cross_entropy(truth, found) + dice_loss(truth, found))
    assert float(_loss(truth, found)) == pytest.approx(plain, rel=1e-5)
    ambiguous = truth.copy()
    ambiguous[:, :8] = AMBIGUOUS
    others = found.copy()
    others[:, :8] = others[:, 8:]
    assert float(_loss(ambiguous, others)) == pytest.approx(float(_loss(ambiguous, found)), rel=1e-6)
    assert float(_loss(ambiguous, found)) < plain


def test_validation_micrographs_are_not_training_micrographs():
    from tem_pipeline.training.pretraining import TRAINING, UNEVEN, _draw

    streams = ((TRAINING, TINY.images), (UNEVEN, TINY.uneven_images))
    training = {
        _draw(TINY, stream, index)[0].tobytes() for stream, images in streams for index in range(images)
    }
    assert len(training) == TINY.images + TINY.uneven_images
    validation = validation_images(replace(TINY, validation_images=12))
    assert not training & {image.image.astype(np.float16).tobytes() for image in validation}
    # The annotation has no ambiguous pixels.
    assert {int(value) for image in validation for value in np.unique(image.class_map)} == {0, 1, 2}


def test_the_shipped_model_loads_and_is_small():
    folder = PROJECT_ROOT / "models" / "pretrained"
    card = read_card(folder)
    assert card.classes == ("background", "shell", "core")
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 25 * 2**20
    probability = load_model(folder, 1).predict_tile(np.zeros((64, 64), np.float32))
    assert np.allclose(probability.sum(axis=-1), 1, atol=1e-3)
