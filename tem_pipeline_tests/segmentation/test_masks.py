import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.inference import Segmentation
from tem_pipeline.segmentation.instances import label_instances
from tem_pipeline.segmentation.masks import judge_image, predict_session_masks, rim_width_px
from tem_pipeline.segmentation.models import ModelCard, SegmentationModel
from tem_pipeline.settings import Settings
from tem_pipeline.simulation.imaging import Imaging
from tem_pipeline.simulation.micrographs import simulate_micrograph
from tem_pipeline.tables import MASK_SCHEMA, conform

SHAPE = (240, 240)
CARD = ModelCard(
    "tem_segmentation", "3", "dice", "ds_unet", 16, ("background", "core"), "w", diameter_error=0.012
)


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


def test_without_a_pixel_size_the_smallest_reliable_diameter_is_in_pixels_only():
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
def test_what_cannot_be_relied_on_is_to_be_reviewed_with_the_reason(image_and_labels, probability, reason):
    image, labels = image_and_labels
    quality = judge_image(found(labels, probability), image)
    assert quality.image_quality == "review"
    assert quality.image_quality_reason is not None
    assert pd.Series([quality.image_quality_reason]).str.contains(reason).all()
    assert "\n" not in quality.image_quality_reason


@pytest.mark.parametrize("blur", [1.0, 2.0, 3.0])
def test_the_rim_is_as_wide_as_a_blurred_edge(blur):
    image, labels = field(30, blur)
    # The steepest slope of an edge blurred by σ is its height over √(2π) σ; three pixels blur it further.
    expected = np.sqrt(2 * np.pi * (blur**2 + 9 / 12))
    assert rim_width_px(image, labels, 30) == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("mode", ["bright_field", "haadf"])
@pytest.mark.parametrize("pixel_size_nm", [0.08, 0.15])
def test_simulated_micrographs_are_good_until_they_are_blurred_by_a_third_of_the_cores(mode, pixel_size_nm):
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


def test_a_session_names_its_split_cores_and_the_models_error_in_its_table(tmp_path: Path):
    y, x = np.indices((96, 128))
    image = np.full((96, 128), 100.0, np.float32)
    for row, column in ((30, 30), (30, 50), (70, 90)):
        image[np.hypot(y - row - 0.3, x - column - 0.2) <= 11.5] = 40
    tifffile.imwrite(tmp_path / "image.tif", image)

    def predict(tile: np.ndarray) -> np.ndarray:
        core = (tile < -1).astype(np.float32)
        return np.stack([1 - core, core], axis=-1)

    manifest = pd.DataFrame(
        {
            "session_id": ["s"],
            "image_id": ["image"],
            "image_file": ["image.tif"],
            "status": ["ok"],
            "mode": ["bright_field"],
            "pixel_size_x_nm": [0.2],
            "height_px": [96],
            "width_px": [128],
        }
    )
    masks = predict_session_masks(manifest, tmp_path, tmp_path, SegmentationModel(CARD, predict), Settings())
    table = conform(masks, MASK_SCHEMA).to_pylist()[0]
    assert table["n_cores"] == 3
    assert table["split_labels"] == [1, 2]
    assert table["model_diameter_error"] == 0.012
    assert table["smallest_reliable_diameter_nm"] == pytest.approx(1.6)
    without = predict_session_masks(
        manifest,
        tmp_path,
        tmp_path,
        SegmentationModel(replace(CARD, diameter_error=None), predict),
        Settings(),
    )
    assert conform(without, MASK_SCHEMA)["model_diameter_error"].null_count == 1


def session_of(folder: Path, images: int) -> pd.DataFrame:
    """Write images of dark discs, one more on each, and give their manifest."""
    y, x = np.indices((96, 400))
    for number in range(images):
        image = np.full((96, 400), 100.0, np.float32)
        for column in range(20, 20 + 40 * (number + 1), 40):
            image[np.hypot(y - 40.3, x - column - 0.2) <= 11.5] = 40
        tifffile.imwrite(folder / f"{number}.tif", image)
    return pd.DataFrame(
        {
            "session_id": "s",
            "image_id": [str(number) for number in range(images)],
            "image_file": [f"{number}.tif" for number in range(images)],
            "status": "ok",
            "mode": "bright_field",
            "pixel_size_x_nm": 0.2,
            "height_px": 96,
            "width_px": 400,
        }
    )


def test_images_of_a_session_come_in_order_however_many_are_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told = []

    def predict(tile: np.ndarray) -> np.ndarray:
        time.sleep(0.01)
        core = (tile < -1).astype(np.float32)
        return np.stack([1 - core, core], axis=-1)

    manifest = session_of(tmp_path, 7)
    model = SegmentationModel(CARD, predict)

    def run() -> pd.DataFrame:
        return predict_session_masks(
            manifest, tmp_path, tmp_path, model, Settings(), lambda row, *_: told.append(row["image_id"])
        )

    masks = run()
    assert masks["n_cores"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert told == list("0123456")
    monkeypatch.setattr("tem_pipeline.images_in_flight.LARGEST_IN_FLIGHT_PX", 1)
    pd.testing.assert_frame_equal(run(), masks)


def test_what_threads_need_is_loaded_before_they_start():
    program = (
        "import sys, pandas as pd; from pathlib import Path;"
        "from tem_pipeline.segmentation import masks; from tem_pipeline.settings import Settings;"
        "from tem_pipeline.segmentation.models import SegmentationModel;"
        "loaded = [];"
        "masks.in_order = lambda *_: loaded.extend(sys.modules) or [];"
        "manifest = pd.DataFrame({'status': ['ok'], 'height_px': [9], 'width_px': [9]});"
        "model = SegmentationModel(None, None);"
        "masks.predict_session_masks(manifest, Path(), Path(), model, Settings());"
        "print({'skimage.morphology', 'skimage.segmentation', 'skimage.transform'} - set(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("error", [UserError("full disk"), KeyboardInterrupt()])
def test_what_ends_a_session_ends_it_at_the_next_tile(tmp_path: Path, error: BaseException):
    manifest = session_of(tmp_path, 3)
    tifffile.imwrite(tmp_path / "0.tif", np.zeros((64, 64), np.float32))  # a single tile, the others are 14
    seen = []

    def predict(tile: np.ndarray) -> np.ndarray:
        seen.append(tile)
        time.sleep(0.02)
        return np.stack([np.ones_like(tile), np.zeros_like(tile)], axis=-1)

    def fail(*_: object) -> None:
        raise error

    settings = Settings(tile_px=64, tile_overlap_px=0)
    with pytest.raises(type(error)):
        predict_session_masks(manifest, tmp_path, tmp_path, SegmentationModel(CARD, predict), settings, fail)
    assert len(seen) < 10
