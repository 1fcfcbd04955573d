"""The masks of a session: their table, and several images at a time."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.masks import predict_session_masks
from tem_pipeline.segmentation.models import ModelCard, SegmentationModel
from tem_pipeline.settings import Settings
from tem_pipeline.tables import MASK_SCHEMA, conform

CARD = ModelCard(
    "tem_segmentation", "3", "dice", "ds_unet", 16, ("background", "core"), "w", diameter_error=0.012
)


def test_the_table_has_split_cores_and_the_models_diameter_error(tmp_path: Path):
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


def test_images_come_in_order_for_any_number_in_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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


def test_modules_that_threads_need_are_imported_before_they_start():
    program = (
        "import sys, pandas as pd; from pathlib import Path;"
        "from tem_pipeline.segmentation import masks; from tem_pipeline.settings import Settings;"
        "from tem_pipeline.segmentation.models import SegmentationModel;"
        "loaded = [];"
        "masks.in_order = lambda *_: loaded.extend(sys.modules) or [];"
        "manifest = pd.DataFrame({'status': ['ok'], 'height_px': [9], 'width_px': [9], 'mode': ['haadf']});"
        "model = SegmentationModel(None, None);"
        "masks.predict_session_masks(manifest, Path(), Path(), model, Settings());"
        "print({'skimage.morphology', 'skimage.segmentation', 'skimage.transform'} - set(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("error", [UserError("full disk"), KeyboardInterrupt()])
def test_an_error_stops_a_session_at_the_next_tile(tmp_path: Path, error: BaseException):
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


def test_an_image_whose_mode_differs_from_its_sessions_is_to_review(tmp_path: Path):
    y, x = np.indices((96, 96))
    image = np.where(np.hypot(y - 48.3, x - 48.2) <= 15.5, 40.0, 100.0).astype(np.float32)
    tifffile.imwrite(tmp_path / "dark.tif", image)
    tifffile.imwrite(tmp_path / "bright.tif", 140 - image)

    def predict(tile: np.ndarray) -> np.ndarray:
        core = (tile < -1).astype(np.float32)
        return np.stack([1 - core, core], axis=-1)

    modes = ["bright_field", "bright_field", "haadf"]
    manifest = pd.DataFrame(
        {
            "session_id": "s",
            "image_id": ["a", "b", "c"],
            "image_file": ["dark.tif", "dark.tif", "bright.tif"],
            "status": "ok",
            "mode": modes,
            "pixel_size_x_nm": 0.2,
            "height_px": 96,
            "width_px": 96,
        }
    )
    model = SegmentationModel(CARD, predict)
    masks = predict_session_masks(manifest, tmp_path, tmp_path, model, Settings())
    assert masks["n_cores"].tolist() == [1, 1, 1]
    assert masks["image_quality"].tolist() == ["good", "good", "review"]
    assert "read as HAADF, most images of the session as bright field" in masks["image_quality_reason"][2]
    alone = predict_session_masks(manifest[2:], tmp_path, tmp_path, model, Settings())
    assert alone["image_quality"].tolist() == ["good"]
