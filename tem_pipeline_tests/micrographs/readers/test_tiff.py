import numpy as np
import pytest
import tifffile

from tem_pipeline.micrographs.reading import read_micrographs
from tem_pipeline_tests.micrographs.readers.files import refusal


@pytest.mark.parametrize(
    ("unit", "per_unit", "pixel_nm"),
    [
        ("nm", 10.0, 0.1),
        ("micron", 4000.0, 0.25),
        ("\\u00B5m", 4000.0, 0.25),
        ("um", 4000, 0.25),
        ("A", 1.0, 0.1),
    ],
)
def test_imagej_pixel_sizes_are_read_in_every_unit(tmp_path, image, unit, per_unit, pixel_nm):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(per_unit, 2 * per_unit), metadata={"unit": unit})
    (found,) = read_micrographs(path)
    assert found.pixel_size_nm == pytest.approx((pixel_nm / 2, pixel_nm), rel=1e-6)
    np.testing.assert_array_equal(found.image, image)
    assert found.image.dtype == np.uint16


@pytest.mark.parametrize("unit", ["inch", "cm", "pixel", "", None])
def test_print_resolution_is_not_a_calibration(tmp_path, image, unit):
    path = tmp_path / "a.tif"
    metadata = {} if unit is None else {"unit": unit}
    tifffile.imwrite(path, image, imagej=True, resolution=(72, 72), metadata=metadata)
    assert read_micrographs(path)[0].pixel_size_nm is None
    tifffile.imwrite(path, image, resolution=(72, 72), resolutionunit="INCH")
    assert read_micrographs(path)[0].pixel_size_nm is None


def test_imagej_units_without_a_resolution_are_not_a_calibration(tmp_path, image):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(10, 10), metadata={"unit": "nm"})
    assert read_micrographs(path)[0].pixel_size_nm is not None
    content = path.read_bytes()
    for tag in (282, 283):  # XResolution and YResolution get unknown tag numbers
        entry = np.array([tag, 5], "<u2" if content[:2] == b"II" else ">u2")
        content = content.replace(
            entry.tobytes(), (entry + np.array([65100 - 282, 0])).astype(entry.dtype).tobytes()
        )
    path.write_bytes(content)
    assert read_micrographs(path)[0].pixel_size_nm is None


@pytest.mark.parametrize("where", [0, 2**18 - 1, 2**18, 1_000_000, -1], ids=lambda i: f"pixel {i}")
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "zlib"}], ids=repr)
def test_one_pixel_that_is_not_finite_is_found_anywhere_in_a_tiff(tmp_path, where, options):
    data = np.random.default_rng(0).random((1024, 1100), np.float32)
    data.reshape(-1)[where] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", data, **options)
    assert "1 of its pixels are not finite" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("faulty", range(3))
def test_every_image_of_a_tiff_is_checked_for_finite_pixels(tmp_path, contiguous, faulty):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for i in range(3):
            data = np.random.default_rng(i).random((600, 500), np.float32)
            data[300, 200] = np.nan if i == faulty else 0
            tiff.write(data, contiguous=contiguous, metadata=None if not contiguous else {})
    faults = [bool(m.fault) for m in read_micrographs(tmp_path / "a.tif", measurable_only=False)]
    assert faults == [i == faulty for i in range(3)]


def test_a_stack_that_was_cut_short_is_refused(tmp_path, image):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for i in range(3):
            tiff.write(image + i, contiguous=False)
    assert len(read_micrographs(path)) == 3
    path.write_bytes(path.read_bytes()[: path.stat().st_size - image.nbytes - 100])
    assert "cut short" in refusal(path)
