"""Areas, positions and second moments from the runs of pixels."""

import numpy as np
import pandas as pd
import pytest
from skimage.measure import regionprops_table

from tem_pipeline.particles import runs
from tem_pipeline.particles.measurement import measure_particles
from tem_pipeline_tests.particles.shapes import blobs


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_areas_positions_and_moments_equal_scikit_image(seed, dtype):
    labels = blobs(seed)
    labels = np.where(labels > 0, labels * 7 + 3, 0).astype(dtype)
    ours = measure_particles(labels)
    names = {
        "label": "label",
        "area": "area_px",
        "equivalent_diameter_area": "equivalent_diameter_px",
        "eccentricity": "eccentricity",
        "centroid-0": "centroid_y_px",
        "centroid-1": "centroid_x_px",
        "bbox-0": "bbox_top_px",
        "bbox-1": "bbox_left_px",
        "bbox-2": "bbox_bottom_px",
        "bbox-3": "bbox_right_px",
    }
    theirs = regionprops_table(labels, properties=sorted({n.split("-")[0] for n in [*names, "orientation"]}))
    assert len(ours) > 30
    for name, column in names.items():
        assert np.allclose(ours[column], theirs[name], rtol=1e-6, atol=1e-6), name
    turn = (ours.orientation_rad - theirs["orientation"]).abs()[ours.eccentricity > 0.05] % np.pi
    assert np.minimum(turn, np.pi - turn).max() < 1e-6


def test_a_single_pixel_and_a_line_are_measured():
    labels = np.zeros((9, 9), np.uint16)
    labels[1, 1] = 1
    labels[4, 2:8] = 2
    point, line = measure_particles(labels).itertuples()
    assert (point.area_px, point.solidity, point.eccentricity) == (1, 1, 0)
    assert point.feret_max_px == pytest.approx(1)
    assert 0.8 < point.feret_min_px <= 1
    assert line.feret_min_px == pytest.approx(1)
    assert line.feret_max_px == pytest.approx(6)
    assert (line.solidity, line.eccentricity) == (1, 1)
    assert np.isfinite([point.circularity, line.circularity]).all()


def test_reading_in_strips_makes_no_difference(monkeypatch):
    labels = blobs(5).astype(np.uint16)
    image = np.random.default_rng(0).normal(100, 5, labels.shape)
    whole = measure_particles(labels, image, image / 200, 0.1)
    monkeypatch.setattr(runs, "_STRIP_PX", 300)
    pd.testing.assert_frame_equal(measure_particles(labels, image, image / 200, 0.1), whole)
