import numpy as np
import pytest

from tem_pipeline.micrographs.reading import read_micrographs
from tem_pipeline_tests.micrographs.readers.files import refusal, write_berkeley


def test_elemental_maps_and_detectors_are_told_apart(formats):
    found = read_micrographs(formats / "emd/Test SI 16x16 215 kx.emd")
    assert [m.title for m in found] == ["C", "Ca", "O", "Cu", "HAADF"]
    assert [m.is_elemental_map for m in found] == [True] * 4 + [False]
    assert [m.detector for m in found] == [None] * 4 + ["haadf"]
    assert len({m.acquisition for m in found}) == 1
    (eels,) = read_micrographs(
        formats / "dm/643_Titan_EELS_proc_intgrate_and_bg_dataZeroed.dm3", measurable_only=False
    )
    assert eels.is_elemental_map


def test_data_sets_with_similar_names_are_not_stacked(tmp_path, image):
    write_berkeley(tmp_path / "a.emd", {"image": image, "image_2": image[:20] + 1})
    found = read_micrographs(tmp_path / "a.emd")
    assert sorted(m.image.shape for m in found) == [(20, 64), (48, 64)]
    assert all(m.pixel_size_nm == pytest.approx((0.1, 0.1)) for m in found)


def test_the_good_images_of_a_mixed_file_are_read(tmp_path, image):
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
