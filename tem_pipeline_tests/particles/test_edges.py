"""Particles on the frame, and the weights that correct the bias towards small particles."""

import numpy as np
import pytest

from tem_pipeline.particles.edges import edge_weights, touches_edge

FIELD = (100, 120)
SIZES = ((8, 12), (60, 40), (30, 90))


def weight_of(size: tuple[float, float], field: tuple[int, int]) -> float:
    """Give the weight of one whole particle, height and width in px."""
    height, width = size
    return float(edge_weights(np.array([height]), np.array([width]), np.array([False]), field)[0])


def test_a_particle_with_a_pixel_on_the_frame_touches_the_edge():
    boxes = [(0, 3, 2, 5), (1, 0, 4, 3), (1, 1, 9, 9), (5, 5, 10, 8), (5, 5, 8, 12), (2, 2, 9, 11)]
    top, left, bottom, right = np.array(boxes).T
    touching = touches_edge(top, left, bottom, right, (10, 12))
    assert touching.tolist() == [True, True, False, True, True, False]


def test_particles_at_the_edge_have_no_weight():
    assert np.isnan(edge_weights(np.array([3.0]), np.array([3.0]), np.array([True]), (60, 80)))[0]


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 8), (3, 1)])
def test_weights_of_whole_particles_at_all_positions_add_up_to_the_area(size: tuple[int, int]):
    height, width = size
    field = (6, 9)
    # One particle at a time, its upper left corner in the middle of each pixel of the field: it is counted
    # with its weight where all of it is inside. The sum must be one particle per position.
    whole = sum(
        y + 0.5 + height < field[0] and x + 0.5 + width < field[1]
        for y in range(field[0])
        for x in range(field[1])
    )
    assert whole * weight_of(size, field) == pytest.approx(field[0] * field[1], rel=1e-12)


def test_random_fields_of_a_plane_give_its_density_with_weights_only():
    rng = np.random.default_rng(7)
    side, count, fields = 4000, 40_000, 400
    corners = rng.uniform(0, side, (fields, 2))
    expected = count / side**2 * FIELD[0] * FIELD[1]
    for height, width in SIZES:
        y, x = rng.uniform(0, side, (2, count))  # upper left corners of equal rectangles
        plain = np.empty(fields)
        for number, (top, left) in enumerate(corners):
            # The plane is periodic, so every field sees the same density.
            inside = ((y - top) % side + height < FIELD[0]) & ((x - left) % side + width < FIELD[1])
            plain[number] = np.count_nonzero(inside)
        weighted = plain * weight_of((height, width), FIELD)
        error = weighted.std(ddof=1) / np.sqrt(fields)
        assert error < 0.08 * expected
        assert abs(weighted.mean() - expected) < 4 * error
        assert plain.mean() + 10 * plain.std(ddof=1) / np.sqrt(fields) < expected


def test_weights_remove_the_bias_towards_small_particles():
    rng = np.random.default_rng(1)
    side = 200.0
    diameter = rng.uniform(10, 90, 200_000)
    y, x = rng.uniform(0, side, (2, len(diameter)))
    whole = (np.minimum(y, x) > diameter / 2) & (np.maximum(y, x) < side - diameter / 2)
    weights = edge_weights(diameter, diameter, ~whole, (200, 200))
    plain = diameter[whole].mean()
    corrected = np.average(diameter[whole], weights=weights[whole])
    assert plain < 0.9 * diameter.mean()
    assert abs(corrected / diameter.mean() - 1) < 0.01
    assert abs(weights[whole].sum() / len(diameter) - 1) < 0.01
