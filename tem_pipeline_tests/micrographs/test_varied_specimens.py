"""Specimens of every kind: valid class maps, particles that stand out, the same seed the same image."""

import numpy as np
import pytest

from tem_pipeline.micrographs.intensity import standardise
from tem_pipeline.micrographs.varied_specimens import KINDS, VariedMicrograph, simulate_varied_micrograph


@pytest.fixture(scope="module")
def drawn() -> list[VariedMicrograph]:
    return [simulate_varied_micrograph(np.random.default_rng((1, index)), 192) for index in range(80)]


def test_the_same_seed_gives_the_same_micrograph(drawn: list[VariedMicrograph]):
    again = simulate_varied_micrograph(np.random.default_rng((1, 3)), 192)
    assert np.array_equal(again.image, drawn[3].image)
    assert np.array_equal(again.class_map, drawn[3].class_map)


def test_every_kind_and_both_modes_come_up(drawn: list[VariedMicrograph]):
    assert {one.kind for one in drawn} == set(KINDS)
    assert {one.mode for one in drawn} == {"bright_field", "haadf"}
    assert {one.image.dtype.name for one in drawn} == {"uint8", "uint16"}


def test_class_maps_fit_their_images_and_know_no_other_class(drawn: list[VariedMicrograph]):
    for one in drawn:
        assert one.image.shape == one.class_map.shape == (192, 192)
        assert set(np.unique(one.class_map)) <= {0, 1, 2}
        assert one.kind in ("session", "core_shell") or not np.any(one.class_map == 1)


def test_cores_are_darker_than_their_surroundings_once_standardised(drawn: list[VariedMicrograph]):
    from scipy.ndimage import binary_dilation

    darker = []
    for one in drawn:
        cores = one.class_map == 2
        around = binary_dilation(cores, iterations=3) & ~cores
        if cores.sum() > 100 and around.any():
            image = standardise(one.image, one.mode)
            darker.append(image[cores].mean() < image[around].mean())
    assert len(darker) > 50
    assert np.mean(darker) > 0.95
