"""Files from public bug reports give what their README says, by `info` and by ingestion."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tem_pipeline.micrographs.ingestion import IngestedImage, describe_file, ingest_files
from tem_pipeline.micrographs.reading import read_micrographs
from tem_pipeline.micrographs.sessions import read_session_description, session_files


@pytest.fixture(scope="module")
def odd_files(reference_data: Path) -> Path:
    folder = reference_data / "odd_files"
    if not folder.is_dir():
        pytest.skip("there are no odd files beside the reference data")
    return folder


def ingest(folder: Path, *names: str) -> list[IngestedImage]:
    files = [folder / name for name in names] or session_files(folder)
    return list(ingest_files(folder, files, read_session_description(folder), "key"))


@pytest.mark.parametrize("name", ["unsigned.mrc", "signed.mrc"])
def test_mrc_bytes_are_signed_only_if_imod_says_so(odd_files, name):
    (found,) = ingest(odd_files / "01_mrc_unsigned_bytes", name)
    shown = tifffile.imread(odd_files / "01_mrc_unsigned_bytes/same_pixels.tif").astype(np.float64)
    assert found.image is not None
    assert np.ptp(found.image - shown) == 0
    assert found.row["mode"] == "bright_field"
    assert found.row["pixel_size_x_nm"] == pytest.approx(0.2)


def test_an_ncempy_image_keeps_its_rows_and_columns(odd_files):
    folder = odd_files / "02_emd_ncempy_order"
    (found,) = read_micrographs(folder / "single.emd")
    np.testing.assert_array_equal(found.image, tifffile.imread(folder / "same_pixels.tif"))
    assert found.pixel_size_nm == pytest.approx((0.2, 0.2))


def test_the_first_frame_of_an_ncempy_series_is_measured(odd_files):
    found = ingest(odd_files / "02_emd_ncempy_order", "series16.emd")
    assert [item.row["status"] for item in found] == ["ok"] + ["frame"] * 15
    assert {(item.row["height_px"], item.row["width_px"]) for item in found} == {(256, 384)}
    described = describe_file(odd_files / "02_emd_ncempy_order/series16.emd")
    assert [image["frame"] for image in described["images"]] == list(range(16))


def test_a_picture_whose_zero_is_white_has_dark_particles(odd_files):
    (found,) = ingest(odd_files / "07_tif_white_is_zero")
    assert (found.row["mode"], found.row["mode_source"]) == ("bright_field", "session")
    assert found.image is not None
    assert found.image[131, 399] < np.median(found.image) - 30
    (shown,) = read_micrographs(odd_files / "07_tif_white_is_zero/inverting_lut.tif")
    (stored,) = read_micrographs(odd_files / "07_tif_white_is_zero/inverting_lut.tif", as_stored=True)
    np.testing.assert_array_equal(shown.image, 255 - stored.image)


def test_the_bar_below_a_fei_picture_is_cut_off(odd_files):
    path = odd_files / "08_fei_info_bar/with_bar.tif"
    (found,) = ingest(path.parent)
    assert (found.row["height_px"], found.row["mode"]) == (480, "haadf")
    (described,) = describe_file(path)["images"]
    assert described["shape"] == [512, 512]
    assert "below row 480" in described["note"]


@pytest.mark.parametrize("name", ["10_fei_titan_xml_tif/titan.tif", "17_mrc_agar_metres/agar.mrc"])
def test_sizes_in_rare_places_are_read_as_metres(odd_files, name):
    (image,) = describe_file(odd_files / name)["images"]
    assert image["pixel_size_nm"] == pytest.approx([0.2, 0.2], rel=1e-6)


def test_imagej_may_give_each_axis_its_own_unit(odd_files):
    (image,) = describe_file(odd_files / "19_imagej_yunit/two_units.tif")["images"]
    assert image["pixel_size_nm"] == pytest.approx([2, 2])


def test_elemental_maps_are_named_and_not_measured(odd_files):
    folder = odd_files / "20_velox_elemental_maps"
    assert [item.row["status"] for item in ingest(folder)] == ["detector"] * 4 + ["ok"]
    images = describe_file(folder / "si_maps.emd")["images"]
    assert [(image["kind"], image["title"]) for image in images] == [
        *(("elemental map", element) for element in ("C", "Ca", "O", "Cu")),
        ("micrograph", "HAADF"),
    ]


@pytest.mark.parametrize("name", ["holey.tif", "vacuum_at_the_edge.tif"])
def test_bright_field_with_vacuum_is_not_taken_for_haadf(odd_files, name):
    (found,) = ingest(odd_files / "09_bf_holes_in_film", name)
    assert (found.row["mode"], found.row["mode_source"]) == ("bright_field", "image") or (
        found.row["mode_source"] == "unsure" and "--mode" in found.row["reason"]
    )
