import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageColor
from scipy import ndimage

from tem_pipeline.reports.overlays import COUNTED_COLOUR, EDGE_COLOUR, SHELL_COLOUR, overlay, overlay_png


def colour_mask(picture: np.ndarray, colour: str) -> np.ndarray:
    return (picture == np.array(ImageColor.getrgb(colour), np.uint8)).all(axis=2)


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros((1000, 1000), np.uint16)
    labels[100:200, 300:420], labels[0:60, 500:580], labels[600:640, 600:640] = 1, 2, 3
    return labels


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(1000, 50, (1000, 1000)).astype(np.float32)


def test_outlines_follow_the_rims_and_show_which_particles_are_cut(image, labels):
    picture = overlay(image, labels)[:1000]
    rim = (labels > 0) & (
        ndimage.minimum_filter(labels, footprint=ndimage.generate_binary_structure(2, 1)) == 0
    )
    counted, cut = colour_mask(picture, COUNTED_COLOUR), colour_mask(picture, EDGE_COLOUR)
    assert np.array_equal(counted, rim & (labels != 2))
    assert np.array_equal(cut[1:], (rim & (labels == 2))[1:])


def test_the_caller_can_choose_which_particles_are_drawn_as_cut(image, labels):
    picture = overlay(image, labels, edge_labels=[3])[:1000]
    assert colour_mask(picture, EDGE_COLOUR)[600, 620]
    assert colour_mask(picture, COUNTED_COLOUR)[59, 520]


def test_shells_are_drawn_around_cores(image, labels):
    shells = np.zeros_like(labels)
    shells[80:220, 280:440] = 1
    picture = overlay(image, labels, shells)[:1000]
    assert colour_mask(picture, SHELL_COLOUR)[80, 350]
    assert colour_mask(picture, COUNTED_COLOUR)[100, 350]
    assert not colour_mask(overlay(image, labels)[:1000], SHELL_COLOUR).any()


@pytest.mark.parametrize(("pixel_size_nm", "length_px"), [(0.1, 200), (0.03, 167), (7.0, 143), (1e-3, 200)])
def test_the_scale_bar_is_as_long_as_it_says(labels, pixel_size_nm, length_px):
    flat = np.full(labels.shape, 100.0)
    flat[0, 0] = 0
    picture = overlay(flat, np.zeros_like(labels), pixel_size_nm=pixel_size_nm)
    white = (picture[:1000] == 255).all(axis=2)
    runs = [len(run) for row in white for run in "".join("x" if w else " " for w in row).split()]
    assert max(runs, default=0) == pytest.approx(length_px, abs=1)


def test_an_uncalibrated_image_has_no_scale_bar(labels):
    flat = np.full(labels.shape, 100.0)
    plain = overlay(flat, np.zeros_like(labels))[:1000]
    assert (plain == plain[0, 0]).all()


def test_an_image_of_a_few_pixels_is_drawn():
    picture = overlay(np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint16), pixel_size_nm=0.1)
    assert picture.shape[2] == 3


@pytest.mark.parametrize("shape", [(1, 1), (3000, 2), (97_500, 64)])
def test_images_too_narrow_for_a_scale_bar_are_drawn_without(shape):
    picture = overlay(np.zeros(shape, np.uint8), np.zeros(shape, np.uint16), pixel_size_nm=0.1, max_px=1000)
    drawn = picture[: min(shape[0], 1000)]
    assert (drawn == drawn[0, 0]).all()


@pytest.mark.parametrize(
    ("shape", "max_px", "expected"),
    [
        ((200, 100), None, (800, 400)),
        ((200, 100), 500, (400, 200)),
        ((400, 512), 2048, (800, 1024)),
        ((900, 1300), 2048, (900, 1300)),
        ((900, 1300), 650, (450, 650)),
    ],
)
def test_small_images_are_magnified_by_whole_numbers_large_ones_reduced(shape, max_px, expected):
    picture = overlay(np.zeros(shape, np.uint8), np.zeros(shape, np.uint16), max_px=max_px)
    assert picture.shape[1] == expected[1]
    assert expected[0] < picture.shape[0] <= expected[0] + 120


@pytest.mark.parametrize("side", [64, 512, 3000])
def test_thumbnails_of_noise_stay_under_100_kb_and_keep_their_colours(side):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 65_535, (side, side)).astype(np.uint16)
    labels = np.zeros((side, side), np.uint16)
    labels[side // 4 : side // 2, side // 4 : side // 2], labels[: side // 8, : side // 8] = 1, 2
    encoded = overlay_png(image, labels, pixel_size_nm=0.1)
    assert len(encoded) <= 100_000
    picture = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    assert max(picture.shape) >= 200
    assert colour_mask(picture, COUNTED_COLOUR).sum() > 100
    assert colour_mask(picture, EDGE_COLOUR).sum() > 30


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int32])
def test_images_of_any_type_and_constant_ones_are_drawn(dtype):
    picture = overlay(np.full((40, 30), 7, dtype), np.zeros((40, 30), np.uint32))
    assert picture.dtype == np.uint8


def test_a_picture_of_unlimited_size_differs_by_at_most_one_grey_level(image, labels):
    encoded = overlay_png(image, labels, pixel_size_nm=0.1, max_px=1000, maximum_bytes=None)
    picture = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)
    drawn = overlay(image, labels, pixel_size_nm=0.1, max_px=1000)
    assert picture.shape == drawn.shape
    assert np.abs(picture - drawn).max() == 1
    for colour in (COUNTED_COLOUR, EDGE_COLOUR):
        assert np.array_equal(colour_mask(picture, colour), colour_mask(drawn, colour))


def test_drawing_does_not_load_matplotlib():
    code = (
        "import sys, numpy as np; from tem_pipeline.reports.overlays import overlay_png;"
        "overlay_png(np.ones((64, 64)), np.ones((64, 64), int), pixel_size_nm=1);"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
