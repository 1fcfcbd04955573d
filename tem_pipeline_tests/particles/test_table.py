from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.session_images import ingest_session
from tem_pipeline.particles.checks import check_particle_table
from tem_pipeline.particles.table import measure_session
from tem_pipeline.tables import PARTICLE_SCHEMA, PROVENANCE_FIELDS, conform
from tem_pipeline_tests.particles.tables import discs

ORIGIN = ["model_name", "model_version", "model_sha256", "loss", "code_version"]


def session(folder: Path, sizes_nm: dict[str, float | None]) -> pd.DataFrame:
    """A session of images of the same disc at pixel sizes of their own; gives its manifest."""
    (folder / "session").mkdir(parents=True)
    for seed, (name, size_nm) in enumerate(sizes_nm.items()):
        noise = np.random.default_rng(seed).normal(1000, 20, (64, 64))
        image = np.where(np.pad(discs([20], 64), 0) > 0, noise - 400, noise).astype(np.float32)
        options = {"resolution": (1 / size_nm, 1 / size_nm), "metadata": {"unit": "nm"}} if size_nm else {}
        tifffile.imwrite(folder / "session" / f"{name}.tif", image, imagej=True, **options)
    return ingest_session(folder / "session", "s", folder / "raw")


def masks(folder: Path, manifest: pd.DataFrame, **columns: object) -> pd.DataFrame:
    (folder / "masks").mkdir()
    tifffile.imwrite(folder / "masks" / "labels.tif", discs([20], 64))
    tifffile.imwrite(folder / "masks" / "shells.tif", discs([40], 64))
    tifffile.imwrite(folder / "masks" / "probability.tif", np.full((64, 64), 230, np.uint8))
    row = {
        "labels_file": "labels.tif",
        "shells_file": "shells.tif",
        "probability_file": "probability.tif",
        "image_quality": "good",
        "split_labels": np.array([], np.int64),
        **dict.fromkeys(ORIGIN, "x"),
        **columns,
    }
    ok = manifest[manifest["status"] == "ok"]
    return pd.DataFrame([{"image_id": i, "mode": "bright_field", **row} for i in ok["image_id"]])


def measured(folder: Path, manifest: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    found = measure_session(manifest, folder / "raw", table, folder / "masks")
    check_particle_table(found)
    return found.set_index("file")


def test_every_image_is_measured_with_its_own_pixel_size(tmp_path: Path):
    manifest = session(tmp_path, {"a": 0.1, "b": 0.4, "c": None})
    found = measured(tmp_path, manifest, masks(tmp_path, manifest))
    assert found.equivalent_diameter_nm["a.tif"] == pytest.approx(2.0, rel=0.02)
    assert found.equivalent_diameter_nm["b.tif"] == pytest.approx(8.0, rel=0.02)
    assert found.shell_thickness_nm["b.tif"] == pytest.approx(4.0, rel=0.02)
    assert np.isnan(found.equivalent_diameter_nm["c.tif"])
    assert np.isnan(found.shell_thickness_nm["c.tif"])
    assert found.equivalent_diameter_px.min() == found.equivalent_diameter_px.max()
    assert found.calibration.tolist() == ["metadata", "metadata", "missing"]


def test_without_a_pixel_size_no_column_in_nm_has_a_value(tmp_path: Path):
    manifest = session(tmp_path, {"a": None})
    found = measured(tmp_path, manifest, masks(tmp_path, manifest))
    in_nm = [column for column in found if str(column).endswith(("_nm", "_nm2"))]
    assert found[in_nm].isna().all(axis=None)


def test_shells_and_split_cores_come_from_the_masks(tmp_path: Path):
    manifest = session(tmp_path, {"a": 0.1})
    found = measured(tmp_path, manifest, masks(tmp_path, manifest, split_labels=np.array([1]))).iloc[0]
    assert found.was_split
    assert found.shell_thickness_px == pytest.approx(10, abs=0.15)
    assert found.cores_in_shell == 1


@pytest.mark.parametrize("without", [{"split_labels": None}, {"shells_file": None}])
def test_masks_without_shells_or_of_an_earlier_version_are_measured(tmp_path: Path, without):
    manifest = session(tmp_path, {"a": 0.1})
    table = masks(tmp_path, manifest, **without)
    if "split_labels" in without:
        table = table.drop(columns="split_labels")
    found = measured(tmp_path, manifest, table).iloc[0]
    assert not found.was_split
    assert np.isnan(found.shell_thickness_px) == ("shells_file" in without)


def test_two_images_at_a_time_are_measured_like_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest = session(tmp_path, dict.fromkeys("abcde", 0.1))
    table = masks(tmp_path, manifest)
    together = measured(tmp_path, manifest, table)
    assert together.index.tolist() == [f"{name}.tif" for name in "abcde"]
    monkeypatch.setattr("tem_pipeline.images_in_flight.LARGEST_IN_FLIGHT_PX", 1)
    pd.testing.assert_frame_equal(measured(tmp_path, manifest, table), together)


def test_an_image_that_cannot_be_measured_ends_the_measuring(tmp_path: Path):
    manifest = session(tmp_path, {"a": 0.1, "b": 0.1})
    table = masks(tmp_path, manifest)
    tifffile.imwrite(tmp_path / "masks" / "small.tif", discs([5], 16))
    table.loc[1, "labels_file"] = "small.tif"
    with pytest.raises(UserError, match="image is"):
        measured(tmp_path, manifest, table)


def test_texts_that_all_particles_of_an_image_share_are_categories(tmp_path: Path):
    manifest = session(tmp_path, {"a": 0.1, "b": None})
    found = measure_session(manifest, tmp_path / "raw", masks(tmp_path, manifest), tmp_path / "masks")
    shared = [field.name for field in PROVENANCE_FIELDS if field.type == "string"]
    assert {name for name in shared if found[name].dtype != "category"} == {"particle_id"}
    table = conform(found, PARTICLE_SCHEMA)
    assert table.schema.equals(PARTICLE_SCHEMA, check_metadata=True)
    assert table["file"].to_pylist() == ["a.tif", "b.tif"]
    assert table["metal"].to_pylist() == [None, None]


def test_images_without_particles_add_no_row(tmp_path: Path):
    manifest = session(tmp_path, dict.fromkeys("abc", 0.1))
    table = masks(tmp_path, manifest)
    tifffile.imwrite(tmp_path / "masks" / "none.tif", np.zeros((64, 64), np.uint16))
    table.loc[[0, 2], ["labels_file", "shells_file"]] = "none.tif"
    assert measured(tmp_path, manifest, table).index.tolist() == ["b.tif"]


def test_a_session_without_images_has_the_columns_of_the_schema(tmp_path: Path):
    manifest = session(tmp_path, {})
    found = measured(tmp_path, manifest, masks(tmp_path, manifest).reindex(columns=["image_id"]))
    assert [found.index.name, *found.columns] == [
        "file",
        *(name for name in PARTICLE_SCHEMA.names if name != "file"),
    ]
