import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tem_pipeline.micrographs.ingestion import (
    MANIFEST_COLUMNS,
    IngestedImage,
    describe_file,
    ingest_files,
    manifest_table,
)
from tem_pipeline.micrographs.sessions import SessionDescription, session_files
from tem_pipeline.tables import MANIFEST_SCHEMA
from tem_pipeline_tests.micrographs.readers.files import write_berkeley


@pytest.fixture
def session(tmp_path: Path) -> Path:
    folder = tmp_path / "2026-11-22 Pt"
    folder.mkdir()
    return folder


def picture(seed: int = 0, shape: tuple[int, int] = (32, 40)) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 4000, shape, dtype=np.uint16)


def write(path: Path, image: np.ndarray, pixel_nm: float | tuple[float, float] | None = 0.1) -> None:
    if pixel_nm is None:
        tifffile.imwrite(path, image)
        return
    y_nm, x_nm = pixel_nm if isinstance(pixel_nm, tuple) else (pixel_nm, pixel_nm)
    tifffile.imwrite(path, image, imagej=True, resolution=(1 / x_nm, 1 / y_nm), metadata={"unit": "nm"})


def ingest(folder: Path, **description) -> list[IngestedImage]:
    found = list(ingest_files(folder, session_files(folder), SessionDescription(**description), "key"))
    for item in found:
        row = item.row
        assert tuple(row) == MANIFEST_COLUMNS
        assert row["status"] in ("ok", "refused", "duplicate", "frame", "detector")
        assert (item.image is not None) == (row["status"] == "ok")
        assert row["status"] == "ok" or row["reason"]
        if item.image is not None:
            assert item.image.shape == (row["height_px"], row["width_px"])
            assert item.image.dtype in (np.uint8, np.uint16, np.float32)
            assert item.image.dtype.isnative
            assert row["mode"] in ("bright_field", "haadf")
            assert (row["pixel_size_y_nm"] is None) == (row["calibration"] == "missing")
    ids = [item.row["image_id"] for item in found if item.row["image_id"]]
    assert len({i.casefold() for i in ids}) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", i) and ".." not in i for i in ids)
    table = manifest_table(item.row for item in found)
    assert table.num_rows == len(found)
    measured = [item.row["field_id"] for item in found if item.row["status"] == "ok"]
    assert len(set(measured)) == len(measured), "a field is measured once"
    return found


def statuses(found: list[IngestedImage]) -> list[str]:
    return [item.row["status"] for item in found]


def test_the_schema_describes_every_column_in_a_line():
    for column in MANIFEST_SCHEMA:
        metadata = {k.decode(): v.decode() for k, v in column.metadata.items()}
        assert set(metadata) == {"unit", "description"}
        assert metadata["description"].isprintable()
        if column.name.endswith(("_nm", "_px", "_kv")):
            assert metadata["unit"].casefold() == column.name.rsplit("_", 1)[1]
    assert manifest_table([]).schema.equals(MANIFEST_SCHEMA, check_metadata=True)


def test_a_good_image_gets_a_complete_row(session):
    write(session / "a.tif", picture(), 0.1)
    (found,) = ingest(session, operator="J. Doe", voltage_kv=200, metal="Pt", mode="haadf")
    row = found.row
    assert row["session_id"] == "key"
    assert row["session_name"] == row["sample_id"] == "2026-11-22 Pt"
    assert (row["file"], row["image_id"], row["field_id"]) == ("a.tif", "a", "a")
    assert row["file_sha256"] == hashlib.sha256((session / "a.tif").read_bytes()).hexdigest()
    assert len(row["pixel_sha256"]) == 64
    assert (row["signal"], row["frame"], row["height_px"], row["width_px"]) == (0, 0, 32, 40)
    assert row["pixel_size_y_nm"] == row["pixel_size_x_nm"] == pytest.approx(0.1)
    assert (row["calibration"], row["calibration_uncertainty"]) == ("metadata", 0.02)
    assert (row["mode"], row["mode_source"]) == ("haadf", "session")
    assert (row["operator"], row["voltage_kv"], row["metal"]) == ("J. Doe", 200, "Pt")
    assert (row["status"], row["reason"], row["image_file"]) == ("ok", None, None)
    np.testing.assert_array_equal(found.image, picture())


