import csv
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.reading import (
    SUPPORTED_SUFFIXES,
    MicrographError,
    group_acquisitions,
    read_micrographs,
)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 4000, (48, 64), dtype=np.uint16)


@pytest.fixture(scope="module")
def formats(reference_data: Path) -> Path:
    return reference_data / "microscope_formats"


def signal_of(data: np.ndarray, scale: float = 0.1, units: str = "nm", title: str = "HAADF") -> dict:
    """Make what RosettaSciIO's writers take."""
    names = [None, "y", "x"][-data.ndim :]
    axes = [
        {"name": name, "size": size, "scale": scale, "offset": 0.0, "units": units, "navigate": False}
        for name, size in zip(names, data.shape, strict=True)
    ]
    return {
        "data": data,
        "axes": [axis | {"_type": "UniformDataAxis", "index_in_array": i} for i, axis in enumerate(axes)],
        "metadata": {"General": {"title": title}, "Signal": {"signal_type": ""}},
        "original_metadata": {},
        "attributes": {"_lazy": False},
        "learning_results": {},
        "tmp_parameters": {},
        "package_info": {"package": "test", "package_version": "1"},
        "models": {},
    }


def refusal(path: Path, **options: bool) -> str:
    with pytest.raises(MicrographError) as caught:
        read_micrographs(path, **options)
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert message.startswith(path.name)
    assert message.isprintable()
    assert len(message) < 500
    return message


# --- files that instruments wrote ------------------------------------------------------------------------


