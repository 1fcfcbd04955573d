"""Images that belong to no session are segmented and measured."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import tifffile

from tem_pipeline import single_images
from tem_pipeline.errors import UserError
from tem_pipeline.micrographs import preparation
from tem_pipeline.micrographs.session_images import ingest_session
from tem_pipeline.particles import table
from tem_pipeline.segmentation import masks
from tem_pipeline.segmentation.models import load_model
from tem_pipeline.settings import Settings
from tem_pipeline.single_images import segment_files
from tem_pipeline_tests.orchestration.conftest import lay_model


def test_two_images_at_a_time_give_the_results_of_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rng = np.random.default_rng(0)
    images = rng.normal(1000, 30, (9, 96, 128)).astype(np.uint16)
    for number, image in enumerate(images):
        image[20:40, 10 + 9 * number : 30 + 9 * number] = 500
        tifffile.imwrite(tmp_path / f"{number}.tif", image)
    tifffile.imwrite(tmp_path / "stack.tif", images[:3], photometric="minisblack")
    (tmp_path / "3.tif").write_bytes(b"no image")
    lay_model(tmp_path / "model", "threshold")
    model = load_model(tmp_path / "model")
    files = sorted(tmp_path.glob("*.tif"))
    begun, begun_when_measured = [], []
    segment_micrograph, measure_particles = masks.segment_micrograph, table.measure_particles

    def segment(*arguments, **options):
        begun.append(1)
        return segment_micrograph(*arguments, **options)

    def measure(*arguments, **options):
        begun_when_measured.append(len(begun))
        return measure_particles(*arguments, **options)

    monkeypatch.setattr(masks, "segment_micrograph", segment)
    monkeypatch.setattr(table, "measure_particles", measure)
    failures = segment_files(files, tmp_path / "two", model, Settings())
    assert max(count - done for done, count in enumerate(begun_when_measured)) == 2
    monkeypatch.setattr(single_images, "LARGEST_IN_FLIGHT_PX", 1)
    begun.clear()
    begun_when_measured.clear()
    assert segment_files(files, tmp_path / "one", model, Settings()) == failures
    assert begun_when_measured == list(range(1, 12))

    assert [failure.split(":")[0] for failure in failures] == ["3.tif"]
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert len(written) == 2 * 11 + 2
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    particles = pd.read_parquet(tmp_path / "two/particle_table.parquet")
    assert list(particles["image_id"].unique()) == [*"01245678", "stack_0", "stack_1", "stack_2"]


def test_an_interrupt_stops_segmenting_at_the_next_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tifffile.imwrite(tmp_path / "0.tif", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    tifffile.imwrite(tmp_path / "1.tif", np.arange(900 * 900, dtype=np.float32).reshape(900, 900))
    lay_model(tmp_path / "model", "threshold")
    model = load_model(tmp_path / "model")
    seen = []

    def predict(tile: np.ndarray) -> np.ndarray:
        seen.append(tile)
        time.sleep(0.02)
        return np.stack([np.ones_like(tile), np.zeros_like(tile)], axis=-1)

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(table, "measure_particles", fail)
    slow = replace(model, predict_tile=predict)
    files = [tmp_path / "0.tif", tmp_path / "1.tif"]
    with pytest.raises(KeyboardInterrupt):
        segment_files(files, tmp_path, slow, Settings(tile_px=64))
    assert len(seen) < 100


def test_an_image_that_cannot_be_prepared_is_listed_and_the_rest_is_done(tmp_path: Path):
    image = np.arange(64 * 64, dtype=np.float64).reshape(64, 64)
    tifffile.imwrite(tmp_path / "huge.tif", image * 1e300)
    tifffile.imwrite(tmp_path / "plain.tif", image)
    lay_model(tmp_path / "model", "threshold")
    model = load_model(tmp_path / "model")
    failures = segment_files([tmp_path / "huge.tif", tmp_path / "plain.tif"], tmp_path, model, Settings())
    assert failures == ["huge.tif: its values are too large: export it again"]
    assert (tmp_path / "plain_labels.tif").exists()


def test_an_unexpected_error_in_one_image_does_not_end_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`segment` and a session give the same reason for the same image, and do the rest."""
    images = np.random.default_rng(0).integers(0, 1000, (3, 64, 64)).astype(np.uint16)
    images[1, 0, 0] = 7777
    (tmp_path / "session").mkdir()
    for name, image in zip("abc", images, strict=True):
        tifffile.imwrite(tmp_path / "session" / f"{name}.tif", image)

    def fail_on_one(image: np.ndarray) -> tuple[str, bool]:
        if image[0, 0] == 7777:
            raise ZeroDivisionError("two\nlines")
        return "bright_field", True

    monkeypatch.setattr(preparation, "detect_mode", fail_on_one)
    lay_model(tmp_path / "model", "threshold")
    model = load_model(tmp_path / "model")
    failures = segment_files([tmp_path / "session"], tmp_path / "out", model, Settings())
    assert failures == ["b.tif: ZeroDivisionError: two\N{REPLACEMENT CHARACTER}lines"]
    assert {path.name for path in (tmp_path / "out").glob("*_labels.tif")} == {"a_labels.tif", "c_labels.tif"}
    manifest = ingest_session(tmp_path / "session", "s", tmp_path / "raw").set_index("file")
    assert manifest["status"].to_dict() == {"a.tif": "ok", "b.tif": "refused", "c.tif": "ok"}
    assert failures == [f"b.tif: {manifest['reason']['b.tif']}"]