def test_bad_files_get_a_row_with_a_reason_and_the_others_are_read(session):
    write(session / "good.tif", picture())
    content = (session / "good.tif").read_bytes()
    (session / "cut.tif").write_bytes(content[: len(content) // 2])
    (session / "text.dm3").write_text("Dear colleague")
    (session / "empty.mrc").write_bytes(b"")
    tifffile.imwrite(
        session / "screenshot.tif", np.dstack([picture(1), picture(2), picture(3)]), photometric="rgb"
    )
    write(session / "one.tif", np.ones((1, 1), np.uint8))
    write(session / "nan.tif", np.where(picture() > 3900, np.nan, 1).astype(np.float32))
    write(session / "constant.tif", np.full((32, 32), 9, np.uint8))
    (session / "slide.bmp").write_bytes(b"BM")
    found = {item.row["file"]: item.row for item in ingest(session)}
    assert [name for name, row in found.items() if row["status"] == "ok"] == ["good.tif"]
    for name, why in {
        "cut.tif": "cut short",
        "text.dm3": "no dm3 file",
        "empty.mrc": "empty",
        "screenshot.tif": "colour",
        "one.tif": "too small",
        "nan.tif": "not finite",
        "constant.tif": "same value",
        "slide.bmp": "not read",
    }.items():
        assert found[name]["status"] == "refused"
        assert why in found[name]["reason"]
        assert name not in found[name]["reason"]
    assert found["text.dm3"]["image_id"] is None
    assert found["text.dm3"]["height_px"] is None


def test_a_file_that_vanishes_gets_a_row(session):
    write(session / "a.tif", picture())
    write(session / "b.tif", picture(1))
    files = session_files(session)
    (session / "a.tif").unlink()
    found = list(ingest_files(session, files, SessionDescription(), "key"))
    assert statuses(found) == ["refused", "ok"]
    assert found[0].row["file_sha256"] is None


def test_the_session_fills_in_missing_sizes_and_conflicts_are_noted(session):
    write(session / "a.tif", picture(1), None)
    write(session / "b.tif", picture(2), 0.1)
    a, b = ingest(session, pixel_size_nm=0.2, calibration_uncertainty=0.01)
    assert (a.row["pixel_size_x_nm"], a.row["calibration"]) == (0.2, "session")
    assert (b.row["pixel_size_x_nm"], b.row["calibration"]) == (pytest.approx(0.1), "metadata")
    assert "session.yaml" in b.row["calibration_note"]
    assert a.row["calibration_note"] is None
    assert a.row["calibration_uncertainty"] == 0.01
    (missing, _) = ingest(session)
    assert missing.row["calibration"] == "missing"
    assert missing.row["pixel_size_x_nm"] is missing.row["calibration_uncertainty"] is None


def test_images_with_oblong_pixels_are_stored_with_square_ones(session):
    write(session / "a.tif", picture(), (0.2, 0.1))
    (found,) = ingest(session)
    assert (found.row["height_px"], found.row["width_px"]) == (64, 40)
    assert found.row["pixel_size_y_nm"] == found.row["pixel_size_x_nm"] == pytest.approx(0.1)
    assert found.image is not None
    assert found.image.dtype == np.uint16


def test_only_the_file_with_extremely_oblong_pixels_is_refused(session):
    write(session / "b.tif", picture())
    files = [session / "a.mrc", session / "b.tif"]
    import mrcfile

    with mrcfile.new(files[0], picture(1, (400, 400))) as mrc:
        mrc.voxel_size = (1e-2, 1e7, 1)
    found = list(ingest_files(session, files, SessionDescription(), "key"))
    assert statuses(found) == ["refused", "ok"]
    assert "oblong" in found[0].row["reason"]


@pytest.mark.parametrize("dtype", [">u2", ">i4", np.int8, np.float64, np.float16, np.uint32])
def test_other_types_become_native_and_keep_their_values(session, dtype):
    values = (picture() // 64).astype(dtype)
    tifffile.imwrite(session / "a.tif", values)
    (found,) = ingest(session)
    assert found.image is not None
    assert found.image.dtype == (np.uint16 if dtype == ">u2" else np.float32)
    np.testing.assert_array_equal(found.image, values)


def test_equal_pixels_are_measured_once_in_any_file_format(session):
    write(session / "a.tif", picture())
    shutil.copyfile(session / "a.tif", session / "b.tif")
    tifffile.imwrite(session / "c.tif", picture().astype(np.float32))
    write(session / "d.tif", picture()[::-1])
    found = ingest(session)
    assert statuses(found) == ["ok", "duplicate", "duplicate", "ok"]
    assert "a" in found[1].row["reason"].split()
    assert found[1].row["field_id"] == found[2].row["field_id"] == "a"
    assert len({item.row["pixel_sha256"] for item in found}) == 2


def test_the_first_frame_of_a_stack_is_measured(session):
    frames = np.stack([picture(i) for i in range(3)])
    write(session / "stack.tif", frames)
    write(session / "zzz.tif", frames[2])
    found = ingest(session)
    assert statuses(found) == ["ok", "frame", "frame", "duplicate"]
    assert [item.row["image_id"] for item in found[:3]] == ["stack_f0", "stack_f1", "stack_f2"]
    assert {item.row["field_id"] for item in found} == {"stack"}


def test_each_frame_can_be_a_field(session):
    frames = np.stack([picture(0), picture(1), picture(0)])
    write(session / "stack.tif", frames)
    found = ingest(session, stack="fields")
    assert statuses(found) == ["ok", "ok", "duplicate"]
    assert [item.row["field_id"] for item in found] == ["stack_f0", "stack_f1", "stack_f0"]


def test_the_next_frame_is_measured_if_the_first_is_blank(session):
    write(session / "stack.tif", np.stack([np.zeros((32, 40), np.uint16), picture(1), picture(2)]))
    assert statuses(ingest(session)) == ["refused", "ok", "frame"]


def test_one_detector_of_an_acquisition_is_measured(session):
    write_berkeley(session / "a.emd", {"BF": picture(1), "DF4": picture(2), "HAADF": picture(3)})
    found = ingest(session)
    assert statuses(found) == ["ok", "detector", "detector"]
    assert (found[0].row["mode"], found[0].row["mode_source"]) == ("bright_field", "detector")
    assert {item.row["field_id"] for item in found} == {"a"}
    found = ingest(session, mode="haadf")
    assert statuses(found) == ["detector", "detector", "ok"]
    assert found[2].row["image_id"] == "a_s2"
    assert found[2].row["mode_source"] == "session"


def test_the_first_image_is_measured_if_no_detector_is_known(session):
    dark = np.full((64, 64), 900, np.uint16) + picture(0, (64, 64)) // 100
    for top, left in ((5, 5), (20, 30), (30, 8), (45, 45), (50, 20)):
        dark[top : top + 8, left : left + 8] = 200
    write_berkeley(session / "a.emd", {"det1": dark, "det2": 1000 - dark})
    write_berkeley(session / "b.emd", {"det1": 2000 - dark})
    found = ingest(session)
    assert statuses(found) == ["ok", "detector", "ok"]
    assert (found[0].row["mode"], found[0].row["mode_source"]) == ("bright_field", "image")
    assert found[2].row["mode"] == "haadf"


def test_a_title_that_contradicts_the_session_mode_is_noted(session):
    write_berkeley(session / "a.emd", {"BF": picture(1)})
    (found,) = ingest(session, mode="haadf")
    assert (found.row["status"], found.row["mode"]) == ("ok", "haadf")
    assert "bright_field" in found.row["reason"]


def test_an_acquisition_is_not_measured_again_after_its_export(session):
    write(session / "a_export.tif", picture(1))
    write_berkeley(session / "b.emd", {"BF": picture(1), "HAADF": picture(2)})
    found = ingest(session)
    assert statuses(found) == ["ok", "duplicate", "detector"]
    assert {item.row["field_id"] for item in found} == {"a_export"}


def test_names_of_files_with_equal_stems_depend_only_on_their_paths(session):
    for folder in ("grid1", "grid2"):
        (session / folder).mkdir()
    write(session / "grid1/001.tif", picture(1))
    alone = ingest(session)[0].row["image_id"]
    write(session / "grid2/001.tif", picture(2))
    write(session / "002 é.tif", picture(3))
    names = {item.row["file"]: item.row["image_id"] for item in ingest(session)}
    assert alone == "001"
    assert re.fullmatch("001-[0-9a-f]{8}", names["grid1/001.tif"])
    write(session / "aaa.tif", picture(4))
    write(session / "001.tif", picture(5))
    again = {item.row["file"]: item.row["image_id"] for item in ingest(session)}
    assert {name: again[name] for name in names} == names


def test_names_that_collide_with_frame_names_stay_different(session):
    write(session / "a.tif", np.stack([picture(1), picture(2)]))
    write(session / "a_f0.tif", picture(3))
    write(session / "A_F1.tif", picture(4))
    assert statuses(ingest(session)).count("ok") == 3


def test_reference_files_of_every_kind_make_one_session(reference_data, session):
    shutil.copytree(reference_data / "microscope_formats", session, dirs_exist_ok=True)
    found = ingest(session)
    rows = {(item.row["file"], item.row["signal"], item.row["frame"]): item.row for item in found}
    files = {item.row["file"] for item in found}
    assert not [f for f in files if f.endswith(".ser")]
    assert {f for f in files if f.endswith(".emi")} == {
        f"ser_emi/{name}.emi"
        for name in (
            *("03_Scanning Preview", "128x128-TEM_search", "128x128_TEM_acquire-sum1"),
            *("16x16_STEM_BF_DF_acquire", "64x64_TEM_images_acquire"),
        )
    }
    both = [row for row in rows.values() if row["file"].endswith("BF_DF_acquire.emi")]
    assert [row["status"] for row in both] == ["ok", "detector"]
    assert len({row["field_id"] for row in both}) == 1
    maps = [row for row in rows.values() if row["file"] == "emd/Test SI 16x16 215 kx.emd"]
    assert [row["status"] for row in maps] == ["detector"] * 4 + ["ok"]
    assert "elemental map (Ca)" in maps[1]["reason"]
    twin = [row["status"] for row in rows.values() if row["file"].startswith("emd/Test SI")]
    assert twin.count("ok") <= 2
    stack = [row for row in rows.values() if row["file"] == "mrc/temp.mrc"]
    assert [row["status"] for row in stack] == ["ok", "frame", "frame"]
    oblong = rows[("dm/dmTest_3D_int16_64,65,66.dm3", 0, 0)]
    assert (oblong["height_px"], oblong["pixel_size_y_nm"]) == (97500, pytest.approx(0.002))
    assert rows[("emd/FFTComplexEven.emd", 1, 0)]["mode"] == "haadf"
    json.dumps([item.row for item in found])


@pytest.mark.parametrize("suffixes", [("_1", "_2"), ("", "_1", "_2")])
def test_an_emi_pair_is_one_field_with_and_without_its_emi(reference_data, session, suffixes):
    stem = "16x16_STEM_BF_DF_acquire"
    for suffix in suffixes:
        name = f"{stem}{suffix}{'.ser' if suffix else '.emi'}"
        shutil.copyfile(reference_data / "microscope_formats/ser_emi" / name, session / name)
    found = ingest(session)
    assert statuses(found) == ["ok", "detector"]
    assert len({item.row["field_id"] for item in found}) == 1


def test_files_are_read_one_at_a_time(session):
    for i in range(3):
        write(session / f"{i}.tif", picture(i))
    stream = ingest_files(session, session_files(session), SessionDescription(), "key")
    next(stream)
    (session / "2.tif").write_bytes(b"")
    assert [item.row["status"] for item in stream] == ["ok", "refused"]


# --- info ------------------------------------------------------------------------------------------------


def test_a_file_is_described_for_people_and_programs(session):
    write(session / "a.tif", picture(), (0.2, 0.1))
    write(session / "b.tif", picture(), None)
    assert describe_file(session / "a.tif") == {
        "file": str(session / "a.tif"),
        "images": [
            {
                "shape": [32, 40],
                "pixel_size_nm": [pytest.approx(0.2), pytest.approx(0.1)],
                "calibration": "metadata",
                "kind": "micrograph",
                "title": "a",
                "frame": 0,
                "note": "",
            }
        ],
        "refused": None,
    }
    (b,) = describe_file(session / "b.tif")["images"]
    assert (b["pixel_size_nm"], b["calibration"]) == (None, "missing")
    (b,) = describe_file(session / "b.tif", 0.3)["images"]
    assert (b["pixel_size_nm"], b["calibration"]) == ([0.3, 0.3], "session")


def test_a_file_without_a_micrograph_is_described_by_the_reason(session):
    (session / "a.dm3").write_text("no")
    described = describe_file(session / "a.dm3")
    assert described["images"] == []
    assert "no dm3 file" in described["refused"]
    write(session / "b.tif", np.full((32, 32), 9, np.uint8), 0.1)
    described = describe_file(session / "b.tif")
    assert described["images"][0]["shape"] == [32, 32]
    assert "same value" in described["refused"]
    json.dumps(described)
