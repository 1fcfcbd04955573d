import mrcfile
import numpy as np
import pytest

from tem_pipeline.micrographs.reading import read_micrographs
from tem_pipeline_tests.micrographs.readers.files import write_mrc


def test_each_frame_of_a_stack_is_an_image(formats):
    found = read_micrographs(formats / "mrc/temp.mrc")
    assert [(m.frame, m.n_frames) for m in found] == [(0, 3), (1, 3), (2, 3)]
    assert not np.array_equal(found[0].image, found[1].image)


@pytest.mark.parametrize(
    ("voxel_a", "pixel_nm"), [(1.0, 0.1), (0.8, 0.08), (0, None), (1e9, None), (1e-4, None)]
)
def test_a_cell_is_a_calibration_only_if_its_size_is_plausible(tmp_path, image, voxel_a, pixel_nm):
    write_mrc(tmp_path / "a.mrc", image, voxel_a)
    (found,) = read_micrographs(tmp_path / "a.mrc")
    assert found.pixel_size_nm == (
        None if pixel_nm is None else pytest.approx((pixel_nm, pixel_nm), rel=1e-6)
    )
    np.testing.assert_array_equal(found.image, image)


@pytest.mark.parametrize(
    ("cell", "samples"), [(-48.0, 48), (48.0, 0), (48.0, -48), (np.nan, 48), (np.inf, 48)]
)
def test_a_bad_cell_gives_no_pixel_size_instead_of_one_nanometre(tmp_path, image, cell, samples):
    path = tmp_path / "a.mrc"
    write_mrc(path, image, 1.0)
    with mrcfile.open(path, mode="r+") as mrc:
        assert mrc.header is not None
        mrc.header.cella.y, mrc.header.my = cell, samples
    assert read_micrographs(path)[0].pixel_size_nm is None


def test_big_endian_files_with_a_wrong_machine_stamp_are_read(tmp_path, image):
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
