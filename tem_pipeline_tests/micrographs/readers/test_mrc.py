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


@pytest.mark.parametrize(
    ("stamp", "flags", "minimum", "expected"),
    [
        (1146047817, 1, 0.0, np.int8),
        (1146047817, 0, 0.0, np.uint8),
        (1146047817, 6, -3.0, np.uint8),
        (0, 1, 0.0, np.uint8),
        (0, 0, -128.0, np.int8),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_bytes_are_unsigned_unless_the_header_says_otherwise(
    tmp_path, stamp, flags, minimum, expected, order
):
    stored = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
    write_mrc(tmp_path / "a.mrc", stored.view(np.int8), 1.0)
    with mrcfile.open(tmp_path / "a.mrc") as mrc:
        assert mrc.header is not None
        header = mrc.header.copy()
    header["dmin"] = minimum
    content = bytearray(header.astype(header.dtype.newbyteorder(order)).tobytes())
    content[152:160] = np.array([stamp, flags], f"{order}i4").tobytes()
    (tmp_path / "a.mrc").write_bytes(bytes(content) + stored.tobytes())
    (found,) = read_micrographs(tmp_path / "a.mrc")
    np.testing.assert_array_equal(found.image, stored.view(expected))


def test_a_cell_in_metres_is_read_only_of_its_own_kind_of_file(tmp_path, image):
    for name, kind, expected in (("agar.mrc", b"AGAR", 0.2), ("plain.mrc", b"", None)):
        write_mrc(tmp_path / name, image, 1.0)
        with mrcfile.open(tmp_path / name, mode="r+") as mrc:
            assert mrc.header is not None
            mrc.header.cella.y, mrc.header.cella.x = 48 * 2e-10, 64 * 2e-10
            mrc.header.exttyp = kind
        (found,) = read_micrographs(tmp_path / name)
        assert found.pixel_size_nm == (expected and pytest.approx((expected, expected)))
        assert ("can't be right" in found.calibration_note) == (expected is None)


def test_rows_along_the_cells_first_axis_have_its_size(tmp_path, image):
    write_mrc(tmp_path / "a.mrc", image, 1.0)
    with mrcfile.open(tmp_path / "a.mrc", mode="r+") as mrc:
        assert mrc.header is not None
        header = mrc.header
        header.mapc, header.mapr, header.mx, header.my = 2, 1, 48, 64
        header.cella.x, header.cella.y = 48 * 3.0, 64 * 2.0
    assert read_micrographs(tmp_path / "a.mrc")[0].pixel_size_nm == pytest.approx((0.3, 0.2))
