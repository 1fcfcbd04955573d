import h5py
import numpy as np
import pytest

from tem_pipeline.micrographs.reading import read_micrographs
from tem_pipeline_tests.micrographs.readers.files import refusal, signal_of, write_berkeley


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


def test_links_into_other_files_are_refused(tmp_path, image):
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