def reference_rows(formats: Path) -> dict[str, list[dict[str, str]]]:
    rows: dict[str, list[dict[str, str]]] = {}
    with (formats / "PIXEL_SIZES.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["file"], []).append(row)
    return rows


def test_every_reference_file_gives_what_the_table_says(formats):
    table = reference_rows(formats)
    assert len(table) >= 50
    for name, rows in table.items():
        expected = []
        for row in rows:
            axes = row["rosettasciio_axes"]
            shape = tuple(int(n) for n in row["shape"].split("x")) if row["shape"] else ()
            sizes = row["pixel_nm_axis0_of_last2"], row["pixel_nm_axis1_of_last2"]
            colour = name.endswith("RGB.tif") or (
                name.endswith("olympus_SIS.tif") and row["signal_index"] == "0"
            )
            if len(shape) < 2 or colour or re.search(r"1 ?/|eV", axes):
                continue
            pixel_nm = (float(sizes[0]), float(sizes[1])) if all(sizes) else None
            frames = shape[0] if len(shape) == 3 else 1
            expected += [(shape[-2:], pixel_nm)] * frames
        try:
            found = read_micrographs(formats / name, measurable_only=False)
        except MicrographError:
            found = []
        assert [(m.image.shape, m.pixel_size_nm is None) for m in found] == [
            (shape, pixel_nm is None) for shape, pixel_nm in expected
        ], name
        for micrograph, (_, pixel_nm) in zip(found, expected, strict=True):
            if pixel_nm is not None:
                assert micrograph.pixel_size_nm == pytest.approx(pixel_nm, rel=1e-6), name


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
def test_what_is_no_micrograph_is_refused_with_its_reason(formats, name, why):
    assert why in refusal(formats / name, measurable_only=False)


def test_of_several_signals_the_images_are_taken(formats):
    (only,) = read_micrographs(formats / "dm/multi_signal.dm3")
    assert (only.signal, only.image.shape, only.detector) == (0, (512, 512), "haadf")
    (only,) = read_micrographs(formats / "emd/FFTComplexEven.emd")
    assert (only.signal, only.image.dtype) == (1, np.uint16)
    (second,) = read_micrographs(formats / "tif/olympus_SIS.tif")
    assert second.signal == 1


def test_elemental_maps_and_detectors_of_a_spectrum_image_are_told_apart(formats):
    found = read_micrographs(formats / "emd/Test SI 16x16 215 kx.emd")
    assert [m.title for m in found] == ["C", "Ca", "O", "Cu", "HAADF"]
    assert [m.is_elemental_map for m in found] == [True] * 4 + [False]
    assert [m.detector for m in found] == [None] * 4 + ["haadf"]
    assert len({m.acquisition for m in found}) == 1
    (eels,) = read_micrographs(
        formats / "dm/643_Titan_EELS_proc_intgrate_and_bg_dataZeroed.dm3", measurable_only=False
    )
    assert eels.is_elemental_map


def test_blank_reference_images_are_described_but_not_measured(formats):
    path = formats / "tif/JEOL-SightX-TEM-mag-dummy.tif"
    (blank,) = read_micrographs(path, measurable_only=False)
    assert "same value" in blank.fault
    assert blank.pixel_size_nm is not None
    assert "same value" in refusal(path)


def test_frames_of_a_stack_come_one_by_one(formats):
    found = read_micrographs(formats / "mrc/temp.mrc")
    assert [(m.frame, m.n_frames) for m in found] == [(0, 3), (1, 3), (2, 3)]
    assert not np.array_equal(found[0].image, found[1].image)


def test_pixels_are_those_that_rosettasciio_reads(formats):
    from rsciio.digitalmicrograph import file_reader as read_dm
    from rsciio.mrc import file_reader as read_mrc
    from rsciio.tia import file_reader as read_tia

    for name, reader in (
        ("dm/test_STEM_image.dm3", read_dm),
        ("dm/dmTest_3D_int16_64,65,66.dm3", read_dm),
        ("dm/multi_signal.dm3", read_dm),
        ("mrc/HAADFscan.mrc", read_mrc),
        ("mrc/temp.mrc", read_mrc),
        ("ser_emi/16x16_STEM_BF_DF_acquire.emi", read_tia),
        ("ser_emi/03_Scanning Preview_1.ser", read_tia),
    ):
        expected = [s["data"] for s in reader(str(formats / name)) if s["data"].ndim > 1]
        frames = [f for data in expected for f in (data if data.ndim == 3 else data[np.newaxis])]
        found = read_micrographs(formats / name)
        assert len(found) == len(frames)
        for micrograph, frame in zip(found, frames, strict=True):
            np.testing.assert_array_equal(micrograph.image, frame)


# --- emi and ser -----------------------------------------------------------------------------------------


def copy_tia(formats: Path, folder: Path, stem: str) -> Path:
    for file in (formats / "ser_emi").iterdir():
        if file.name.startswith(stem) and file.stem[len(stem) :] in ("", "_1", "_2"):
            shutil.copyfile(file, folder / file.name)
    return folder / f"{stem}.emi"


def test_an_emi_and_its_ser_are_read_once(formats, tmp_path):
    stem = "16x16_STEM_BF_DF_acquire"
    emi = copy_tia(formats, tmp_path, stem)
    files = sorted([*tmp_path.iterdir(), tmp_path / "other.tif"])
    assert group_acquisitions(files) == [[emi], [tmp_path / "other.tif"]]
    assert len(read_micrographs(emi)) == 2


def test_detectors_without_their_emi_stay_one_acquisition(formats, tmp_path):
    stem = "16x16_STEM_BF_DF_acquire"
    copy_tia(formats, tmp_path, stem).unlink()
    (group,) = group_acquisitions(sorted(tmp_path.iterdir()))
    assert [f.name for f in group] == [f"{stem}_1.ser", f"{stem}_2.ser"]
    keys = {read_micrographs(file)[0].acquisition for file in group}
    assert len(keys) == 1
    later = bytearray(group[1].read_bytes())
    later[-4:] = (1).to_bytes(4, "little")  # another time of acquisition
    group[1].write_bytes(later)
    assert read_micrographs(group[1])[0].acquisition not in keys


def test_the_emi_tells_a_diffraction_pattern(formats, tmp_path):
    emi = copy_tia(formats, tmp_path, "64x64_TEM_images_acquire")
    ser = tmp_path / "64x64_TEM_images_acquire_1.ser"
    assert read_micrographs(ser)[0].pixel_size_nm == pytest.approx((6.2818336, 6.2818336))
    emi.write_bytes(emi.read_bytes().replace(b"TEM uP SA Zoom Image", b"TEM uP SA Zoom Diffraction"))
    assert "reciprocal" in refusal(emi)
    assert "reciprocal" in refusal(ser)


def test_a_lone_ser_is_read_by_itself(formats, tmp_path):
    ser = tmp_path / "lone.ser"
    shutil.copyfile(formats / "ser_emi/64x64_TEM_images_acquire_1.ser", ser)
    (only,) = read_micrographs(ser)
    assert only.pixel_size_nm == pytest.approx((6.281833616298531, 6.281833616298531), rel=1e-6)


def test_a_lone_ser_with_kilometres_a_pixel_is_a_diffraction_pattern(formats, tmp_path):
    data = (formats / "ser_emi/64x64_TEM_images_acquire_1.ser").read_bytes()
    delta = np.array(6.281833616298531e-09, "<f8").tobytes()
    assert data.count(delta) == 2
    (tmp_path / "lone_1.ser").write_bytes(data.replace(delta, np.array(4.2e7, "<f8").tobytes()))
    assert "reciprocal" in refusal(tmp_path / "lone_1.ser")


def test_an_emi_without_its_ser_says_which_file_is_missing(formats, tmp_path):
    emi = copy_tia(formats, tmp_path, "64x64_TEM_images_acquire")
    (tmp_path / "64x64_TEM_images_acquire_1.ser").unlink()
    assert "64x64_TEM_images_acquire_1.ser" in refusal(emi)


def test_a_damaged_emi_leaves_the_unit_open_and_is_refused(formats, tmp_path):
    emi = copy_tia(formats, tmp_path, "64x64_TEM_images_acquire")
    emi.write_bytes(emi.read_bytes()[:2000])
    assert "damaged" in refusal(emi)
    assert "damaged" in refusal(tmp_path / "64x64_TEM_images_acquire_1.ser")


def test_brackets_and_capitals_in_names_do_no_harm(formats, tmp_path):
    folder = tmp_path / "Pt [5 nm] *?"
    folder.mkdir()
    shutil.copyfile(formats / "ser_emi/64x64_TEM_images_acquire.emi", folder / "[a] x.EMI")
    shutil.copyfile(formats / "ser_emi/64x64_TEM_images_acquire_1.ser", folder / "[a] x_1.SER")
    assert len(read_micrographs(folder / "[a] x.EMI")) == 1
    assert group_acquisitions(sorted(folder.iterdir())) == [[folder / "[a] x.EMI"]]


# --- files written here ----------------------------------------------------------------------------------


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
def test_imagej_tiffs_are_calibrated_in_every_unit(tmp_path, image, unit, per_unit, pixel_nm):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(per_unit, 2 * per_unit), metadata={"unit": unit})
    (found,) = read_micrographs(path)
    assert found.pixel_size_nm == pytest.approx((pixel_nm / 2, pixel_nm), rel=1e-6)
    np.testing.assert_array_equal(found.image, image)
    assert found.image.dtype == np.uint16


