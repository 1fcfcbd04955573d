"""Segmenting a micrograph: scales and mirrorings, classes, particles."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from tem_pipeline.segmentation.inference import (
    input_scale,
    predict_averaged_strips,
    predict_classes,
    segment_micrograph,
    size_scale,
)
from tem_pipeline.segmentation.models import SegmentationModel
from tem_pipeline_tests.segmentation.networks import CARD, threshold


def discs(dark: bool) -> np.ndarray:
    """Draw a noisy image of two discs, 24 px across."""
    image = np.full((200, 300), 120.0)
    y, x = np.mgrid[:200, :300]
    for centre in ((50, 60), (140, 200)):
        image[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 12**2] += -60 if dark else 60
    noise = np.random.default_rng(0).normal(size=image.shape)
    return gaussian_filter(image, 1) + 2 * noise


@pytest.mark.parametrize(("mode", "dark"), [("bright_field", True), ("haadf", False)])
def test_dark_and_bright_cores_are_found_and_the_mode_is_detected(mode: str, dark: bool):
    found = segment_micrograph(discs(dark), SegmentationModel(CARD, threshold), "auto")
    assert found.mode == mode
    assert found.labels.max() == 2
    assert found.labels.dtype == np.uint16
    assert found.labels.shape == found.core_probability.shape == (200, 300)
    assert found.shell_labels is None


def test_objects_below_the_smallest_diameter_are_removed():
    model = SegmentationModel(CARD, threshold)
    assert segment_micrograph(discs(dark=True), model, minimum_diameter_px=30).labels.max() == 0


def test_a_model_with_shells_gives_labels_of_whole_particles():
    def nested(tile: np.ndarray) -> np.ndarray:
        core, shell = tile < -3, tile < -1
        return np.stack([~shell, shell & ~core, core], axis=-1).astype(np.float32)

    image = np.zeros((64, 64))
    image[20:44, 20:44] = -40
    image[26:38, 26:38] = -100
    card = replace(CARD, classes=("background", "shell", "core"))
    found = segment_micrograph(image, SegmentationModel(card, nested), "bright_field")
    assert found.shell_labels is not None
    assert (found.labels > 0).sum() == 12 * 12
    assert (found.shell_labels > 0).sum() == 24 * 24


def test_touching_cores_and_shells_are_split_and_cores_are_flagged():
    def nested(tile: np.ndarray) -> np.ndarray:
        core, shell = tile < -3, tile < -1
        return np.stack([~shell, shell & ~core, core], axis=-1).astype(np.float32)

    y, x = np.mgrid[:128, :160]
    image = np.zeros(y.shape)
    for radius, value in ((28, -40), (11, -100)):
        for centre in (
            ((60.3, 50.2), (60.3, 100.2), (60.3, 70.2)) if radius == 11 else ((60.3, 50.2), (60.3, 100.2))
        ):
            image[np.hypot(y - centre[0], x - centre[1]) < radius] = value
    card = replace(CARD, classes=("background", "shell", "core"))
    found = segment_micrograph(image, SegmentationModel(card, nested), "bright_field")
    assert found.labels.max() == 3
    assert len(found.split_labels) == 2
    assert set(found.labels[60, [50, 70]]) == set(found.split_labels)
    assert found.shell_labels is not None
    assert found.shell_labels.max() == 2


# Scales and mirrorings


def leaning(tile: np.ndarray) -> np.ndarray:
    """A network that shifts everything down and to the right, with a probability that grows to the right."""
    moved = np.roll(tile, (2, 3), axis=(0, 1)) + np.linspace(-0.5, 0.5, tile.shape[1], dtype=np.float32)
    return threshold(moved)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5), (0.7,)])
@pytest.mark.parametrize("mirrored", [np.fliplr, np.flipud])
def test_with_flips_a_mirrored_image_gives_the_mirrored_result(mirrored, scales):
    image = discs(dark=True)[:181, :290]
    model = SegmentationModel(CARD, leaning)
    options: dict[str, Any] = {"tile_px": 128, "overlap_px": 32, "minimum_diameter_px": 12}
    found, of_mirrored = (
        segment_micrograph(pixels, model, "bright_field", scales=scales, flips=True, **options)
        for pixels in (image, mirrored(image))
    )
    assert found.labels.max() == 2
    assert np.array_equal(mirrored(found.labels) > 0, of_mirrored.labels > 0)
    assert np.abs(mirrored(found.core_probability).astype(int) - of_mirrored.core_probability).max() <= 1
    one_sided = [
        segment_micrograph(pixels, model, "bright_field", **options).labels > 0
        for pixels in (image, mirrored(image))
    ]
    assert not np.array_equal(mirrored(one_sided[0]), one_sided[1])


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    scales=st.lists(st.sampled_from([0.3, 0.5, 1.0, 1.7]), min_size=1, max_size=3),
    flips=st.booleans(),
)
def test_averaged_probabilities_have_the_images_shape_and_sum_to_one(height, width, scales, flips):
    image = np.random.default_rng(height).normal(size=(height, width)).astype(np.float32)
    strips = list(predict_averaged_strips(threshold, image, scales, flips, 64, 16))
    assert [top for top, _ in strips] == np.cumsum([0, *(len(rows) for _, rows in strips[:-1])]).tolist()
    whole = np.concatenate([rows for _, rows in strips])
    assert whole.shape == (height, width, 2)
    assert np.allclose(whole.sum(axis=-1), 1, atol=2e-4)


@pytest.mark.parametrize("scales", [(0.5,), (0.37,), (1.9,), (1.0, 0.5)])
def test_a_particle_keeps_its_position_and_size_at_other_scales(scales):
    def halfway(tile: np.ndarray) -> np.ndarray:
        return threshold(tile - (tile.min() + tile.max()) / 2 - 1)

    y, x = np.mgrid[:240, :311]
    image = gaussian_filter(np.where(np.hypot(y - 90.3, x - 170.8) < 40, -2.5, 0.5), 1).astype(np.float32)
    class_map, _ = predict_classes(SegmentationModel(CARD, halfway), image, scales=scales)
    centre = [axis[class_map > 0].mean() for axis in (y, x)]
    assert centre == pytest.approx([90.3, 170.8], abs=0.2)
    assert (class_map > 0).sum() == pytest.approx(np.pi * 40**2, rel=0.04)


def test_at_scale_1_strips_are_passed_on_as_they_are_predicted():
    tiles = []

    def spy(tile: np.ndarray) -> np.ndarray:
        tiles.append(tile.shape)
        return threshold(tile)

    strips = predict_averaged_strips(spy, np.zeros((2000, 64), np.float32), (1.0,), False, 128, 32)
    top, rows = next(strips)
    assert (top, rows.shape[1]) == (0, 64)
    assert len(tiles) == 1


def test_an_image_is_resampled_only_if_its_pixel_size_is_unfamiliar():
    card = replace(CARD, pixel_size_nm=(0.1, 0.2))
    assert [input_scale(card, size, 10**6) for size in (0.081, 0.1, 0.15, 0.2, 0.249)] == [1.0] * 5
    assert input_scale(card, 0.05, 10**6) == pytest.approx(0.5)
    assert input_scale(card, 0.4, 10**6) == pytest.approx(2)
    assert input_scale(card, 50, 10**6) == 4
    assert input_scale(card, 0.8, 2**25) == pytest.approx(2)
    assert input_scale(card, 0.8, 2**28) == 1
    assert input_scale(card, None, 10**6) == input_scale(CARD, 0.05, 10**6) == 1


def test_finer_images_are_shrunk_for_the_model_but_labels_are_not():
    shapes = []

    def spy(tile: np.ndarray) -> np.ndarray:
        shapes.append(tile.shape)
        return threshold(tile)

    model = SegmentationModel(replace(CARD, pixel_size_nm=(0.1, 0.1)), spy)
    found = segment_micrograph(discs(dark=True), model, pixel_size_nm=0.04)
    assert shapes == [(80, 128)]  # 200 × 300 px at the scale 0.4, padded to multiples of 16
    assert found.labels.shape == found.core_probability.shape == (200, 300)
    assert found.labels.max() == 2


def test_the_larger_of_the_smallest_diameters_in_px_and_nm_applies():
    model = SegmentationModel(CARD, threshold)

    def number(**options: Any) -> int:
        return int(segment_micrograph(discs(dark=True), model, **options).labels.max())

    assert number(minimum_diameter_nm=3.0, pixel_size_nm=0.1) == 0
    assert number(minimum_diameter_nm=2.0, pixel_size_nm=0.1) == 2
    assert number(minimum_diameter_nm=0.1, pixel_size_nm=0.1, minimum_diameter_px=30) == 0
    assert number(minimum_diameter_nm=3.0) == 2


@pytest.mark.parametrize(
    ("diameters_px", "predicted"),
    [
        ((20, 30), [(208, 304)]),
        ((30, 90), [(208, 304), (400, 608)]),
        ((5, 12), [(208, 304), (112, 160)]),
        ((100, 200), [(208, 304), (400, 608)]),  # at most one step
        (None, [(208, 304)]),
    ],
)
def test_an_image_is_predicted_again_if_particle_sizes_are_unfamiliar(diameters_px, predicted):
    shapes = []

    def spy(tile: np.ndarray) -> np.ndarray:
        shapes.append(tile.shape)
        return threshold(tile)

    model = SegmentationModel(replace(CARD, diameters_px=diameters_px), spy)
    found = segment_micrograph(discs(dark=True), model, tile_px=1024)
    assert shapes == predicted
    assert found.labels.shape == (200, 300)
    assert found.labels.max() == 2


def test_particle_sizes_are_judged_at_the_scale_of_the_prediction():
    card = replace(CARD, pixel_size_nm=(0.1, 0.1), diameters_px=(30, 90))
    mask = np.zeros((400, 400), bool)
    mask[100:130, 100:130] = True  # 34 px across in the image
    assert size_scale(card, mask, 0.5) == 2
    assert size_scale(card, mask, 2) == 1
    assert size_scale(card, mask, 3) == 0.5
    assert size_scale(replace(card, diameters_px=(300, 900)), mask, 2) == 2
    # Enlarged 5 times it would be too large.
    assert size_scale(replace(card, diameters_px=(300, 900)), mask, 2.5) == 1


def test_an_image_is_not_predicted_again_if_empty_or_too_large():
    card = replace(CARD, diameters_px=(30, 90))
    mask = np.zeros((64, 64), bool)
    assert size_scale(card, mask) == 1
    mask[10:20, 10:20] = True
    assert size_scale(card, mask) == 2
    large = np.broadcast_to(mask[:, None, :, None], (64, 100, 64, 100)).reshape(6400, 6400)
    assert size_scale(replace(card, diameters_px=(3000, 4000)), large) == 1


def test_the_cards_threshold_separates_core_from_the_other_classes():
    def three(tile: np.ndarray) -> np.ndarray:
        core = 1 / (1 + np.exp(tile))
        return np.stack([0.3 * (1 - core), 0.7 * (1 - core), core], axis=-1).astype(np.float32)

    image = np.linspace(-3, 3, 4096, dtype=np.float32).reshape(64, 64)
    card = replace(CARD, classes=("background", "shell", "core"))
    _, probability = predict_classes(SegmentationModel(card, three), image)
    class_map, _ = predict_classes(SegmentationModel(replace(card, core_threshold=0.8), three), image)
    assert np.array_equal(np.unique(class_map), [1, 2])
    assert probability[class_map == 2].min() >= 204
    assert probability[class_map == 1].max() <= 204


def test_with_a_low_threshold_a_regions_mean_probability_decides():
    core = np.zeros((48, 64), np.float32)
    core[5:15, 5:15] = 0.42  # the rim of a core with a high probability
    core[7:13, 7:13] = 0.95
    core[5:15, 30:40] = 0.47  # below one half, within a shell
    core[25:30, 5:10] = 0.47  # below one half, on the background
    core[25:31, 30:36] = 0.53  # just above one half
    shell = np.zeros_like(core)
    shell[3:20, 3:50] = 1

    def three(_: np.ndarray) -> np.ndarray:
        return np.stack([(1 - core) * (1 - shell), (1 - core) * shell, core], axis=-1)

    card = replace(CARD, classes=("background", "shell", "core"), core_threshold=0.4)
    image = np.zeros(core.shape, np.float32)
    class_map, probability = predict_classes(SegmentationModel(card, three), image)
    expected = shell.astype(np.uint8)
    expected[5:15, 5:15] = 2
    expected[25:31, 30:36] = 2
    assert np.array_equal(class_map, expected)
    assert probability[25:30, 5:10].min() == 120
