"""Perimeters by Crofton's formula."""

import numpy as np
import pytest
from skimage.measure import perimeter_crofton, regionprops_table

from tem_pipeline.particles.measurement import measure_particles
from tem_pipeline_tests.particles.shapes import blobs, block, one


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_perimeters_equal_those_of_scikit_image(seed, dtype):
    labels = blobs(seed)
    labels = np.where(labels > 0, labels * 7 + 3, 0).astype(dtype)
    theirs = regionprops_table(labels, properties=["perimeter_crofton"])["perimeter_crofton"]
    assert len(theirs) > 30
    assert np.allclose(measure_particles(labels).perimeter_px, theirs, rtol=1e-6, atol=1e-6)


def test_touching_particles_have_the_perimeters_they_have_alone():
    labels = np.zeros((30, 30), np.uint16)
    labels[5:15, 5:15], labels[5:20, 15:22], labels[15:25, 8:15] = 1, 2, 3
    table = measure_particles(labels)
    assert table.perimeter_px.tolist() == pytest.approx(
        [perimeter_crofton(labels == k, 4) for k in (1, 2, 3)]
    )


@pytest.mark.parametrize(("side", "bias"), [(5, -0.107), (40, -0.059), (1000, -0.052)])
def test_crofton_is_too_short_on_squares_by_the_documented_amount(side, bias):
    assert one(block(side, side)).perimeter_px / (4 * side) - 1 == pytest.approx(bias, abs=5e-4)