@pytest.mark.parametrize("unit", ["inch", "cm", "pixel", "", None])
def test_print_resolution_is_no_calibration(tmp_path, image, unit):
    path = tmp_path / "a.tif"
    metadata = {} if unit is None else {"unit": unit}
    tifffile.imwrite(path, image, imagej=True, resolution=(72, 72), metadata=metadata)
    assert read_micrographs(path)[0].pixel_size_nm is None
    tifffile.imwrite(path, image, resolution=(72, 72), resolutionunit="INCH")
    assert read_micrographs(path)[0].pixel_size_nm is None


def test_imagej_units_without_a_resolution_are_no_calibration(tmp_path, image):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(10, 10), metadata={"unit": "nm"})
    assert read_micrographs(path)[0].pixel_size_nm is not None
    content = path.read_bytes()
    for tag in (282, 283):  # XResolution and YResolution get numbers that nobody knows
        entry = np.array([tag, 5], "<u2" if content[:2] == b"II" else ">u2")
        content = content.replace(
            entry.tobytes(), (entry + np.array([65100 - 282, 0])).astype(entry.dtype).tobytes()
        )
    path.write_bytes(content)
    assert read_micrographs(path)[0].pixel_size_nm is None


def write_mrc(path: Path, data: np.ndarray, voxel_a: float) -> None:
    with mrcfile.new(path, data, overwrite=True) as mrc:
        mrc.voxel_size = voxel_a


