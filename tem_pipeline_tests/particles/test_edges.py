import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tem_pipeline.particles.edges import edge_weights, touches_edge


def test_a_particle_touches_the_edge_when_one_of_its_pixels_lies_on_the_frame():
    boxes = [(0, 3, 2, 5), (1, 0, 4, 3), (1, 1, 9, 9), (5, 5, 10, 8), (5, 5, 8, 12), (2, 2, 9, 11)]
    top, left, bottom, right = np.array(boxes).T
    touching = touches_edge(top, left, bottom, right, (10, 12))
    assert touching.tolist() == [True, True, False, True, True, False]


@given(st.integers(1, 50), st.integers(1, 70))
def test_the_weight_is_one_over_the_chance_of_lying_whole_in_the_field(height, width):
    weight = edge_weights(np.array([height]), np.array([width]), np.array([False]), (60, 80))[0]
    assert np.isclose(1 / weight, (80 - width) * (60 - height) / (80 * 60))
    assert weight >= 1


def test_particles_at_the_edge_have_no_weight():
    assert np.isnan(edge_weights(np.array([3.0]), np.array([3.0]), np.array([True]), (60, 80)))[0]


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
