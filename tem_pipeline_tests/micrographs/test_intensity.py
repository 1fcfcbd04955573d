"""The slow part of a micrograph's intensities; how they are standardised is tested with what uses it."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tem_pipeline.micrographs.intensity import detect_mode, slow_part, standardise


@pytest.mark.parametrize("shape", [(96, 96), (40, 130), (1, 64)])
def test_the_slow_part_is_a_gaussian_of_a_quarter_of_each_side(shape: tuple[int, int]):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32) + np.arange(shape[1]) / 20
    expected = gaussian_filter(image.astype(float), [side / 4 for side in shape])
    np.testing.assert_allclose(slow_part(image), expected, atol=1e-3)


def particles(sign: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    image = rng.normal(1000, 20, (256, 300))
    for y, x in rng.uniform(20, 236, (14, 2)).astype(int):
        image[y - 8 : y + 8, x - 8 : x + 8] += sign * 300
    return image


@pytest.mark.parametrize("faulty", [60_000, 0])
@pytest.mark.parametrize("share", [0.0005, 0.003, 0.009])
@pytest.mark.parametrize(("sign", "mode"), [(-1, "bright_field"), (1, "haadf")])
def test_single_hot_or_dead_pixels_do_not_set_scale_or_mode(faulty, share, sign, mode):
    image = particles(sign)
    where = np.random.default_rng(2).random(image.shape) < share
    damaged = np.where(where, faulty, image)
    assert detect_mode(damaged) == (mode, True)
    good, bad = standardise(image, mode)[~where], standardise(damaged, mode)[~where]
    np.testing.assert_allclose(bad, good, rtol=0.1, atol=0.05)


def test_images_without_faulty_pixels_keep_the_plain_percentiles():
    for sign, mode in ((-1, "bright_field"), (1, "haadf")):
        image = particles(sign)
        low, median, high = np.percentile(image, (0.1, 50, 99.9))
        expected = -sign * (image - median) / np.clip(image, low, high).std()
        np.testing.assert_allclose(standardise(image, mode), np.clip(expected, -8, 8), atol=1e-5)
