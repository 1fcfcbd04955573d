"""The slow part of a micrograph's intensities; how they are standardised is tested with what uses it."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tem_pipeline.micrographs.intensity import slow_part


@pytest.mark.parametrize("shape", [(96, 96), (40, 130), (1, 64)])
def test_the_slow_part_is_a_gaussian_of_a_quarter_of_each_side(shape: tuple[int, int]):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32) + np.arange(shape[1]) / 20
    expected = gaussian_filter(image.astype(float), [side / 4 for side in shape])
    np.testing.assert_allclose(slow_part(image), expected, atol=1e-3)
