import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.intensity import standardise
from tem_pipeline.segmentation.inference import (
    input_scale,
    predict_averaged_strips,
    predict_classes,
    segment_micrograph,
    size_scale,
)
from tem_pipeline.segmentation.models import (
    CARD_FILE,
    ModelCard,
    SegmentationModel,
    load_model,
    read_card,
    write_card,
)
from tem_pipeline.segmentation.tiling import TILE_OVERLAP_PX, TILE_PX, _tile_starts, predict_strips
from tem_pipeline.settings import Settings
from tem_pipeline.simulation.micrographs import simulate_micrograph

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


# --- other sizes and mirrorings -----------------------------------------------------------------------------


def leaning(tile: np.ndarray) -> np.ndarray:
    """A network that draws everything down and to the right, and is surer the further right."""
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
def test_averaged_probabilities_are_as_large_as_the_image_and_sum_to_one(height, width, scales, flips):
    image = np.random.default_rng(height).normal(size=(height, width)).astype(np.float32)
    told: list[float] = []
    strips = list(predict_averaged_strips(threshold, image, scales, flips, 64, 16, told.append))
    assert [top for top, _ in strips] == np.cumsum([0, *(len(rows) for _, rows in strips[:-1])]).tolist()
    whole = np.concatenate([rows for _, rows in strips])
    assert whole.shape == (height, width, 2)
    assert np.allclose(whole.sum(axis=-1), 1, atol=2e-4)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)


@pytest.mark.parametrize("scales", [(0.5,), (0.37,), (1.9,), (1.0, 0.5)])
def test_what_is_found_at_another_size_lies_where_it_is_and_is_as_large(scales):
    def halfway(tile: np.ndarray) -> np.ndarray:
        return threshold(tile - (tile.min() + tile.max()) / 2 - 1)

    y, x = np.mgrid[:240, :311]
    image = gaussian_filter(np.where(np.hypot(y - 90.3, x - 170.8) < 40, -2.5, 0.5), 1).astype(np.float32)
    class_map, _ = predict_classes(SegmentationModel(CARD, halfway), image, scales=scales)
    centre = [axis[class_map > 0].mean() for axis in (y, x)]
    assert centre == pytest.approx([90.3, 170.8], abs=0.2)
    assert (class_map > 0).sum() == pytest.approx(np.pi * 40**2, rel=0.04)


def test_at_its_own_size_an_image_is_passed_on_strip_by_strip():
    tiles = []

    def spy(tile: np.ndarray) -> np.ndarray:
        tiles.append(tile.shape)
        return threshold(tile)

    strips = predict_averaged_strips(spy, np.zeros((2000, 64), np.float32), (1.0,), False, 128, 32)
    top, rows = next(strips)
    assert (top, rows.shape[1]) == (0, 64)
    assert len(tiles) == 1


def test_an_image_is_brought_to_the_pixel_size_of_the_training_images_only_where_it_is_far_from_it():
    card = replace(CARD, pixel_size_nm=(0.1, 0.2))
    assert [input_scale(card, size, 10**6) for size in (0.081, 0.1, 0.15, 0.2, 0.249)] == [1.0] * 5
    assert input_scale(card, 0.05, 10**6) == pytest.approx(0.5)
    assert input_scale(card, 0.4, 10**6) == pytest.approx(2)
    assert input_scale(card, 50, 10**6) == 4
    assert input_scale(card, 0.8, 2**25) == pytest.approx(2)
    assert input_scale(card, 0.8, 2**28) == 1
    assert input_scale(card, None, 10**6) == input_scale(CARD, 0.05, 10**6) == 1


def test_a_model_sees_a_finer_image_as_large_as_its_training_images_and_labels_stay_as_large_as_the_image():
    shapes = []

    def spy(tile: np.ndarray) -> np.ndarray:
        shapes.append(tile.shape)
        return threshold(tile)

    model = SegmentationModel(replace(CARD, pixel_size_nm=(0.1, 0.1)), spy)
    found = segment_micrograph(discs(dark=True), model, pixel_size_nm=0.04)
    assert shapes == [(80, 128)]  # 200 × 300 at 0.4, filled up to multiples of 16
    assert found.labels.shape == found.core_probability.shape == (200, 300)
    assert found.labels.max() == 2


def test_the_smallest_diameter_in_nm_holds_where_it_is_the_larger_and_the_image_is_calibrated():
    model = SegmentationModel(CARD, threshold)  # the discs are 24 px across

    def number(**options: Any) -> int:
        return int(segment_micrograph(discs(dark=True), model, **options).labels.max())

    assert number(minimum_diameter_nm=3.0, pixel_size_nm=0.1) == 0
    assert number(minimum_diameter_nm=2.0, pixel_size_nm=0.1) == 2
    assert number(minimum_diameter_nm=0.1, pixel_size_nm=0.1, minimum_diameter_px=30) == 0
    assert number(minimum_diameter_nm=3.0) == 2


