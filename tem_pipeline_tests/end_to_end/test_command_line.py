import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from tem_pipeline.segmentation.models import read_card, write_card
from tem_pipeline.settings import Settings
from tem_pipeline.simulation.sessions import simulate_session
from tem_pipeline.simulation.specimens import Population
from tem_pipeline.tables import PARTICLE_SCHEMA
from tem_pipeline.tracking.champion import NO_CHAMPION_YET
from tem_pipeline_tests.end_to_end.conftest import Laboratory


@pytest.fixture(scope="session")
def session(laboratory: Laboratory) -> Path:
    """A processed session with four good images, and with every kind of file that can't be used."""
    out = laboratory.root / "simulated"
    laboratory.succeed("simulate", out, "--images", 4, "--size", 384, "--seed", 7)
    folder = laboratory.data / "incoming" / "2026-11-22"
    folder.parent.mkdir(parents=True, exist_ok=True)
    (out / "session").rename(folder)
    write_broken_files(folder)
    done = laboratory.run("process", folder)
    assert done.returncode == 0, done.stderr
    assert "4 images measured" in done.stdout
    return folder


def write_broken_files(folder: Path) -> None:
    good = next(folder.glob("*.tif")).read_bytes()
    (folder / "truncated.tif").write_bytes(good[: len(good) // 2])
    (folder / "text.dm3").write_text("this is a note, not a micrograph")
    (folder / "empty.emd").write_bytes(b"")
    colours = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / "screenshot.png")
    tifffile.imwrite(folder / "pixel.tif", np.ones((1, 1), np.uint8))
    tifffile.imwrite(folder / "nan.tif", np.full((64, 64), np.nan, np.float32))
    tifffile.imwrite(folder / "constant.tif", np.full((64, 64), 7, np.uint16))


def table(laboratory: Laboratory, asset: str, session: str = "2026-11-22") -> pd.DataFrame:
    path = laboratory.data / "lake" / asset / f"session={session}" / "part-0.parquet"
    return pq.ParquetFile(path).read().to_pandas()


def test_unusable_files_have_a_reason_and_the_rest_is_processed(laboratory, session):
    manifest = table(laboratory, "raw_tem_images")
    refused = manifest[manifest["status"] == "refused"].set_index("file")["reason"]
    assert set(refused.index) == {
        "truncated.tif",
        "text.dm3",
        "empty.emd",
        "screenshot.png",
        "pixel.tif",
        "nan.tif",
        "constant.tif",
    }
    assert refused.str.len().min() > 10
    assert not refused.str.contains("\n").any()
    assert (manifest["status"] == "ok").sum() == 4


def test_info_gives_the_same_reasons_as_json_and_nothing_else_on_stdout(laboratory, session):
    files = sorted(session.glob("*.*"))
    described = json.loads(laboratory.succeed("info", "--json", *files))["files"]
    by_name = {Path(entry["file"]).name: entry for entry in described}
    for name in ("truncated.tif", "text.dm3", "empty.emd", "screenshot.png", "pixel.tif", "nan.tif"):
        assert by_name[name]["refused"], name
    good = next(entry for name, entry in by_name.items() if not entry["refused"])
    (image,) = good["images"]
    told = {"shape": [384, 384], "pixel_size_nm": [0.1, 0.1], "calibration": "metadata", "kind": "micrograph"}
    assert image.items() >= told.items()


def test_the_particle_table_has_its_schema_and_its_provenance_on_every_row(laboratory, session):
    path = laboratory.data / "lake/particle_table/session=2026-11-22/part-0.parquet"
    written = pq.ParquetFile(path).schema_arrow
    assert written.equals(PARTICLE_SCHEMA)
    assert written.field("area_nm2").metadata[b"unit"] == "nm²".encode()
    particles = table(laboratory, "particle_table")
    assert len(particles) > 30
    origin = ["file_sha256", "pixel_sha256", "model_name", "model_version", "model_sha256", "code_version"]
    assert particles[origin].notna().all(axis=None)
    assert set(particles["session_id"]) == {"2026-11-22"}
    assert set(particles["loss"]) == {"dice"}
    assert particles["particle_id"].is_unique
    assert particles["confidence"].between(0.5, 1).all()


def test_the_table_gives_back_the_simulated_sizes(laboratory, session):
    particles = table(laboratory, "particle_table")
    truth = pd.read_parquet(laboratory.root / "simulated/truth/particles.parquet")
    found = particles.loc[~particles["touches_edge"], "equivalent_diameter_nm"]
    true = truth.loc[~truth["touches_edge"], "visible_diameter_nm"]
    assert found.mean() == pytest.approx(true.mean(), rel=0.04)
    assert len(found) == pytest.approx(len(true), rel=0.08)
    statistics = table(laboratory, "size_distributions").set_index("measurand").loc["equivalent_diameter"]
    assert statistics["n_counted"] == len(found)
    assert statistics["mean"] == pytest.approx(found.mean())
    assert statistics["n_images"] == 4


def test_raw_images_open_with_their_scale(laboratory, session):
    folder = laboratory.data / "lake/raw_tem_images/session=2026-11-22"
    name = table(laboratory, "raw_tem_images").query("status == 'ok'")["image_file"].iloc[0]
    with tifffile.TiffFile(folder / name) as file:
        assert file.is_imagej
        assert (file.imagej_metadata or {})["unit"] == "nm"


def test_processing_a_session_again_gives_the_same_table(laboratory, session):
    before = table(laboratory, "particle_table")
    laboratory.succeed("process", session)
    pd.testing.assert_frame_equal(before, table(laboratory, "particle_table"))


def test_a_folder_of_the_same_name_elsewhere_is_refused(laboratory, session, tmp_path):
    (tmp_path / "2026-11-22").mkdir()
    done = laboratory.run("process", tmp_path / "2026-11-22")
    assert done.returncode == 1
    assert "same name" in done.stderr


def test_a_field_of_bare_film_is_one_image_and_nothing_fails(laboratory, tmp_path):
    simulate_session(tmp_path / "out", images=1, size=256, population=Population(coverage=(0, 0)))
    folder = (tmp_path / "out/session").rename(tmp_path / "bare_film")
    laboratory.succeed("process", folder)
    assert table(laboratory, "raw_tem_images", "bare_film").query("status == 'ok'").shape[0] == 1
    statistics = table(laboratory, "size_distributions", "bare_film").set_index("measurand")
    # What a network of one minute's training takes for cores there may make it an image to be reviewed.
    row = statistics.loc["equivalent_diameter"]
    assert row["n_images"] + row["n_review_images"] == 1
    found = table(laboratory, "particle_table", "bare_film")
    good = found[found["image_quality"] == "good"]
    assert len(good) == row["n_counted"] + row["n_excluded_edge"]


def test_no_number_in_nm_comes_from_an_uncalibrated_image(laboratory, session, tmp_path):
    folder = tmp_path / "uncalibrated"
    folder.mkdir()
    image = tifffile.imread(next(session.glob("*[0-9].tif")))
    tifffile.imwrite(folder / "image.tif", image)
    laboratory.succeed("process", folder)
    particles = table(laboratory, "particle_table", "uncalibrated")
    assert len(particles)
    assert set(particles["calibration"]) == {"missing"}
    assert particles[[c for c in particles if c.endswith(("_nm", "_nm2"))]].isna().all(axis=None)
    smallest_px = Settings().minimum_diameter_px
    assert (particles["equivalent_diameter_px"] >= smallest_px).all()
    assert set(table(laboratory, "size_distributions", "uncalibrated")["unit"]) == {"px", "1"}


def test_evaluate_skips_and_counts_what_the_model_was_trained_on(laboratory):
    summary = json.loads(laboratory.succeed("evaluate", "simulated", "--json"))
    assert summary["skipped"] >= 5
    assert summary["images"] + summary["skipped"] == 8
    assert summary["dice"] > 0.9
    low, high = summary["intervals"]["dice"]
    assert low <= summary["dice"] <= high
    assert "dice_shell" in summary
    assert summary["boundary_f"] > 0.8
    assert summary["instance_f1"] > 0.8
    assert abs(summary["diameter_error"]) < 0.1
    assert {"boundary_f", "instance_f1", "diameter_error"} <= summary["intervals"].keys()
    said = laboratory.succeed("evaluate", "simulated")
    assert f"{summary['boundary_f']:.4f}" in next(x for x in said.splitlines() if x.startswith("boundary_f"))


def test_the_comparison_of_losses_tells_boundaries_particles_and_diameters(laboratory):
    comparison = pd.read_parquet(laboratory.data / "lake/training/loss_comparison/part-0.parquet")
    assert comparison["loss"].tolist() == ["dice", "otsu_watershed"]
    for name in ("boundary_f", "instance_f1"):
        assert comparison[name].between(0, 1).all()
        assert comparison[name].iloc[0] > comparison[name].iloc[1]
    assert {"diameter_error_low", "diameter_error_high"} <= set(comparison)


def test_segment_writes_full_size_labels_and_lists_unreadable_files(laboratory, session, tmp_path):
    good = next(session.glob("*[0-9].tif"))
    same_stem = tmp_path / f"{good.stem}.png"
    Image.fromarray((tifffile.imread(good) // 256).astype(np.uint8)).save(same_stem)
    out = tmp_path / "out"
    done = laboratory.run(
        "segment", good, same_stem, session / "text.dm3", "--out", out, "--pixel-size-nm", 0.2
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "text.dm3" in done.stderr
    labels = tifffile.imread(out / f"{good.stem}_tif_labels.tif")
    assert labels.shape == (384, 384)
    assert labels.dtype == np.uint16
    assert (out / f"{good.stem}_tif_shells.tif").exists()
    assert (out / f"{good.stem}_png_overlay.png").exists()
    particles = pd.read_parquet(out / "particle_table.parquet")
    calibration = particles.groupby("image_id")[["calibration", "pixel_size_nm"]].first()
    assert calibration.loc[f"{good.stem}_tif"].tolist() == ["metadata", 0.1]
    assert calibration.loc[f"{good.stem}_png"].tolist() == ["session", 0.2]
    assert particles.query("image_id.str.endswith('_tif')")["label"].max() == labels.max()


def test_query_answers_in_sql_and_reads_nothing_else(laboratory, session):
    sql = "SELECT session, count(*) AS n FROM particle_table WHERE session = '2026-11-22' GROUP BY session"
    rows = json.loads(laboratory.succeed("query", sql, "--format", "json"))
    assert rows == [{"session": "2026-11-22", "n": len(table(laboratory, "particle_table"))}]
    refused = laboratory.run("query", "SELECT * FROM read_csv('/etc/passwd')")
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="session")
def pretrained(laboratory: Laboratory) -> Path:
    """The laboratory's model as if it shipped with the project."""
    folder = laboratory.root / "pretrained"
    shutil.copytree(laboratory.models / "champion", folder)
    write_card(folder, replace(read_card(folder), name="pretrained", version="5"))
    return folder


def test_a_fresh_laboratory_uses_the_pretrained_model_and_says_so(laboratory, session, pretrained, tmp_path):
    fresh = Laboratory(tmp_path)
    chosen: dict[str, Any] = {"TEM_PRETRAINED_MODEL": str(pretrained)}
    image = next(session.glob("*[0-9].tif"))
    processed = fresh.run("process", session, **chosen)
    segmented = fresh.run("segment", image, "--out", tmp_path / "out", **chosen)
    evaluated = fresh.run("evaluate", laboratory.data / "annotated/simulated", "--json", **chosen)
    for done in (processed, segmented, evaluated):
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == f"tem-pipeline: {NO_CHAMPION_YET}"
    assert json.loads(evaluated.stdout)["model"] == "pretrained/5"
    sha256 = read_card(pretrained).weights_sha256
    tables = [table(fresh, "predicted_masks"), table(fresh, "particle_table")]
    for rows in (*tables, pd.read_parquet(tmp_path / "out/particle_table.parquet")):
        assert len(rows)
        models = rows[["model_name", "model_version", "model_sha256"]].drop_duplicates()
        assert models.to_numpy().tolist() == [["pretrained", "5", sha256]]
    named = fresh.run("segment", image, "--out", tmp_path / "named", "--model", "pretrained", **chosen)
    assert (named.returncode, named.stderr) == (0, "")


def test_with_flips_a_mirrored_micrograph_gives_the_mirrored_labels(laboratory, session, tmp_path):
    image = tifffile.imread(next(session.glob("*[0-9].tif")))[:, :301]
    for name, pixels in (("plain", image), ("mirrored", image[:, ::-1])):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.ascontiguousarray(pixels))
    files = [tmp_path / "plain.tif", tmp_path / "mirrored.tif"]

    def cores(*options: str) -> list[np.ndarray]:
        laboratory.succeed("segment", *files, "--out", tmp_path / "out", *options)
        return [tifffile.imread(tmp_path / "out" / f"{file.stem}_labels.tif") > 0 for file in files]

    plain, mirrored = cores("--flips")
    assert plain.any()
    assert np.array_equal(plain[:, ::-1], mirrored)
    plain, mirrored = cores("--no-flips")
    assert not np.array_equal(plain[:, ::-1], mirrored)


def test_a_session_at_other_pixel_sizes_gives_the_same_sizes_in_nm(laboratory, tmp_path):
    card = read_card(laboratory.models / "champion")
    assert card.pixel_size_nm == pytest.approx((0.1, 0.1))
    out = tmp_path / "fine"
    laboratory.succeed("simulate", out, "--images", 2, "--size", 1024, "--pixel-size-nm", 0.04, "--seed", 3)
    laboratory.succeed("segment", out / "session", "--out", tmp_path / "out")
    found = pd.read_parquet(tmp_path / "out/particle_table.parquet").query("not touches_edge")
    truth = pd.read_parquet(out / "truth/particles.parquet").query("not touches_edge")
    assert len(found) == pytest.approx(len(truth), rel=0.2)
    assert found["equivalent_diameter_nm"].mean() == pytest.approx(
        truth["visible_diameter_nm"].mean(), rel=0.05
    )


def test_objects_under_the_smallest_diameter_in_nm_are_left_out(laboratory, session, tmp_path):
    image = next(session.glob("*[0-9].tif"))
    laboratory.succeed("segment", image, "--out", tmp_path, "--minimum-diameter-nm", 1e3)
    assert pd.read_parquet(tmp_path / "particle_table.parquet").empty
    assert laboratory.run("segment", image, "--out", tmp_path, "--minimum-diameter-nm", 0).returncode == 2


def test_without_a_champion_the_reason_is_one_line(bare_laboratory, session):
    done = bare_laboratory.run("process", session)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "train" in done.stderr
    assert not list(bare_laboratory.data.rglob("*.part"))


def test_wrong_usage_exits_with_2(bare_laboratory):
    assert bare_laboratory.run("simulate").returncode == 2
    assert bare_laboratory.run("train", "x", "--profile", "huge").returncode == 2


def test_simulating_into_incoming_is_refused(bare_laboratory):
    done = bare_laboratory.run("simulate", bare_laboratory.data / "incoming" / "x")
    assert done.returncode == 1
    assert "incoming" in done.stderr