@pytest.mark.parametrize(
    ("voxel_a", "pixel_nm"), [(1.0, 0.1), (0.8, 0.08), (0, None), (1e9, None), (1e-4, None)]
)
def test_mrc_cells_are_calibrations_only_if_they_make_sense(tmp_path, image, voxel_a, pixel_nm):
    write_mrc(tmp_path / "a.mrc", image, voxel_a)
    (found,) = read_micrographs(tmp_path / "a.mrc")
    assert found.pixel_size_nm == (
        None if pixel_nm is None else pytest.approx((pixel_nm, pixel_nm), rel=1e-6)
    )
    np.testing.assert_array_equal(found.image, image)


@pytest.mark.parametrize(
    ("cell", "samples"), [(-48.0, 48), (48.0, 0), (48.0, -48), (np.nan, 48), (np.inf, 48)]
)
def test_mrc_headers_with_bad_cells_are_missing_and_not_one_nanometre(tmp_path, image, cell, samples):
    path = tmp_path / "a.mrc"
    write_mrc(path, image, 1.0)
    with mrcfile.open(path, mode="r+") as mrc:
        assert mrc.header is not None
        mrc.header.cella.y, mrc.header.my = cell, samples
    assert read_micrographs(path)[0].pixel_size_nm is None


def test_mrc_of_the_other_byte_order_and_without_a_stamp_is_read(tmp_path, image):
    path = tmp_path / "a.mrc"
    write_mrc(path, image.astype(np.int16), 2.0)
    with mrcfile.open(path) as mrc:
        assert mrc.header is not None
        header, data = mrc.header.copy(), mrc.data
        assert data is not None
    for stamp in ([0x11, 0x11, 0, 0], [0, 0, 0, 0]):
        header["machst"] = stamp
        swapped = header.astype(header.dtype.newbyteorder(">")).tobytes() + data.astype(">i2").tobytes()
        path.write_bytes(swapped)
        (found,) = read_micrographs(path)
        assert found.pixel_size_nm == pytest.approx((0.2, 0.2))
        np.testing.assert_array_equal(found.image, image)


def test_berkeley_emd_and_hspy_keep_pixels_and_scale(tmp_path, image):
    from rsciio.emd import file_writer as write_emd
    from rsciio.hspy import file_writer as write_hspy

    write_emd(str(tmp_path / "a.emd"), signal_of(image))
    write_hspy(str(tmp_path / "a.hspy"), signal_of(image, 2.0, "Å"))
    for name, pixel_nm in (("a.emd", 0.1), ("a.hspy", 0.2)):
        (found,) = read_micrographs(tmp_path / name)
        assert found.pixel_size_nm == pytest.approx((pixel_nm, pixel_nm), rel=1e-9)
        assert found.detector == "haadf"
        np.testing.assert_array_equal(found.image, image)


def write_berkeley(path: Path, images: dict[str, np.ndarray], unit: str = "[n_m]", dims: float = 0.1) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        for name, data in images.items():
            group = file.create_group(f"data/{name}")
            group.attrs["emd_group_type"] = 1
            group["data"] = data.T
            for i, size in enumerate(data.T.shape):
                dim = group.create_dataset(f"dim{i + 1}", data=np.arange(size) * dims)
                dim.attrs["name"], dim.attrs["units"] = "xyzt"[i], unit


