import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.inference import (
    CARD_FILE,
    ModelCard,
    SegmentationModel,
    predict_strips,
    read_card,
    segment_micrograph,
    write_card,
)

CARD = ModelCard(
    name="tem_segmentation",
    version="7",
    loss="dice",
    network="ds_unet",
    base_width=16,
    classes=("background", "core"),
    weights="abc",
    training_images=("aa",),
)


def threshold(tile: np.ndarray) -> np.ndarray:
    """A network whose answer for a pixel depends on that pixel alone: any seam would be the tiling's."""
    core = 1 / (1 + np.exp(-4 * (-tile - 1)))
    return np.stack([1 - core, core], axis=-1).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    tile_px=st.sampled_from([64, 128]),
    overlap_px=st.sampled_from([0, 16, 32]),
    seed=st.integers(0, 9),
)
def test_tiles_blend_to_what_the_whole_image_gives_at_any_size(height, width, tile_px, overlap_px, seed):
    image = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    strips = list(predict_strips(threshold, image, tile_px, overlap_px))
    assert [top for top, _ in strips] == np.cumsum([0, *(len(rows) for _, rows in strips[:-1])]).tolist()
    whole = np.concatenate([rows for _, rows in strips])
    assert whole.shape == (height, width, 2)
    assert np.allclose(whole, threshold(image), atol=1e-5)


def test_the_network_is_given_sides_that_are_multiples_of_16_and_no_larger_than_a_tile():
    seen = []

    def spy(tile: np.ndarray) -> np.ndarray:
        seen.append(tile.shape)
        return threshold(tile)

    list(predict_strips(spy, np.zeros((333, 1000), np.float32), 256, 64))
    assert all(side % 16 == 0 and side <= 256 for shape in seen for side in shape)


def test_strips_keep_memory_bounded_by_a_row_of_tiles():
    tallest = max(
        len(rows) for _, rows in predict_strips(threshold, np.zeros((2000, 64), np.float32), 128, 32)
    )
    assert tallest <= 128


def discs(dark: bool) -> np.ndarray:
    image = np.full((200, 300), 120.0)
    y, x = np.mgrid[:200, :300]
    for centre in ((50, 60), (140, 200)):
        image[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 12**2] += -60 if dark else 60
    noise = np.random.default_rng(0).normal(size=image.shape)
    return gaussian_filter(image, 1) + 2 * noise


@pytest.mark.parametrize(("mode", "dark"), [("bright_field", True), ("haadf", False)])
def test_dark_cores_and_bright_cores_are_found_alike_and_the_mode_is_found_out(mode: str, dark: bool):
    found = segment_micrograph(discs(dark), SegmentationModel(CARD, threshold), "auto")
    assert found.mode == mode
    assert found.labels.max() == 2
    assert found.labels.dtype == np.uint16
    assert found.labels.shape == found.core_probability.shape == (200, 300)
    assert found.shell_labels is None


def test_objects_under_the_smallest_diameter_are_removed():
    model = SegmentationModel(CARD, threshold)
    assert segment_micrograph(discs(dark=True), model, minimum_diameter_px=30).labels.max() == 0


def test_a_model_with_shells_gives_labels_of_whole_particles():
    def nested(tile: np.ndarray) -> np.ndarray:
        core, shell = tile < -3, tile < -1
        return np.stack([~shell, shell & ~core, core], axis=-1).astype(np.float32)

    image = np.zeros((64, 64))
    image[20:44, 20:44] = -40
    image[26:38, 26:38] = -100
    card = ModelCard(**{**CARD.__dict__, "classes": ("background", "shell", "core")})
    found = segment_micrograph(image, SegmentationModel(card, nested), "bright_field")
    assert found.shell_labels is not None
    assert (found.labels > 0).sum() == 12 * 12
    assert (found.shell_labels > 0).sum() == 24 * 24


def test_touching_cores_and_shells_are_cut_apart_and_the_cores_flagged():
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


def test_a_card_from_before_diameter_errors_can_be_read(tmp_path: Path):
    write_card(tmp_path, replace(CARD, diameter_error=0.01))
    assert read_card(tmp_path).diameter_error == 0.01
    content = json.loads((tmp_path / CARD_FILE).read_text())
    del content["diameter_error"]
    (tmp_path / CARD_FILE).write_text(json.dumps(content))
    assert read_card(tmp_path).diameter_error is None


def test_a_card_comes_back_as_it_was_written(tmp_path: Path):
    write_card(tmp_path, CARD)
    assert read_card(tmp_path) == CARD


def test_a_card_of_a_later_version_with_more_fields_can_be_read(tmp_path: Path):
    write_card(tmp_path, CARD)
    content = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps({**content, "later": 1}))
    assert read_card(tmp_path) == CARD


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"classes": 3}', '{"name": "x"}', "\x00"])
def test_what_is_no_card_is_one_clear_line(tmp_path: Path, text: str):
    (tmp_path / CARD_FILE).write_text(text)
    with pytest.raises(UserError, match="not a model card"):
        read_card(tmp_path)


def test_a_card_cannot_name_weights_outside_its_folder(tmp_path: Path):
    write_card(tmp_path, ModelCard(**{**CARD.__dict__, "weights": "../../elsewhere"}))
    with pytest.raises(UserError, match="not a model card"):
        read_card(tmp_path)


def test_a_folder_without_a_model_says_so(tmp_path: Path):
    with pytest.raises(UserError, match="holds no model"):
        read_card(tmp_path)
