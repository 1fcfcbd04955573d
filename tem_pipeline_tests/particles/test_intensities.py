"""Intensities of particles and of the background around them, and confidence."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import regionprops_table

from tem_pipeline.particles.measurement import measure_particles
from tem_pipeline_tests.particles.shapes import blobs, block, one


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_mean_and_minimum_intensities_equal_scikit_image(seed, dtype):
    labels = blobs(seed)
    labels = np.where(labels > 0, labels * 7 + 3, 0).astype(dtype)
    image = np.random.default_rng(seed).integers(0, 60_000, labels.shape).astype(np.uint16)
    ours = measure_particles(labels, image)
    theirs = regionprops_table(labels, image, properties=["intensity_mean", "intensity_min"])
    assert len(ours) > 30
    assert np.allclose(ours.mean_intensity, theirs["intensity_mean"], rtol=1e-6, atol=1e-6)
    assert np.allclose(ours.minimum_intensity, theirs["intensity_min"], rtol=1e-6, atol=1e-6)


def test_intensities_are_compared_with_the_background_around_each_particle():
    image = np.tile(np.linspace(100, 300, 200), (80, 1))
    labels = np.zeros(image.shape, np.uint16)
    labels[30:50, 20:40], labels[30:50, 150:170] = 1, 2
    image[labels > 0] *= 0.5
    table = measure_particles(labels, image)
    ramp = np.linspace(100, 300, 200)
    assert table.background_intensity.tolist() == pytest.approx(
        [ramp[20:40].mean(), ramp[150:170].mean()], rel=0.01
    )
    assert table.contrast.tolist() == pytest.approx([-0.5, -0.5], abs=0.01)
    assert table.minimum_intensity.tolist() == pytest.approx([ramp[20] / 2, ramp[150] / 2])


def test_neighbours_and_blurred_rims_are_no_background():
    labels = np.zeros((60, 60), np.uint16)
    labels[20:40, 10:30], labels[20:40, 34:54] = 1, 2
    image = np.full(labels.shape, 200.0)
    image[ndimage.binary_dilation(labels > 0, np.ones((3, 3)))] = 7.0
    table = measure_particles(labels, image)
    assert table.background_intensity.tolist() == [200, 200]
    assert table.contrast.tolist() == pytest.approx([-0.965, -0.965])


def test_a_particle_that_fills_the_image_has_no_background():
    found = one(np.ones((12, 12), np.uint16), image=np.full((12, 12), 5.0))
    assert np.isnan(found.background_intensity)
    assert np.isnan(found.contrast)


def test_there_is_no_contrast_if_the_background_is_not_positive():
    found = one(block(6, 6), image=np.where(block(6, 6) > 0, 3.0, -2.0))
    assert found.background_intensity == -2
    assert np.isnan(found.contrast)


def test_confidence_is_the_mean_probability_also_from_eight_bits():
    labels = block(6, 6)
    probability = np.where(labels > 0, 0.8, 0.3)
    assert one(labels, core_probability=probability).confidence == pytest.approx(0.8)
    eight_bits = np.round(probability * 255).astype(np.uint8)
    assert one(labels, core_probability=eight_bits).confidence == pytest.approx(0.8)