def test_data_sets_of_a_berkeley_emd_are_not_taken_for_one_series(tmp_path, image):
    write_berkeley(tmp_path / "a.emd", {"image": image, "image_2": image[:20] + 1})
    found = read_micrographs(tmp_path / "a.emd")
    assert sorted(m.image.shape for m in found) == [(20, 64), (48, 64)]
    assert all(m.pixel_size_nm == pytest.approx((0.1, 0.1)) for m in found)


def test_a_mixed_file_yields_the_good_images(tmp_path, image):
    constant = np.full_like(image, 7)
    write_berkeley(
        tmp_path / "a.emd",
        {"blank": constant, "fft": image * 1j, "good": image, "cube": np.ones((4, 4, 4, 4))},
    )
    (good,) = read_micrographs(tmp_path / "a.emd")
    np.testing.assert_array_equal(good.image, image)
    assert [m.fault != "" for m in read_micrographs(tmp_path / "a.emd", measurable_only=False)] == [
        True,
        False,
    ]
    write_berkeley(tmp_path / "b.emd", {"fft": image * 1j, "spectrum": np.ones(9)})
    message = refusal(tmp_path / "b.emd")
    assert "Fourier" in message
    assert "spectrum" in message


@pytest.mark.parametrize(("unit", "why"), [("[1/nm]", "reciprocal"), ("[eV]", "spectrum")])
def test_units_of_other_quantities_are_refused(tmp_path, image, unit, why):
    write_berkeley(tmp_path / "a.emd", {"a": image}, unit=unit)
    assert why in refusal(tmp_path / "a.emd")


