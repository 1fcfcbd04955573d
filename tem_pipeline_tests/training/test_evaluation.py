import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import distance_transform_edt

from tem_pipeline.annotation.datasets import AnnotatedImage
from tem_pipeline.segmentation.models import ModelCard, SegmentationModel
from tem_pipeline.training.evaluation import (
    choose_threshold,
    compare_cores,
    diameter_uncertainty,
    evaluate_model,
    mean_diameter_error,
    pixel_size_range,
    summarise_evaluation,
    unseen,
)

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


def test_a_single_source_has_scores_but_no_interval():
    summary = summarise_evaluation(evaluate_model(model(0.3), IMAGES[:1]))
    assert summary["intervals"]["dice"] == [None, None]
    json.loads(json.dumps(summary, allow_nan=False))


def test_images_used_for_training_or_validation_are_left_out():
    card = model(training_images=("pixels a",), validation_images=("pixels b",)).card
    assert [i.name for i in unseen(IMAGES, card, validation_too=True)] == ["c", "d"]
    assert [i.name for i in unseen(IMAGES, card, validation_too=False)] == ["b", "c", "d"]


def test_a_threshold_is_chosen_only_if_it_improves_validation():
    cores = discs((30.3, 30.2, 20), (40.3, 80.2, 30))
    annotated = replace(IMAGES[0], image=-cores.astype(np.float32), class_map=cores.astype(np.uint8))

    def timid(tile: np.ndarray) -> np.ndarray:
        """The pixels within an outline have 0.42, those around it 0.36: 0.03 a pixel."""
        steps = distance_transform_edt(tile < 0) - distance_transform_edt(tile >= 0)
        core = np.clip(0.39 + 0.03 * steps, 0, 1).astype(np.float32)
        return np.stack([1 - core, core], axis=-1)

    chosen = choose_threshold(SegmentationModel(CARD, timid), [annotated])
    assert chosen is not None
    assert 0.36 < chosen < 0.42
    before, after = (
        summarise_evaluation(
            evaluate_model(SegmentationModel(replace(CARD, core_threshold=threshold), timid), [annotated])
        )["dice"]
        for threshold in (None, chosen)
    )
    assert after == 1
    assert before < 0.9
    assert choose_threshold(model(), IMAGES) is None


def test_the_pixel_size_range_needs_every_image_calibrated():
    sizes = [(0.1, 0.1), (0.2, 0.8), (0.3, 0.3)]
    calibrated = [replace(i, pixel_size_nm=size) for i, size in zip(IMAGES, sizes, strict=False)]
    assert pixel_size_range(calibrated) == pytest.approx((0.1, 0.4))
    assert pixel_size_range([*calibrated, IMAGES[3]]) is None


def discs(*discs: tuple[float, float, float], shape: tuple[int, int] = (80, 120)) -> np.ndarray:
    y, x = np.indices(shape)
    masks = [np.hypot(y - row, x - column) <= diameter / 2 for row, column, diameter in discs]
    return np.logical_or.reduce(masks)


def test_the_diameter_error_is_signed_and_uses_matched_whole_cores():
    truth = discs((30.3, 30.2, 20), (30.3, 70.2, 20), (0, 100, 30), (60.3, 20.2, 12))
    found = discs((30.3, 30.2, 22), (30.3, 70.2, 21), (0, 100, 20), (60.3, 100.2, 12))
    assert mean_diameter_error(truth, found) == pytest.approx((0.1 + 0.05) / 2, abs=0.01)
    assert mean_diameter_error(found, truth) == pytest.approx(-(0.1 + 0.05) / 2, abs=0.01)
    assert mean_diameter_error(truth, truth) == 0
    assert np.isnan(mean_diameter_error(truth, np.zeros_like(truth)))


def test_the_diameter_uncertainty_includes_bias_and_scatter():
    evaluated = pd.DataFrame({"diameter_error": [0.03, -0.01, np.nan]})
    assert diameter_uncertainty(evaluated) == pytest.approx(np.sqrt((0.03**2 + 0.01**2) / 2))
    assert diameter_uncertainty(evaluated[2:]) is None


