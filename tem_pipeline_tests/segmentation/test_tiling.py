"""Predicting an image in overlapping tiles."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tem_pipeline.micrographs.intensity import standardise
from tem_pipeline.segmentation.inference import predict_classes
from tem_pipeline.segmentation.models import load_model
from tem_pipeline.segmentation.tiling import TILE_OVERLAP_PX, TILE_PX, _tile_starts, predict_strips
from tem_pipeline.settings import Settings
from tem_pipeline.simulation.micrographs import simulate_micrograph
from tem_pipeline_tests.segmentation.networks import threshold


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    tile_px=st.sampled_from([64, 128]),
    overlap_px=st.sampled_from([0, 16, 32]),
    seed=st.integers(0, 9),
)
def test_blended_tiles_equal_the_prediction_of_the_whole_image(height, width, tile_px, overlap_px, seed):
    image = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    strips = list(predict_strips(threshold, image, tile_px, overlap_px))
    assert [top for top, _ in strips] == np.cumsum([0, *(len(rows) for _, rows in strips[:-1])]).tolist()
    whole = np.concatenate([rows for _, rows in strips])
    assert whole.shape == (height, width, 2)
    assert np.allclose(whole, threshold(image), atol=1e-5)


def test_the_network_gets_sides_that_are_multiples_of_16_up_to_a_tile():
    seen = []

    def spy(tile: np.ndarray) -> np.ndarray:
        seen.append(tile.shape)
        return threshold(tile)

    list(predict_strips(spy, np.zeros((333, 1000), np.float32), 256, 64))
    assert all(side % 16 == 0 and side <= 256 for shape in seen for side in shape)


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 5000),
    tile_px=st.sampled_from([64, 128, 512]),
    overlap_px=st.sampled_from([0, 16, 32]),
)
def test_tiles_cover_an_image_with_little_more_than_the_overlap(length, tile_px, overlap_px):
    starts, side = _tile_starts(length, tile_px, overlap_px)
    padded = -(-length // 16) * 16
    assert side % 16 == 0
    assert side <= tile_px
    assert (starts[0], starts[-1] + side) == (0, padded)
    assert all(step <= side - overlap_px for step in np.diff(starts))
    assert len(starts) * side < padded + (len(starts) - 1) * overlap_px + 16 * len(starts)


def test_a_strip_is_no_taller_than_a_row_of_tiles():
    tallest = max(
        len(rows) for _, rows in predict_strips(threshold, np.zeros((2000, 64), np.float32), 128, 32)
    )
    assert tallest <= 128


def test_a_micrograph_in_tiles_has_the_same_classes_as_in_one_tile(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TEM_PRETRAINED_MODEL")
    model = load_model(Path(Settings().pretrained_model), threads=1, precision="f32")
    drawn = simulate_micrograph(np.random.default_rng(0), shape=(1024, 1024))
    image = standardise(drawn.image, drawn.mode)
    tiled, _ = predict_classes(model, image, scales=(1,))
    whole, _ = predict_classes(model, image, scales=(1,), tile_px=1024)
    assert len(np.unique(whole)) == 3
    assert 0 < np.mean(tiled != whole) < 0.001


def test_the_default_tiles_are_the_same_in_settings_and_in_tiling():
    asked = {name: Settings.model_fields[name].default for name in ("tile_px", "tile_overlap_px")}
    assert asked == {"tile_px": TILE_PX, "tile_overlap_px": TILE_OVERLAP_PX}
