"""The quality of an image's masks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tem_pipeline.segmentation.inference import Segmentation
from tem_pipeline.segmentation.instances import label_instances
from tem_pipeline.segmentation.quality import judge_image, rim_width_px, session_mode
from tem_pipeline.simulation.imaging import Imaging
from tem_pipeline.simulation.micrographs import simulate_micrograph

SHAPE = (240, 240)


def field(diameter: float, blur: float = 1.0, pitch: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A lattice of dark discs, and their labels."""
    y, x = np.indices(SHAPE)
    row, column = y // pitch, x // pitch
    radius = np.hypot(y % pitch - pitch / 2 - 0.3, x % pitch - pitch / 2 - 0.2)
    inside = radius <= diameter / 2
    labels = np.where(inside, row * (SHAPE[1] // pitch) + column + 1, 0).astype(np.uint16)
    noise = np.random.default_rng(0).normal(size=SHAPE)
    return gaussian_filter(np.where(inside, 60.0, 100.0), blur) + 2 * noise, labels


def found(labels: np.ndarray, probability: float = 0.95) -> Segmentation:
    certain = np.full(labels.shape, round(probability * 255), np.uint8)
    return Segmentation(labels, None, certain, "bright_field", np.zeros(0, np.int64))


def test_a_sharp_image_of_large_cores_is_good():
    image, labels = field(24)
    quality = judge_image(found(labels), image, 0.1)
    assert (quality.image_quality, quality.image_quality_reason) == ("good", None)
    assert quality.n_cores == 16
    assert quality.median_diameter_px == pytest.approx(24, rel=0.01)
    assert quality.confidence == pytest.approx(0.95, abs=0.01)
    assert quality.foreground_fraction == pytest.approx((labels > 0).mean())
    assert quality.smallest_reliable_diameter_px == 8
    assert quality.smallest_reliable_diameter_nm == pytest.approx(0.8)


def test_without_a_pixel_size_the_reliable_diameter_is_in_px_only():
    image, labels = field(24)
    assert judge_image(found(labels), image).smallest_reliable_diameter_nm is None


def test_an_image_without_cores_is_good():
    image, labels = field(24)
    quality = judge_image(found(np.zeros_like(labels)), image)
    assert (quality.image_quality, quality.n_cores, quality.rim_width_px) == ("good", 0, None)


@pytest.mark.parametrize(
    ("image_and_labels", "probability", "reason"),
    [
        (field(6, pitch=20), 0.95, "6.* px across, under 8 px: record at a higher magnification"),
        (field(24, blur=9), 0.95, "rims of the cores are .* out of focus"),
        (field(24), 0.6, r"unsure of the cores \(mean probability 0.60"),
        ((field(24)[0], np.ones(SHAPE, np.uint16)), 0.95, "cores cover 100% of the image"),
    ],
)
def test_an_unreliable_image_is_marked_for_review_with_a_reason(image_and_labels, probability, reason):
    image, labels = image_and_labels
    quality = judge_image(found(labels, probability), image)
    assert quality.image_quality == "review"
    assert quality.image_quality_reason is not None
    assert pd.Series([quality.image_quality_reason]).str.contains(reason).all()
    assert "\n" not in quality.image_quality_reason


@pytest.mark.parametrize("blur", [1.0, 2.0, 3.0])
def test_the_rim_width_is_that_of_a_blurred_edge(blur):
    image, labels = field(30, blur)
    # The steepest slope of an edge blurred by σ is its height over √(2π) σ; three pixels blur it further.
    expected = np.sqrt(2 * np.pi * (blur**2 + 9 / 12))
    assert rim_width_px(image, labels, 30) == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("mode", ["bright_field", "haadf"])
@pytest.mark.parametrize("pixel_size_nm", [0.08, 0.15])
def test_simulated_images_are_good_until_they_are_blurred(mode, pixel_size_nm):
    simulated = simulate_micrograph(
        np.random.default_rng(4),
        shape=(320, 320),
        pixel_size_nm=pixel_size_nm,
        imaging=Imaging(mode=mode),
    )
    segmentation = found(simulated.cores)
    sharp = judge_image(segmentation, simulated.image)
    assert sharp.image_quality == "good"
    assert sharp.median_diameter_px is not None
    blurred = gaussian_filter(simulated.image.astype(float), sharp.median_diameter_px / 3)
    assert "out of focus" in str(judge_image(segmentation, blurred).image_quality_reason)


def test_real_images_in_focus_are_good(reference_data: Path):
    folder = reference_data / "bright_field_particles"
    for file in sorted((folder / "images").glob("*.png"))[:6]:
        image = np.asarray(Image.open(file).convert("L"))
        mask = np.asarray(Image.open(folder / "masks" / file.name)) > 127
        assert judge_image(found(label_instances(mask, 20)), image).image_quality == "good", file.name


def test_the_mode_of_a_session_is_that_of_most_images():
    assert session_mode(["haadf", "bright_field", "haadf"]) == "haadf"
    assert session_mode(["haadf", "bright_field"]) is None
    assert session_mode([]) is None
