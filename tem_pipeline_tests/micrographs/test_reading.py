import csv
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tem_pipeline.micrographs.reading import SUPPORTED_SUFFIXES, MicrographError, read_micrographs
from tem_pipeline_tests.micrographs.readers.files import refusal, write_berkeley, write_mrc


def reference_rows(formats: Path) -> dict[str, list[dict[str, str]]]:
    rows: dict[str, list[dict[str, str]]] = {}
    with (formats / "PIXEL_SIZES.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["file"], []).append(row)
    return rows


def test_every_reference_file_gives_the_images_and_sizes_of_the_table(formats):
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
        assert [(m.file_shape or m.image.shape, m.pixel_size_nm is None) for m in found] == [
            (shape, pixel_nm is None) for shape, pixel_nm in expected
        ], name
        for micrograph, (_, pixel_nm) in zip(found, expected, strict=True):
            if pixel_nm is not None:
                # The table has RosettaSciIO's sizes; it gives FEI-Helios-navcam.tif height for width.
                assert micrograph.pixel_size_nm == pytest.approx(pixel_nm, rel=3e-6), name


def test_pixels_are_the_same_as_rosettasciio_reads(formats):
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


@pytest.mark.parametrize("suffix", sorted(SUPPORTED_SUFFIXES))
def test_empty_files_and_texts_with_a_microscope_suffix_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    assert "empty" in refusal(path) or suffix == ".emi"
    path.write_text("Dear colleague,\n" * 100)
    (tmp_path / "a_1.ser").write_text("Dear colleague,\n" * 100)
    assert refusal(path)


def test_missing_files_folders_and_unknown_formats_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "a.tif")
    (tmp_path / "b.tif").mkdir()
    assert "not a file" in refusal(tmp_path / "b.tif")
    (tmp_path / "c.docx").write_text("x")
    assert "not read" in refusal(tmp_path / "c.docx")


def test_headers_that_claim_terabytes_are_refused(tmp_path, image):
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


def test_a_file_cut_within_its_pixels_is_refused(tmp_path, image):
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
def test_messages_are_printable_for_any_file_name(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\x1b[31m\xff\n.tif"))
    path.write_bytes(b"no tiff")
    with pytest.raises(MicrographError) as caught:
        read_micrographs(path)
    assert str(caught.value).isprintable()


def test_reading_prints_nothing_and_loads_no_heavy_library(formats):
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
    path, results = formats / "tif/test_loading_image_saved_with_DM.tif", []
    threads = [threading.Thread(target=lambda: results.append(len(read_micrographs(path)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 4
