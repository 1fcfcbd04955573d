"""Micrographs of every kind of specimen: class maps, visibility of particles, reproducibility."""

import numpy as np
import pytest

from tem_pipeline.micrographs.intensity import standardise
from tem_pipeline.simulation import varied_micrographs, varied_specimens
from tem_pipeline.simulation.varied_micrographs import (
    AMBIGUOUS,
    HIDDEN,
    SEEN,
    UNSEEN,
    VariedMicrograph,
    simulate_varied_micrograph,
)
from tem_pipeline.simulation.varied_specimens import KINDS


@pytest.fixture(scope="module")
def drawn() -> list[VariedMicrograph]:
    return [simulate_varied_micrograph(np.random.default_rng((1, index)), 192) for index in range(80)]


def test_the_same_seed_gives_the_same_micrograph(drawn: list[VariedMicrograph]):
    again = simulate_varied_micrograph(np.random.default_rng((1, 3)), 192)
    assert np.array_equal(again.image, drawn[3].image)
    assert np.array_equal(again.class_map, drawn[3].class_map)


def test_every_kind_and_both_modes_are_drawn(drawn: list[VariedMicrograph]):
    assert {one.kind for one in drawn} == set(KINDS)
    assert {one.mode for one in drawn} == {"bright_field", "haadf"}
    assert {one.image.dtype.name for one in drawn} == {"uint8", "uint16"}


def test_class_maps_have_the_image_shape_and_only_known_classes(drawn: list[VariedMicrograph]):
    for one in drawn:
        assert one.image.shape == one.class_map.shape == (192, 192)
        bare = one.kind not in ("session", "core_shell")
        assert set(np.unique(one.class_map)) <= ({0, 2, HIDDEN, AMBIGUOUS} if bare else {0, 1, 2})


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


def test_hardly_visible_bare_particles_are_ambiguous_and_invisible_hidden(
    monkeypatch: pytest.MonkeyPatch,
):
    def drawn(visibility: float) -> np.ndarray:
        monkeypatch.setattr(
            varied_micrographs,
            "_visibility",
            lambda image, cores: np.where(np.arange(5000), visibility, np.inf),
        )
        monkeypatch.setattr(varied_specimens, "EDGE", 0.0)
        rng = np.random.default_rng(3)
        return varied_micrographs._specimen_image(rng, 128, "bare", (12.0, 12.0), uneven=False)[1]

    seen, hard, unseen = drawn(2 * SEEN), drawn((SEEN + UNSEEN) / 2), drawn(UNSEEN / 2)
    assert set(np.unique(seen)) == {0, 2}
    assert np.array_equal(hard == AMBIGUOUS, seen == 2)
    assert np.array_equal(unseen == HIDDEN, seen == 2)


def test_uneven_specimens_have_faint_particles_next_to_strong_ones(monkeypatch: pytest.MonkeyPatch):
    weigh = varied_micrographs._visibility

    def drawn(uneven: bool) -> np.ndarray:
        """Give, of images with several particles, the lower and the upper quartile of visibility."""
        quartiles = []

        def spy(image: np.ndarray, cores: np.ndarray) -> np.ndarray:
            visibility = weigh(image, cores)
            here = visibility[np.unique(cores[cores > 0])]
            if len(here) >= 8:
                quartiles.append(np.quantile(here, (0.25, 0.75)))
            return visibility

        monkeypatch.setattr(varied_micrographs, "_visibility", spy)
        for index in range(40):
            rng = np.random.default_rng((2, index))
            varied_micrographs._specimen_image(rng, 192, "supported", (8.0, 16.0), uneven)
        return np.array(quartiles)

    even, uneven = drawn(False), drawn(True)
    assert np.median(uneven[:, 0]) < 0.6 * np.median(even[:, 0])
    assert np.median(uneven[:, 1] / uneven[:, 0]) > 1.25 * np.median(even[:, 1] / even[:, 0])


def test_visibility_is_contrast_over_noise_and_relief_of_particle_size():
    y, x = np.indices((200, 300))
    cores = np.zeros((200, 300), np.int32)
    for number, column in enumerate((60, 150, 240), start=1):
        cores[np.hypot(y - 100, x - column) < 8] = number
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, cores.shape)
    contrast = np.array([0, 2, -2, 0.01])
    _, bright, dark, hidden = varied_micrographs._visibility(noise + contrast[cores], cores)
    assert min(bright, dark) > 10 * SEEN
    assert hidden < SEEN
    # Relief as wide as the particles hides particles that are visible in pixel noise.
    relief = varied_specimens._field(rng, 300, 8.0)[:200]
    _, bright, dark, _ = varied_micrographs._visibility(2 * relief + contrast[cores], cores)
    assert max(bright, dark) < 2 * SEEN


def test_spheres_have_thin_rims_and_plates_have_none():
    y, x = np.indices((101, 101)) - 50.0
    shares = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        radius, relief = varied_specimens._outline(rng, x / 40, y / 40, 0, 0, flat=True)
        shares.append(np.count_nonzero(relief[radius <= 1] < varied_specimens.EDGE) / (radius <= 1).sum())
    # A sphere is half as thick as in its middle at 0.87 of its radius.
    assert max(shares) == pytest.approx(0.25, abs=0.02)
    assert min(shares) < 0.02
