import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation import instances
from tem_pipeline.segmentation.instances import label_instances, typical_diameter_px

masks = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.booleans())


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(1, 6))
def test_labels_are_the_large_enough_components_in_raster_order(mask, minimum):
    labels = label_instances(mask, minimum)
    expected, n = ndimage.label(mask)
    large = [k for k in range(1, n + 1) if (expected == k).sum() >= minimum]
    assert labels.max(initial=0) == len(large)
    assert np.array_equal(labels > 0, np.isin(expected, large))
    firsts = [np.flatnonzero(labels.ravel() == k)[0] for k in range(1, len(large) + 1)]
    assert firsts == sorted(firsts)
    for k in large:
        assert len(np.unique(labels[expected == k])) == 1


def test_particles_that_only_touch_at_a_corner_are_separate():
    mask = np.zeros((8, 8), bool)
    mask[1:4, 1:4] = mask[4:7, 4:7] = True
    assert label_instances(mask, 1).max() == 2


def test_a_particle_of_exactly_the_minimum_area_stays():
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:5] = True
    assert label_instances(mask, 6).max() == 1
    assert label_instances(mask, 7).max() == 0


@pytest.mark.parametrize(("side", "expected"), [(510, np.uint16), (514, np.uint32)])
def test_label_images_are_16_bit_until_65535_particles(side, expected):
    mask = np.zeros((side, side), bool)
    mask[::2, ::2] = True
    labels = label_instances(mask, 1)
    assert labels.dtype == expected
    assert labels.max() == (side // 2) ** 2
    assert labels[mask].min() == 1


def test_reading_in_strips_makes_no_difference(monkeypatch):
    mask = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(120, 90)), 2) > 0.1
    whole = label_instances(mask, 5)
    monkeypatch.setattr(instances, "_STRIP_PX", 200)
    assert np.array_equal(label_instances(mask, 5), whole)


@pytest.mark.parametrize("mask", [np.ones((4, 4), np.uint8), np.ones((2, 4, 4), bool)])
def test_anything_but_a_2d_bool_mask_is_refused(mask):
    with pytest.raises(UserError, match="2-D bool"):
        label_instances(mask, 1)


def test_half_of_the_area_belongs_to_particles_up_to_the_typical_diameter():
    y, x = np.mgrid[:200, :300]
    mask = np.hypot(y - 100, x - 80) < 30
    mask |= np.hypot(y - 100, x - 200) < 40
    mask[::12, 285:] = True  # specks of one row
    assert typical_diameter_px(mask) == pytest.approx(80, rel=0.01)
    mask[60:140, 120:245] = False
    assert typical_diameter_px(mask) == pytest.approx(60, rel=0.01)
    assert typical_diameter_px(mask, 10_000) is None
    assert typical_diameter_px(np.zeros((9, 9), bool)) is None
