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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_values_are_turned_round_if_zero_is_white(tmp_path, image, dtype):
    stored = (image // 16).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    (found,) = read_micrographs(tmp_path / "a.tif")
    assert found.image.dtype == dtype
    total = found.image.astype(np.float64) + stored
    assert np.ptp(total) == 0
    assert dtype not in (np.uint8, np.uint16) or total[0, 0] == np.iinfo(dtype).max


def test_masks_keep_the_numbers_that_mean_labels(tmp_path, image):
    labels = (image > 2000).astype(np.uint8) * np.uint8(255)
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="miniswhite")
    (found,) = read_micrographs(tmp_path / "a.tif", as_stored=True)
    np.testing.assert_array_equal(found.image, labels)


def test_a_palette_of_greys_is_resolved_and_one_of_colours_refused(tmp_path, image):
    stored = (image // 16).astype(np.uint8)
    ramp = np.arange(256, dtype=np.uint16) * np.uint16(257)
    palettes = {
        "grey": [ramp] * 3,
        "inverted": [ramp[::-1]] * 3,
        "rising": [ramp, ramp // 2, ramp // 3],
        "cyclic": [ramp, ramp[::-1], np.roll(ramp, 90)],
    }
    for name, palette in palettes.items():
        tifffile.imwrite(
            tmp_path / f"{name}.tif", stored, photometric="palette", colormap=np.array(palette, np.uint16)
        )
    np.testing.assert_array_equal(read_micrographs(tmp_path / "grey.tif")[0].image, stored)
    np.testing.assert_array_equal(read_micrographs(tmp_path / "inverted.tif")[0].image, 255 - stored)
    np.testing.assert_array_equal(read_micrographs(tmp_path / "rising.tif")[0].image, stored)
    assert "colour" in refusal(tmp_path / "cyclic.tif")


def fei(**sections) -> str:
    return "".join(
        f"[{name}]\r\n" + "".join(f"{key}={value}\r\n" for key, value in keys.items())
        for name, keys in sections.items()
    )


@pytest.mark.parametrize(
    ("sections", "rows"),
    [
        ({"Image": {"ResolutionX": 64, "ResolutionY": 40}}, 40),
        ({"Scan": {"PixelHeight": 3e-10, "PixelWidth": 2e-10, "VerFieldsize": 1.2e-8}}, 40),
        ({"Scan": {"PixelHeight": 3e-10, "PixelWidth": 2e-10}}, 48),
        ({"Image": {"ResolutionX": 64, "ResolutionY": 99}}, 48),
    ],
)
def test_a_fei_picture_ends_where_its_metadata_say(tmp_path, image, sections, rows):
    text = fei(**{"User": {"Date": 1}} | sections)
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(34682, "s", 0, text, True)])
    (found,) = read_micrographs(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.image, image[:rows])
    if "Scan" in sections:
        assert found.pixel_size_nm == pytest.approx((0.3, 0.2))


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        ("<PixelSize><X>2e-010</X><Y>3e-010</Y></PixelSize>", (0.3, 0.2)),
        ('<PixelSize><X unit="nm">0.2</X><Y unit="nm">0.3</Y></PixelSize>', (0.3, 0.2)),
        ("<PixelSize><X>2e-010</X></PixelSize>", None),
        ("<PixelSize><X>2e-010</X><Y>2e-010</Y></PixelSize>" * 2, None),
        ("<PixelSize><X>two</X><Y>2e-010</Y></PixelSize>", None),
    ],
)
def test_the_titan_tag_gives_a_size_only_if_it_is_plain(tmp_path, image, xml, expected):
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(34683, "s", 0, f"<Fei>{xml}</Fei>", True)])
    size_nm = read_micrographs(tmp_path / "a.tif")[0].pixel_size_nm
    assert size_nm == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("unit", "y_unit", "y_nm"), [("nm", "um", 500), ("um", "nm", 0.5), ("nm", "pixel", None)]
)
def test_imagejs_yunit_is_the_unit_of_the_height(tmp_path, image, unit, y_unit, y_nm):
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        imagej=True,
        resolution=(4, 2),
        metadata={"unit": unit, "yunit": y_unit},
    )
    x_nm = 0.25 if unit == "nm" else 250
    size_nm = read_micrographs(tmp_path / "a.tif")[0].pixel_size_nm
    assert size_nm == (y_nm and pytest.approx((y_nm, x_nm)))


def test_a_screen_copy_of_another_image_is_marked(tmp_path, image):
    big = np.kron(image, np.ones((4, 4), np.uint16))
    screen = (image // 16).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(screen, photometric="minisblack")
        tiff.write(big, photometric="minisblack")
    assert [m.kind for m in read_micrographs(tmp_path / "a.tif")] == ["display copy", "micrograph"]
    tifffile.imwrite(tmp_path / "b.tif", np.dstack([screen] * 3), photometric="rgb")
    assert [m.kind for m in read_micrographs(tmp_path / "b.tif")] == ["micrograph"]