def test_png_and_jpeg_are_uncalibrated_images(tmp_path, image):
    grey = (image // 16).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png", dpi=(300, 300))
    Image.fromarray(grey).save(tmp_path / "b.jpg", dpi=(300, 300))
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "c.png")
    Image.fromarray(np.dstack([grey] * 3 + [np.full_like(grey, 9)])).save(tmp_path / "d.png")
    Image.fromarray(np.dstack([grey, np.full_like(grey, 9)])).save(tmp_path / "e.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "f.PNG")
    for name, expected in (
        ("a.png", image),
        ("b.jpg", None),
        *((n, grey) for n in ("c.png", "d.png", "e.png", "f.PNG")),
    ):
        (found,) = read_micrographs(tmp_path / name)
        assert found.pixel_size_nm is None
        assert found.image.shape == image.shape
        if expected is not None:
            assert found.image.dtype == expected.dtype
            np.testing.assert_array_equal(found.image, expected)


def test_colour_is_refused_only_where_channels_differ(tmp_path, image):
    grey = (image // 16).astype(np.uint8)
    colour = np.dstack([grey, grey, grey // 2])
    Image.fromarray(colour).save(tmp_path / "screenshot.png")
    tifffile.imwrite(tmp_path / "screenshot.tif", colour, photometric="rgb")
    for name in ("screenshot.png", "screenshot.tif"):
        assert "colour" in refusal(tmp_path / name)
    tifffile.imwrite(tmp_path / "grey.tif", np.dstack([grey] * 3), photometric="rgb")
    np.testing.assert_array_equal(read_micrographs(tmp_path / "grey.tif")[0].image, grey)


# --- hostile files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", sorted(SUPPORTED_SUFFIXES))
def test_empty_files_and_texts_with_a_microscope_suffix_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    assert "empty" in refusal(path) or suffix == ".emi"
    path.write_text("Dear colleague,\n" * 100)
    (tmp_path / "a_1.ser").write_text("Dear colleague,\n" * 100)
    assert refusal(path)


def test_missing_files_folders_and_unknown_formats_have_a_reason(tmp_path):
    assert "no such file" in refusal(tmp_path / "a.tif")
    (tmp_path / "b.tif").mkdir()
    assert "no file" in refusal(tmp_path / "b.tif")
    (tmp_path / "c.docx").write_text("x")
    assert "not read" in refusal(tmp_path / "c.docx")


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
def test_pixels_on_which_nothing_can_be_measured_are_refused(tmp_path, data, why):
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack")
    assert why in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize(("value", "why"), [(np.nan, "1 of its pixels are not finite"), (7, "same value")])
def test_faults_are_also_found_where_a_file_holds_columns_instead_of_rows(tmp_path, value, why):
    data = np.full((40, 56), 7, np.float32)
    data[31, 5] = value
    write_berkeley(tmp_path / "a.emd", {"image": data})
    assert why in refusal(tmp_path / "a.emd")
    data[31, 5], data[0, 0] = 7, 8
    write_berkeley(tmp_path / "b.emd", {"image": data})
    assert read_micrographs(tmp_path / "b.emd")[0].image.flags.f_contiguous


@pytest.mark.parametrize("where", [0, 2**18 - 1, 2**18, 1_000_000, -1], ids=lambda i: f"pixel {i}")
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "zlib"}], ids=repr)
def test_a_pixel_that_is_not_finite_is_found_in_every_part_of_a_large_tiff(tmp_path, where, options):
    data = np.random.default_rng(0).random((1024, 1100), np.float32)
    data.reshape(-1)[where] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", data, **options)
    assert "1 of its pixels are not finite" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("faulty", range(3))
def test_each_image_of_a_tiff_is_searched_for_pixels_that_are_not_finite(tmp_path, contiguous, faulty):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for i in range(3):
            data = np.random.default_rng(i).random((600, 500), np.float32)
            data[300, 200] = np.nan if i == faulty else 0
            tiff.write(data, contiguous=contiguous, metadata=None if not contiguous else {})
    faults = [bool(m.fault) for m in read_micrographs(tmp_path / "a.tif", measurable_only=False)]
    assert faults == [i == faulty for i in range(3)]


def test_large_finite_values_are_no_fault(tmp_path):
    data = np.random.default_rng(0).random((32, 32)).astype(np.float32) * np.float32(3e38)
    tifffile.imwrite(tmp_path / "a.tif", data)
    assert read_micrographs(tmp_path / "a.tif")[0].fault == ""


def test_one_different_pixel_makes_an_image(tmp_path, image):
    blank = np.full((201, 203), 5, np.uint8)
    blank[100, 77] = 6
    tifffile.imwrite(tmp_path / "a.tif", blank)
    assert len(read_micrographs(tmp_path / "a.tif")) == 1


def test_a_stack_that_lost_frames_is_not_read_as_a_shorter_one(tmp_path, image):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for i in range(3):
            tiff.write(image + i, contiguous=False)
    assert len(read_micrographs(path)) == 3
    path.write_bytes(path.read_bytes()[: path.stat().st_size - image.nbytes - 100])
    assert "cut short" in refusal(path)


def test_headers_that_claim_terabytes_allocate_nothing(tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", image)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages.first.tags["ImageWidth"].overwrite(2**20)
        tiff.pages.first.tags["ImageLength"].overwrite(2**20)
    with h5py.File(tmp_path / "a.emd", "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        group = file.create_group("data/a")
        group.attrs["emd_group_type"] = 1
        group.create_dataset("data", shape=(2**20, 2**20), dtype="u2", chunks=(64, 64))
    write_mrc(tmp_path / "a.mrc", image, 1.0)
    header = bytearray((tmp_path / "a.mrc").read_bytes())
    header[0:8] = np.array([60_000, 2**30], "<i4").tobytes()
    (tmp_path / "a.mrc").write_bytes(header)
    for name in ("a.tif", "a.emd", "a.mrc"):
        assert re.search("claims", refusal(tmp_path / name))


def test_hdf5_that_reaches_into_other_files_is_refused(tmp_path, image):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(image.tobytes())
    write_berkeley(tmp_path / "other.h5", {"a": image})
    for name, add in (
        ("link.emd", lambda g: g.__setitem__("data", h5py.ExternalLink("other.h5", "/data/a/data"))),
        (
            "raw.emd",
            lambda g: g.create_dataset("data", image.shape, "u2", external=[(str(secret), 0, image.nbytes)]),
        ),
    ):
        with h5py.File(tmp_path / name, "w") as file:
            file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
            group = file.create_group("data/a")
            group.attrs["emd_group_type"] = 1
            add(group)
        assert "another file" in refusal(tmp_path / name)


def test_damaged_lengths_in_a_dm_file_end_at_once(formats, tmp_path):
    data = (formats / "dm/test_STEM_image.dm3").read_bytes()
    array = b"%%%%" + np.array([3, 20], ">i4").tobytes()
    at = data.index(array) + len(array) + 4
    (tmp_path / "a.dm3").write_bytes(data[:at] + np.array(2**31 - 1, ">i4").tobytes() + data[at + 4 :])
    assert "longer than the file" in refusal(tmp_path / "a.dm3")


@pytest.fixture(scope="module")
def samples(formats, tmp_path_factory) -> tuple[Path, list[tuple[str, bytes]]]:
    folder = tmp_path_factory.mktemp("damaged")
    names = [
        "dm/test-2.dm4",
        "dm/test_STEM_image.dm3",
        "emd/STEM HAADF Diffraction Micro.emd",
        "mrc/temp.mrc",
        "ser_emi/64x64_TEM_images_acquire_1.ser",
        "tif/test_loading_image_saved_with_DM_stack.tif",
        "tif/FEI-Helios-Ebeam-8bits.tif",
    ]
    return folder, [(Path(name).name, (formats / name).read_bytes()) for name in names]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused_in_one_line(samples, data):
    folder, originals = samples
    name, content = data.draw(st.sampled_from(originals))
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    reach = min(len(damaged), data.draw(st.sampled_from([200, 3000, 10**9])))
    for place in data.draw(st.lists(st.floats(0, 1, exclude_max=True), max_size=20)):
        if reach:
            damaged[int(place * reach)] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(damaged)
    try:
        found, message = read_micrographs(folder / name, measurable_only=False), "read"
    except MicrographError as error:
        found, message = [], str(error)
    assert message.isprintable()
    assert 0 < len(message) < 500
    assert all(m.image.ndim == 2 and (m.pixel_size_nm is None or min(m.pixel_size_nm) >= 1e-3) for m in found)


def test_a_file_cut_anywhere_in_its_pixels_is_refused(tmp_path, image):
    Image.fromarray((image // 16).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray((image // 16).astype(np.uint8)).save(tmp_path / "a.jpg")
    write_mrc(tmp_path / "a.mrc", image, 1.0)
    tifffile.imwrite(tmp_path / "a.tif", image)
    tifffile.imwrite(tmp_path / "z.tif", image, compression="zlib")
    write_berkeley(tmp_path / "a.emd", {"a": image})
    for path in list(tmp_path.iterdir()):
        content = path.read_bytes()
        for share in (0.3, 0.7, 0.9):
            path.write_bytes(content[: int(share * len(content))])
            refusal(path, measurable_only=False)


@pytest.mark.skipif(os.name == "nt", reason="names of this kind are POSIX")
def test_names_that_are_no_text_do_not_get_into_messages(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\x1b[31m\xff\n.tif"))
    path.write_bytes(b"no tiff")
    with pytest.raises(MicrographError) as caught:
        read_micrographs(path)
    assert str(caught.value).isprintable()


def test_reading_says_nothing_and_loads_no_orchestration_or_training(formats):
    noisy = str(formats / "tif/FEI-Helios-navcam-with-no-IRBeam.tif")
    code = (
        "import sys\n"
        "from tem_pipeline.micrographs import ingestion, reading, sessions\n"
        f"reading.read_micrographs({noisy!r}, measurable_only=False)\n"
        "print({'dagster', 'mlflow', 'tensorflow', 'keras'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout.strip(), run.stderr) == ("set()", "")


def test_files_can_be_read_in_threads(formats):
    path, results = formats / "tif/FEI-Helios-Ebeam-8bits.tif", []
    threads = [threading.Thread(target=lambda: results.append(len(read_micrographs(path)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 4