@pytest.mark.parametrize(
    ("diameters_px", "shown"),
    [
        ((20, 30), [(208, 304)]),  # the discs are 24 px across
        ((30, 90), [(208, 304), (400, 608)]),
        ((5, 12), [(208, 304), (112, 160)]),
        ((100, 200), [(208, 304), (400, 608)]),  # one step, however far off
        (None, [(208, 304)]),
    ],
)
def test_an_image_of_particles_of_a_size_that_a_model_is_bad_at_is_shown_to_it_again_at_another(
    diameters_px, shown
):
    shapes = []

    def spy(tile: np.ndarray) -> np.ndarray:
        shapes.append(tile.shape)
        return threshold(tile)

    model = SegmentationModel(replace(CARD, diameters_px=diameters_px), spy)
    found = segment_micrograph(discs(dark=True), model, tile_px=1024)
    assert shapes == shown
    assert found.labels.shape == (200, 300)
    assert found.labels.max() == 2


def test_the_size_of_particles_is_that_which_the_network_saw():
    card = replace(CARD, pixel_size_nm=(0.1, 0.1), diameters_px=(30, 90))
    mask = np.zeros((400, 400), bool)
    mask[100:130, 100:130] = True  # 34 px across in the image
    assert size_scale(card, mask, 0.5) == 2
    assert size_scale(card, mask, 2) == 1
    assert size_scale(card, mask, 3) == 0.5
    assert size_scale(replace(card, diameters_px=(300, 900)), mask, 2) == 2
    assert size_scale(replace(card, diameters_px=(300, 900)), mask, 2.5) == 1  # 5 times is too much


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 5000),
    tile_px=st.sampled_from([64, 128, 512]),
    overlap_px=st.sampled_from([0, 16, 32]),
)
def test_tiles_cover_an_image_with_the_overlap_and_hardly_more(length, tile_px, overlap_px):
    starts, side = _tile_starts(length, tile_px, overlap_px)
    padded = -(-length // 16) * 16
    assert side % 16 == 0
    assert side <= tile_px
    assert (starts[0], starts[-1] + side) == (0, padded)
    assert all(step <= side - overlap_px for step in np.diff(starts))
    assert len(starts) * side < padded + (len(starts) - 1) * overlap_px + 16 * len(starts)


def test_a_micrograph_in_tiles_has_the_classes_of_one_in_a_single_tile(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TEM_PRETRAINED_MODEL")
    model = load_model(Path(Settings().pretrained_model), threads=1, precision="f32")
    drawn = simulate_micrograph(np.random.default_rng(0), shape=(1024, 1024))
    image = standardise(drawn.image, drawn.mode)
    tiled, _ = predict_classes(model, image, scales=(1,))
    whole, _ = predict_classes(model, image, scales=(1,), tile_px=1024)
    assert len(np.unique(whole)) == 3
    assert 0 < np.mean(tiled != whole) < 0.001


def test_unset_the_settings_ask_for_the_tiles_that_segmenting_takes_by_itself():
    asked = {name: Settings.model_fields[name].default for name in ("tile_px", "tile_overlap_px")}
    assert asked == {"tile_px": TILE_PX, "tile_overlap_px": TILE_OVERLAP_PX}


def test_an_image_is_not_shown_again_where_nothing_is_found_or_where_it_would_grow_too_large():
    card = replace(CARD, diameters_px=(30, 90))
    mask = np.zeros((64, 64), bool)
    assert size_scale(card, mask) == 1
    mask[10:20, 10:20] = True
    assert size_scale(card, mask) == 2
    large = np.broadcast_to(mask[:, None, :, None], (64, 100, 64, 100)).reshape(6400, 6400)
    assert size_scale(replace(card, diameters_px=(3000, 4000)), large) == 1


def test_a_threshold_on_the_card_decides_what_is_core_and_the_rest_goes_to_the_other_classes():
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


def test_under_a_low_threshold_a_region_is_core_only_if_it_is_so_on_the_whole():
    core = np.zeros((48, 64), np.float32)
    core[5:15, 5:15] = 0.42  # the rim of a sure core
    core[7:13, 7:13] = 0.95
    core[5:15, 30:40] = 0.47  # nowhere sure, within a shell
    core[25:30, 5:10] = 0.47  # nor this, on the background
    core[25:31, 30:36] = 0.53  # hardly surer, but on the whole more probably core than not
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


def test_a_card_from_before_diameter_errors_can_be_read(tmp_path: Path):
    write_card(tmp_path, replace(CARD, diameter_error=0.01))
    assert read_card(tmp_path).diameter_error == 0.01
    content = json.loads((tmp_path / CARD_FILE).read_text())
    del content["diameter_error"]
    (tmp_path / CARD_FILE).write_text(json.dumps(content))
    assert read_card(tmp_path).diameter_error is None


def test_a_card_comes_back_as_it_was_written(tmp_path: Path):
    for card in (
        CARD,
        replace(CARD, pixel_size_nm=(0.1, 0.2), scales=(1.0, 0.5), core_threshold=0.4, diameters_px=(20, 90)),
    ):
        write_card(tmp_path, card)
        assert read_card(tmp_path) == card


@pytest.mark.parametrize(
    "wrong",
    [
        {"scales": ()},
        {"scales": (0.0,)},
        {"core_threshold": 1.5},
        {"pixel_size_nm": (0.2, 0.1)},
        {"diameters_px": (0, 9)},
    ],
)
def test_a_card_with_impossible_values_is_one_clear_line(tmp_path: Path, wrong: dict):
    write_card(tmp_path, replace(CARD, **wrong))
    with pytest.raises(UserError, match="not a model card"):
        read_card(tmp_path)


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