def test_cores_drawn_too_large_increase_the_diameter_uncertainty():
    core = discs((20.3, 30.2, 20), (50.3, 60.2, 24))
    pixels = np.where(core, -3.0, np.where(discs((20.3, 30.2, 23), (50.3, 60.2, 27)), -0.9, 1.0))
    annotated = AnnotatedImage(
        "n", pixels.astype(np.float32), core.astype(np.uint8), ("background", "core"), "g", "p", "m"
    )
    right, large = (evaluate_model(model(shift), [annotated]) for shift in (0.0, 0.3))
    assert diameter_uncertainty(right) == 0
    assert diameter_uncertainty(large) == pytest.approx((3 / 20 + 3 / 24) / 2, abs=0.02)


def annotated_discs(
    instances: bool, *places: tuple[float, float, float], name: str = "n", group: str = "g"
) -> AnnotatedImage:
    labels = np.zeros((80, 120), np.int32)
    for number, place in enumerate(places, start=1):
        labels[discs(place)] = number
    core = labels > 0
    pixels = np.where(core, -3.0, 1.0).astype(np.float32)
    return AnnotatedImage(
        name,
        pixels,
        core.astype(np.uint8),
        ("background", "core"),
        group,
        name,
        "m",
        instances=labels if instances else None,
    )


def test_particles_are_compared_as_the_platform_counts_them():
    touching = [(30.3, 30.2, 24), (30.3, 53.2, 24)]
    together = discs(*touching)
    for instances in (True, False):
        counts = compare_cores(annotated_discs(instances, *touching), together)
        assert [counts[f"instances_{kind}"] for kind in ("right", "false", "missed")] == [2, 0, 0]
    # Whom the annotation takes for two, the rule for one: a fault of the rule, where the annotation can tell.
    merged = [(30.3, 30.2, 24), (30.3, 38.2, 24)]
    counts = compare_cores(annotated_discs(True, *merged), discs(*merged))
    assert counts["instances_right"] < 2
    counts = compare_cores(annotated_discs(False, *merged), discs(*merged))
    assert [counts[f"instances_{kind}"] for kind in ("right", "false", "missed")] == [1, 0, 0]


def test_specks_are_not_particles_in_truth_or_prediction():
    truth = annotated_discs(True, (30.3, 30.2, 24), (60.3, 90.2, 3))
    counts = compare_cores(truth, discs((30.3, 30.2, 24), (10.3, 100.2, 3)))
    assert [counts[f"instances_{kind}"] for kind in ("right", "false", "missed")] == [1, 0, 0]


def test_a_summary_has_boundary_particle_and_diameter_scores():
    images = [
        annotated_discs(False, (20.3, 30.2, 20), (50.3, 60.2, 24), name="a", group="a"),
        annotated_discs(False, (50.3, 40.2, 20), name="b", group="b"),
    ]
    perfect = summarise_evaluation(evaluate_model(model(), images))
    assert (perfect["boundary_f"], perfect["instance_f1"], perfect["diameter_error"]) == (1, 1, 0)
    assert perfect["intervals"]["boundary_f"] == [1, 1]
    larger = [compare_cores(i, discs((20.3, 30.2, 28), (50.3, 60.2, 32), (50.3, 40.2, 28))) for i in images]
    summary = summarise_evaluation(pd.DataFrame(larger).assign(group=["a", "b"]))
    assert summary["boundary_f"] < 0.5
    assert summary["instance_f1"] < 1
    low, high = summary["intervals"]["diameter_error"]
    assert low <= summary["diameter_error"] <= high


def test_without_matched_cores_there_is_no_diameter_error():
    images = [annotated_discs(False, (20.3, 30.2, 20), name=name, group=name) for name in ("a", "b")]
    nothing = pd.DataFrame([compare_cores(i, np.zeros((80, 120), bool)) for i in images])
    summary = summarise_evaluation(nothing.assign(group=["a", "b"]))
    assert summary["diameter_error"] is None
    assert summary["intervals"]["diameter_error"] == [None, None]
    assert summary["boundary_f"] == summary["instance_f1"] == 0
    json.loads(json.dumps(summary, allow_nan=False))
