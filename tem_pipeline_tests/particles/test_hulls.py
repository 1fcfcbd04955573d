"""Convex hulls, and the Feret diameters and solidities that follow from them."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import ConvexHull, Delaunay, QhullError
from skimage.measure import regionprops_table

from tem_pipeline.particles import hulls
from tem_pipeline.particles.measurement import measure_particles
from tem_pipeline_tests.particles.shapes import blobs, one, particle_sheet, rectangle


def test_hull_columns_differ_from_scikit_image_only_by_the_pixel_shape():
    cores, _ = particle_sheet(1024)
    ours = measure_particles(cores)
    names = ["label", "area", "perimeter_crofton", "feret_diameter_max", "solidity", "inertia_tensor_eigvals"]
    theirs = pd.DataFrame(regionprops_table(cores, properties=names))
    assert len(ours) == len(theirs) > 600
    assert (ours.label == theirs.label).all()
    assert np.allclose(ours.area_px, theirs.area, rtol=1e-6)
    assert np.allclose(ours.perimeter_px, theirs.perimeter_crofton, rtol=1e-6)
    moments = 1 - theirs["inertia_tensor_eigvals-1"] / theirs["inertia_tensor_eigvals-0"]
    assert np.allclose(ours.eccentricity**2, moments, atol=1e-6)
    # For Feret diameters scikit-image takes a pixel as a diamond. Along diagonals the octagon reaches 0.08 px
    # further on either side. Its hull area counts the pixels within the hull of diamonds, half a pixel more
    # per side.
    longer = ours.feret_max_px - theirs.feret_diameter_max
    assert longer.min() >= -1
    assert longer.max() < 2 * (np.sqrt(2) * hulls.OCTAGON - 0.5 / np.sqrt(2)) + 1e-9
    more = theirs.area / theirs.solidity - ours.area_px / ours.solidity
    assert more.min() > -1e-6
    assert (more <= ours.perimeter_px / 2).all()


@pytest.mark.parametrize("seed", range(2))
def test_hulls_equal_the_convex_hull_of_each_particle_alone(seed):
    labels = blobs(seed, (70, 60), 1.8)
    ours = measure_particles(labels)
    t = hulls.OCTAGON
    corners = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5), (t, t), (t, -t), (-t, t), (-t, -t)])
    for found in ours.itertuples():
        points = np.argwhere(labels == found.label)
        octagons = (points[:, None] + corners).reshape(-1, 2)
        hull = octagons[ConvexHull(octagons).vertices]
        longest = np.linalg.norm(hull[:, None] - hull, axis=2).max()
        sides = np.roll(hull, -1, axis=0) - hull
        normals = np.stack((-sides[:, 1], sides[:, 0]), 1) / np.linalg.norm(sides, axis=1, keepdims=True)
        along = hull @ normals.T
        assert found.feret_max_px == pytest.approx(longest, abs=1e-9)
        assert found.feret_min_px == pytest.approx((along.max(0) - along.min(0)).min(), abs=1e-9)
        try:
            box = np.argwhere(np.ones(np.ptp(points, axis=0) + 1)) + points.min(axis=0)
            within = (Delaunay(points).find_simplex(box, tol=1e-9) >= 0).sum()
        except QhullError:  # a line
            within = np.gcd(*np.ptp(points, axis=0)) + 1
        assert found.solidity == pytest.approx(len(points) / within)


def test_the_aspect_ratio_does_not_come_from_the_bounding_box():
    found = one(rectangle(32, 8, np.pi / 4))
    assert found.bbox_bottom_px - found.bbox_top_px == found.bbox_right_px - found.bbox_left_px
    assert found.aspect_ratio == pytest.approx(8 / np.hypot(32, 8), rel=0.15)


def test_the_number_of_pairs_in_memory_makes_no_difference(monkeypatch):
    labels = blobs(5)
    whole = measure_particles(labels)
    monkeypatch.setattr(hulls, "_PAIRS_AT_ONCE", 50)
    pd.testing.assert_frame_equal(measure_particles(labels), whole)