def test_a_folder_that_cannot_be_listed_does_not_end_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(folder: Path) -> list[Path]:
        raise UserError(f"{folder.name}: the folder cannot be listed")

    monkeypatch.setattr(single_images, "session_files", refuse)
    tifffile.imwrite(tmp_path / "plain.tif", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    (tmp_path / "locked").mkdir()
    lay_model(tmp_path / "model", "threshold")
    model = load_model(tmp_path / "model")
    failures = segment_files([tmp_path / "locked", tmp_path / "plain.tif"], tmp_path, model, Settings())
    assert failures == ["locked: the folder cannot be listed"]
    assert (tmp_path / "plain_labels.tif").exists()


def images_of_discs(folder: Path, names: list[str]) -> list[Path]:
    """Write images of three dark squares each; give the files."""
    rng = np.random.default_rng(0)
    files = [folder / f"{name}.tif" for name in names]
    for file in files:
        image = rng.normal(1000, 30, (96, 128)).astype(np.uint16)
        image[20:40, 10:30] = image[60:80, 56:76] = image[10:30, 90:110] = 500
        tifffile.imwrite(file, image, imagej=True, resolution=(10, 10), metadata={"unit": "nm"})
    return files


def test_each_image_has_a_line_and_the_end_has_totals_and_paths(tmp_path: Path):
    files = images_of_discs(tmp_path, ["a", "b"])
    lay_model(tmp_path / "model", "threshold")
    lines: list[str] = []
    out = tmp_path / "out"
    files.append(tmp_path / "gone.tif")
    segment_files(files, out, load_model(tmp_path / "model"), Settings(), tell=lines.append)
    particles = pd.read_parquet(out / "particle_table.parquet")
    for line, name in zip(lines, "ab", strict=False):
        of_image = particles[particles["image_id"] == name]
        whole = of_image.loc[~of_image["touches_edge"], "equivalent_diameter_nm"]
        assert line.startswith(f"{name}: {len(of_image)} particles, mean diameter {whole.mean():.4g} ± ")
        assert f"{whole.std():.3g} nm (n = {len(whole)}), {of_image['image_quality'].iloc[0]}" in line
    assert lines[2] == f"2 images segmented, {len(particles)} particles, 1 input failed"
    assert lines[3] == f"{out / 'particle_table.parquet'}\n{out / 'particle_table.csv'}"
    written = pd.read_csv(out / "particle_table.csv")
    assert written["particle_id"].tolist() == particles["particle_id"].tolist()


def test_a_failing_measurement_or_write_costs_only_its_own_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files = images_of_discs(tmp_path, ["a", "b", "c", "d"])
    (tmp_path / "out/b_labels.tif").mkdir(parents=True)
    names = iter("abcd")
    segment_micrograph = masks.segment_micrograph

    def fail_on_third(image: np.ndarray, *arguments, **options):
        if image.ndim and next(names) == "c":
            raise ZeroDivisionError("by chance")
        return segment_micrograph(image, *arguments, **options)

    monkeypatch.setattr(masks, "segment_micrograph", fail_on_third)
    monkeypatch.setattr(single_images, "IMAGES_IN_FLIGHT", 1)
    lay_model(tmp_path / "model", "threshold")
    failures = segment_files(files, tmp_path / "out", load_model(tmp_path / "model"), Settings())
    assert [failure.split(":")[0] for failure in failures] == ["b.tif", "c.tif"]
    assert failures[1] == "c.tif: ZeroDivisionError: by chance"
    particles = pd.read_parquet(tmp_path / "out/particle_table.parquet")
    assert set(particles["image_id"]) == {"a", "d"}


def test_names_that_tables_or_file_systems_cannot_hold_are_mended(tmp_path: Path):
    names = ["a" * 245, os.fsdecode(b"b\xff")]
    files = images_of_discs(tmp_path, names)
    lay_model(tmp_path / "model", "threshold")
    assert segment_files(files, tmp_path / "out", load_model(tmp_path / "model"), Settings()) == []
    assert len(list((tmp_path / "out").glob("*_labels.tif"))) == 2


def test_a_file_that_vanishes_after_it_was_listed_is_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files = images_of_discs(tmp_path, ["a", "b"])
    monkeypatch.setattr(single_images, "session_files", lambda folder: [*files, tmp_path / "gone.tif"])
    lay_model(tmp_path / "model", "threshold")
    failures = segment_files([tmp_path], tmp_path / "out", load_model(tmp_path / "model"), Settings())
    assert len(failures) == 1
    assert "gone.tif" in failures[0]
    assert len(list((tmp_path / "out").glob("*_labels.tif"))) == 2


def test_label_images_and_table_share_one_frame(tmp_path: Path):
    """Oblong pixels are measured as square ones, and the label image has these pixels and their size."""
    image = np.full((100, 200), 1000, np.uint16)
    image += np.random.default_rng(0).integers(0, 9, image.shape).astype(np.uint16)
    for top, left in ((20, 90), (60, 30), (70, 150)):
        image[top : top + 10, left : left + 20] = 300
    options = {"imagej": True, "metadata": {"unit": "nm"}}
    tifffile.imwrite(tmp_path / "a.tif", image, resolution=(1 / 0.1, 1 / 0.2), **options)
    lay_model(tmp_path / "model", "threshold")
    assert segment_files([tmp_path / "a.tif"], tmp_path, load_model(tmp_path / "model"), Settings()) == []
    particles = pd.read_parquet(tmp_path / "particle_table.parquet")
    with tifffile.TiffFile(tmp_path / "a_labels.tif") as written:
        labels = written.asarray()
        pixels, units = written.pages.first.tags["XResolution"].value
    assert labels.shape == (200, 200)
    assert units / pixels == pytest.approx(particles["pixel_size_nm"][0]) == pytest.approx(0.1)
    assert len(particles) == 3
    for row in particles.itertuples():
        y, x = np.nonzero(labels == row.label)
        assert len(y) == row.area_px
        assert (y.mean(), x.mean()) == pytest.approx((row.centroid_y_px, row.centroid_x_px))


def test_elemental_maps_are_left_out_and_bars_are_background(tmp_path: Path, reference_data: Path):
    odd = reference_data / "odd_files"
    lay_model(tmp_path / "model", "threshold")
    files = [odd / "20_velox_elemental_maps/si_maps.emd", odd / "08_fei_info_bar/with_bar.tif"]
    assert segment_files(files, tmp_path, load_model(tmp_path / "model"), Settings()) == []
    assert {path.name for path in tmp_path.glob("*_labels.tif")} == {
        "si_maps_labels.tif",
        "with_bar_labels.tif",
    }
    labels = tifffile.imread(tmp_path / "with_bar_labels.tif")
    assert labels.shape == (512, 512)
    assert not labels[480:].any()


def test_an_image_whose_mode_is_unsure_is_never_good(tmp_path: Path):
    image = np.random.default_rng(0).normal(1000, 10, (128, 128))
    image[20:40, 20:40] = -4000  # A particle, or a hole in HAADF.
    tifffile.imwrite(tmp_path / "a.tif", image.astype(np.float32))
    lay_model(tmp_path / "model", "threshold")
    model = load_model(tmp_path / "model")
    verdicts: list[tuple[Literal["auto", "bright_field"], str]] = [
        ("auto", "review"),
        ("bright_field", "good"),
    ]
    for mode, quality in verdicts:
        segment_files([tmp_path / "a.tif"], tmp_path / mode, model, Settings(), 0.1, mode)
        particles = pd.read_parquet(tmp_path / mode / "particle_table.parquet")
        assert set(particles["image_quality"]) == {quality}


def test_every_frame_of_a_series_without_its_emi_is_segmented(tmp_path: Path, reference_data: Path):
    series = reference_data / "microscope_formats/ser_emi/64x64_TEM_images_acquire_1.ser"
    files = [tmp_path / f"a_{number}.ser" for number in (1, 2)]
    for file in files:
        shutil.copy(series, file)
    lay_model(tmp_path / "model", "threshold")
    lines: list[str] = []
    failures = segment_files(
        files, tmp_path / "out", load_model(tmp_path / "model"), Settings(), tell=lines.append
    )
    assert failures == []
    assert [line.split(":")[0] for line in lines[:2]] == ["a_1", "a_2"]
    assert len(list((tmp_path / "out").glob("*_labels.tif"))) == 2


def test_the_sample_does_not_depend_on_how_the_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "gold").mkdir()
    (file,) = images_of_discs(tmp_path / "gold", ["a"])
    lay_model(tmp_path / "model", "threshold")
    model = load_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "gold")
    for path in (file, Path("a.tif"), Path("../gold/a.tif")):
        assert segment_files([path], tmp_path / "out", model, Settings()) == []
        particles = pd.read_parquet(tmp_path / "out/particle_table.parquet")
        assert set(particles["sample_id"]) == {"gold"}, path
