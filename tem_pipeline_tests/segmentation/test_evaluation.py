import json

import numpy as np
import pytest

from tem_pipeline.annotation.datasets import AnnotatedImage
from tem_pipeline.segmentation.evaluation import evaluate_model, is_better, summarise_evaluation, unseen
from tem_pipeline.segmentation.inference import ModelCard, SegmentationModel

CARD = ModelCard("m", "1", "dice", "ds_unet", 16, ("background", "core"), "w")


def model(shift: float = 0.0, **card) -> SegmentationModel:
    """A model that calls core what is darker than -1; a shift makes it worse."""

    def predict(tile: np.ndarray) -> np.ndarray:
        core = (tile < -1 + shift).astype(np.float32)
        return np.stack([1 - core, core], axis=-1)

    return SegmentationModel(ModelCard(**{**CARD.__dict__, **card}), predict)


def image(name: str, seed: int) -> AnnotatedImage:
    pixels = np.random.default_rng(seed).normal(size=(32, 48)).astype(np.float32)
    return AnnotatedImage(
        name, pixels, (pixels < -1).astype(np.uint8), ("background", "core"), name, f"pixels {name}", "mask"
    )


IMAGES = [image(name, seed) for seed, name in enumerate("abcd")]


def test_a_perfect_model_scores_one_and_a_worse_one_less():
    perfect = summarise_evaluation(evaluate_model(model(), IMAGES))
    assert perfect["dice"] == perfect["iou"] == perfect["mean_iou"] == perfect["accuracy"] == 1
    worse = summarise_evaluation(evaluate_model(model(0.3), IMAGES))
    low, high = worse["intervals"]["dice"]
    assert low <= worse["dice"] <= high < 1
    assert worse["images"] == 4


def test_one_source_has_scores_and_no_interval_and_stays_valid_json():
    summary = summarise_evaluation(evaluate_model(model(0.3), IMAGES[:1]))
    assert summary["intervals"]["dice"] == [None, None]
    json.loads(json.dumps(summary, allow_nan=False))


def test_what_a_model_was_trained_on_or_chosen_by_is_left_out():
    card = model(training_images=("pixels a",), validation_images=("pixels b",)).card
    assert [i.name for i in unseen(IMAGES, card, validation_too=True)] == ["c", "d"]
    assert [i.name for i in unseen(IMAGES, card, validation_too=False)] == ["b", "c", "d"]


@pytest.mark.parametrize(("candidate", "champion", "promoted"), [(0.0, 0.3, True), (0.3, 0.0, False)])
def test_only_a_better_candidate_is_promoted(candidate: float, champion: float, promoted: bool):
    assert is_better(model(candidate), model(champion), IMAGES)["promote"] is promoted


def test_an_equal_candidate_is_not_promoted():
    assert is_better(model(), model(), IMAGES)["promote"] is False


def test_images_that_either_was_trained_on_do_not_decide():
    trained = tuple(f"pixels {name}" for name in "abc")
    verdict = is_better(model(0.3, training_images=trained), model(), IMAGES)
    assert verdict["images"] == 1
    all_of_them = tuple(f"pixels {name}" for name in "abcd")
    verdict = is_better(model(), model(0.3, training_images=all_of_them), IMAGES)
    assert verdict["promote"] is False
    assert "can't be compared" in verdict["reason"]
