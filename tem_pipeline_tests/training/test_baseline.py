from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from tem_pipeline.errors import UserError
from tem_pipeline.simulation.micrographs import simulate_micrograph
from tem_pipeline.training.baseline import otsu_watershed


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    return float(2 * (truth & prediction).sum() / (truth.sum() + prediction.sum()))


def discs(*centres: tuple[float, float], radius: float = 15.0) -> np.ndarray:
    y, x = np.indices((120, 160))
    return np.any([(y - cy) ** 2 + (x - cx) ** 2 <= radius**2 for cy, cx in centres], axis=0)


def noisy(particles: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(200.0, 10.0, particles.shape) - 60.0 * particles


def test_discs_on_an_even_support_are_found() -> None:
    truth = discs((30, 30), (80, 60), (60, 120))
    labels = otsu_watershed(noisy(truth))
    assert labels.max() == 3
    assert dice(truth, labels > 0) > 0.95


def test_bright_particles_are_found_in_haadf() -> None:
    truth = discs((30, 30), (80, 60), (60, 120))
    assert np.array_equal(otsu_watershed(-noisy(truth), "haadf"), otsu_watershed(noisy(truth)))


def test_touching_discs_are_split() -> None:
    truth = discs((60, 50), (60, 77))
    labels = otsu_watershed(noisy(truth))
    assert labels.max() == 2
    assert labels[60, 45] != labels[60, 82]


@pytest.mark.parametrize("value", [0, 200])
def test_a_constant_image_has_no_particles(value: int) -> None:
    assert not otsu_watershed(np.full((64, 64), value, np.uint8)).any()


def test_specks_are_removed() -> None:
    labels = otsu_watershed(noisy(discs((60, 80)) | discs((20, 20), radius=2.5)), minimum_area_px=100)
    assert labels.max() == 1


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UserError, match="mode"):
        otsu_watershed(np.zeros((32, 32)), "sem")


def test_uneven_illumination_can_be_removed() -> None:
    truth = discs((30, 30), (80, 60), (60, 120))
    uneven = noisy(truth) + np.linspace(0, 100, 160)
    assert dice(truth, otsu_watershed(uneven) > 0) < 0.7
    assert dice(truth, otsu_watershed(uneven, background_px=40) > 0) > 0.9


def test_the_baseline_fails_on_simulated_cores_in_shells() -> None:
    simulated = [simulate_micrograph(np.random.default_rng(seed)) for seed in range(6)]
    truth = np.stack([one.cores > 0 for one in simulated])
    for sigma_px, background_px in ((1.5, None), (3.0, None), (3.0, 50.0)):
        found = [
            otsu_watershed(one.image, sigma_px=sigma_px, background_px=background_px) for one in simulated
        ]
        assert dice(truth, np.stack(found) > 0) < 0.70


def test_real_particles_without_shells_are_found(reference_data: Path) -> None:
    folder = reference_data / "bright_field_particles"
    scores = [
        dice(imread(folder / "masks" / path.name) > 127, otsu_watershed(imread(path)) > 0)
        for path in sorted((folder / "images").glob("*.png"))
    ]
    assert len(scores) == 20
    assert np.mean(scores) > 0.9
