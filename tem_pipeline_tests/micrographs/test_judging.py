import numpy as np
import pytest
import tifffile
from PIL import Image

from tem_pipeline.micrographs.reading import read_micrographs
from tem_pipeline_tests.micrographs.readers.files import refusal, write_berkeley


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dm/test_diffraction_pattern.dm3", "reciprocal"),
        ("tif/JEOL-SightX-SAED-dummy.tif", "reciprocal"),
        ("dm/08_carbon.dm3", "spectrum"),
        ("tif/optical_Zeiss_AxioVision_RGB.tif", "colour"),
        ("tif/quad1image_001_no_beam_scan_or_system_meta.tif", "cut short"),
    ],
)
def test_a_file_without_micrographs_is_refused_with_a_reason(formats, name, why):
    assert why in refusal(formats / name, measurable_only=False)


def test_only_the_images_among_several_signals_are_read(formats):
    (only,) = read_micrographs(formats / "dm/multi_signal.dm3")
    assert (only.signal, only.image.shape, only.detector) == (0, (512, 512), "haadf")
    (only,) = read_micrographs(formats / "emd/FFTComplexEven.emd")
    assert (only.signal, only.image.dtype) == (1, np.uint16)
    (second,) = read_micrographs(formats / "tif/olympus_SIS.tif")
    assert second.signal == 1


def test_blank_reference_images_are_described_but_not_measured(formats):
    path = formats / "tif/JEOL-SightX-TEM-mag-dummy.tif"
    (blank,) = read_micrographs(path, measurable_only=False)
    assert "same value" in blank.fault
    assert blank.pixel_size_nm is not None
    assert "same value" in refusal(path)


@pytest.mark.parametrize(("unit", "why"), [("[1/nm]", "reciprocal"), ("[eV]", "spectrum")])
def test_images_in_reciprocal_or_energy_units_are_refused(tmp_path, image, unit, why):
    write_berkeley(tmp_path / "a.emd", {"a": image}, unit=unit)
    assert why in refusal(tmp_path / "a.emd")


def test_colour_is_refused_only_if_channels_differ(tmp_path, image):
    grey = (image // 16).astype(np.uint8)
    colour = np.dstack([grey, grey, grey // 2])
    Image.fromarray(colour).save(tmp_path / "screenshot.png")
    tifffile.imwrite(tmp_path / "screenshot.tif", colour, photometric="rgb")
    for name in ("screenshot.png", "screenshot.tif"):
        assert "colour" in refusal(tmp_path / name)
    tifffile.imwrite(tmp_path / "grey.tif", np.dstack([grey] * 3), photometric="rgb")
    np.testing.assert_array_equal(read_micrographs(tmp_path / "grey.tif")[0].image, grey)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (np.full((32, 32), 7, np.uint8), "same value"),
        (np.zeros((32, 32), np.float32), "same value"),
        (np.ones((1, 1), np.uint8), "too small"),
        (np.arange(64, dtype=np.uint8).reshape(1, 64), "too small"),
        (np.where(np.eye(32) > 0, np.nan, 1).astype(np.float32), "not finite"),
        (np.where(np.eye(32) > 0, np.inf, 1).astype(np.float64), "not finite"),
        (np.full((32, 32), np.nan, np.float32), "not finite"),
        ((np.ones((32, 32)) * 1j).astype(np.complex64), "complex"),
        (np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32), "4 axes"),
    ],
)
def test_images_that_cannot_be_measured_are_refused(tmp_path, data, why):
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack")
    assert why in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize(("value", "why"), [(np.nan, "1 of its pixels are not finite"), (7, "same value")])
def test_faults_are_found_in_images_stored_by_columns(tmp_path, value, why):
    data = np.full((40, 56), 7, np.float32)
    data[31, 5] = value
    write_berkeley(tmp_path / "a.emd", {"image": data})
    assert why in refusal(tmp_path / "a.emd")
    data[31, 5], data[0, 0] = 7, 8
    write_berkeley(tmp_path / "b.emd", {"image": data})
    assert read_micrographs(tmp_path / "b.emd")[0].image.flags.f_contiguous


def test_large_finite_values_are_accepted(tmp_path):
    data = np.random.default_rng(0).random((32, 32)).astype(np.float32) * np.float32(3e38)
    tifffile.imwrite(tmp_path / "a.tif", data)
    assert read_micrographs(tmp_path / "a.tif")[0].fault == ""


def test_an_image_with_one_different_pixel_is_accepted(tmp_path, image):
    blank = np.full((201, 203), 5, np.uint8)
    blank[100, 77] = 6
    tifffile.imwrite(tmp_path / "a.tif", blank)
    assert len(read_micrographs(tmp_path / "a.tif")) == 1
