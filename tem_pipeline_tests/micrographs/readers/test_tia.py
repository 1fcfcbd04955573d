import shutil
from pathlib import Path

import numpy as np
import pytest

from tem_pipeline.micrographs.reading import group_acquisitions, read_micrographs
from tem_pipeline_tests.micrographs.readers.files import refusal


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


def test_detectors_without_their_emi_are_one_acquisition(formats, tmp_path):
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


def test_the_emi_says_whether_it_is_a_diffraction_pattern(formats, tmp_path):
    emi = copy_tia(formats, tmp_path, "64x64_TEM_images_acquire")
    ser = tmp_path / "64x64_TEM_images_acquire_1.ser"
    assert read_micrographs(ser)[0].pixel_size_nm == pytest.approx((6.2818336, 6.2818336))
    emi.write_bytes(emi.read_bytes().replace(b"TEM uP SA Zoom Image", b"TEM uP SA Zoom Diffraction"))
    assert "reciprocal" in refusal(emi)
    assert "reciprocal" in refusal(ser)


def test_a_ser_without_its_emi_is_read(formats, tmp_path):
    ser = tmp_path / "lone.ser"
    shutil.copyfile(formats / "ser_emi/64x64_TEM_images_acquire_1.ser", ser)
    (only,) = read_micrographs(ser)
    assert only.pixel_size_nm == pytest.approx((6.281833616298531, 6.281833616298531), rel=1e-6)


def test_a_ser_with_kilometres_per_pixel_is_a_diffraction_pattern(formats, tmp_path):
    data = (formats / "ser_emi/64x64_TEM_images_acquire_1.ser").read_bytes()
    delta = np.array(6.281833616298531e-09, "<f8").tobytes()
    assert data.count(delta) == 2
    (tmp_path / "lone_1.ser").write_bytes(data.replace(delta, np.array(4.2e7, "<f8").tobytes()))
    assert "reciprocal" in refusal(tmp_path / "lone_1.ser")


def test_an_emi_without_its_ser_says_which_file_is_missing(formats, tmp_path):
    emi = copy_tia(formats, tmp_path, "64x64_TEM_images_acquire")
    (tmp_path / "64x64_TEM_images_acquire_1.ser").unlink()
    assert "64x64_TEM_images_acquire_1.ser" in refusal(emi)


def test_a_damaged_emi_is_refused_because_the_unit_is_unknown(formats, tmp_path):
    emi = copy_tia(formats, tmp_path, "64x64_TEM_images_acquire")
    emi.write_bytes(emi.read_bytes()[:2000])
    assert "damaged" in refusal(emi)
    assert "damaged" in refusal(tmp_path / "64x64_TEM_images_acquire_1.ser")


def test_names_with_brackets_and_capitals_are_read(formats, tmp_path):
    folder = tmp_path / "Pt [5 nm] *?"
    folder.mkdir()
    shutil.copyfile(formats / "ser_emi/64x64_TEM_images_acquire.emi", folder / "[a] x.EMI")
    shutil.copyfile(formats / "ser_emi/64x64_TEM_images_acquire_1.ser", folder / "[a] x_1.SER")
    assert len(read_micrographs(folder / "[a] x.EMI")) == 1
    assert group_acquisitions(sorted(folder.iterdir())) == [[folder / "[a] x.EMI"]]
