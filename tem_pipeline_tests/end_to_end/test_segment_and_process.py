"""`tem-pipeline segment` and the assets of a session measure the same file alike."""

from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from tem_pipeline.installation import installation_of
from tem_pipeline.orchestration.resources import Platform, platform_of
from tem_pipeline.segmentation.models import load_model
from tem_pipeline.settings import Settings
from tem_pipeline.single_images import segment_files
from tem_pipeline_tests.orchestration.conftest import definitions_of, lay_champion

NAMES = ["particle_id", "session_id", "session_name", "sample_id", "image_id", "field_id"]


def write_images(folder: Path) -> list[Path]:
    """Write images of discs, of several types, with and without a pixel size."""
    y, x = np.mgrid[:130, :170]
    discs = np.zeros(y.shape)
    for row, column, radius in ((30, 40, 12.3), (80, 60, 9.7), (90, 130, 15.1), (2, 100, 11.0)):
        discs[np.hypot(y - row, x - column) < radius] = 1
    dark = 1000 - 400 * gaussian_filter(discs, 1)
    nm = {"imagej": True, "metadata": {"unit": "nm"}}
    writings = {
        "uint8": (dark / 5, np.uint8, {**nm, "resolution": (5, 5)}),
        "uint16": (dark, np.uint16, {**nm, "resolution": (5, 5)}),
        "oblong uint16": (dark, np.uint16, {**nm, "resolution": (5, 8)}),
        "oblong float32": (dark, np.float32, {**nm, "resolution": (8, 5)}),
        "float64": (dark, np.float64, {"resolution": (5e7, 5e7), "resolutionunit": "CENTIMETER"}),
        "int32": (dark, np.int32, {}),
        "big-endian": (dark, np.dtype(">u2"), {"byteorder": ">"}),
        "bright": (2000 - dark, np.uint16, {}),
    }
    rng = np.random.default_rng(0)
    for name, (values, kind, options) in writings.items():
        noisy = values + rng.normal(0, 4, y.shape)  # Equal pixels would be duplicates in the session.
        tifffile.imwrite(folder / f"{name}.tif", noisy.astype(kind), **options)
    return sorted(folder.iterdir())


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    settings = Settings(
        data_root=str(tmp_path / "data_root"),
        models_root=str(tmp_path / "models_root"),
        pretrained_model=str(tmp_path / "pretrained_model"),
    )
    platform = platform_of(installation_of(settings))
    lay_champion(platform)
    return platform


def process(platform: Platform, session: str) -> pd.DataFrame:
    """Materialise a session's assets up to its particle table; give the table."""
    assets = [dg.AssetKey(name) for name in ("raw_tem_images", "predicted_masks", "particle_table")]
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("sessions", [session])
        job = definitions_of(platform).resolve_job_def("process_session")
        job.execute_in_process(instance=instance, partition_key=session, asset_selection=assets)
    return pd.read_parquet(str(platform.layout.table("particle_table", session)))


def test_a_file_gives_the_same_rows_by_itself_and_in_a_session(tmp_path: Path, platform: Platform):
    folder = Path(str(platform.layout.incoming)) / "a"
    folder.mkdir(parents=True)
    files = write_images(folder)
    in_session = process(platform, "a")

    out = tmp_path / "out"
    assert segment_files(files, out, load_model(platform.layout.champion), platform.settings) == []
    alone = pd.read_parquet(out / "particle_table.parquet")

    order = ["file", "label"]
    first, second = (table.sort_values(order, ignore_index=True) for table in (in_session, alone))
    assert first["file"].nunique() == len(files)
    assert first["calibration_uncertainty"].dropna().unique().tolist() == [0.02]
    assert set(first["mode"]) == {"bright_field", "haadf"}
    # Only a session can tell that one image was read in another mode than the others.
    assert set(first.loc[first["file"] == "bright.tif", "image_quality"]) == {"review"}
    first["image_quality"] = second["image_quality"].where(
        second["file"] == "bright.tif", first["image_quality"]
    )
    pd.testing.assert_frame_equal(
        first.drop(columns=NAMES), second.drop(columns=NAMES), check_exact=True, check_categorical=False
    )
    for file in files:
        labels = tifffile.imread(out / f"{file.stem}_labels.tif")
        rows = second[second["file"] == file.name]
        assert np.bincount(labels.ravel())[rows["label"]].tolist() == rows["area_px"].tolist()
        if "oblong" not in file.name:  # The labels of oblong pixels are in the square pixels of the table.
            assert labels.shape == tifffile.imread(file).shape
