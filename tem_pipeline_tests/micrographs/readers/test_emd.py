import h5py
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


def write_axes(path, data, *dims, root="data", first=1):
    """Write a Berkeley file; each of `dims` is name, unit and size of a pixel along a stored axis."""
    with h5py.File(path, "w") as file:
        group = file.create_group(f"{root}/a")
        group.attrs["emd_group_type"] = 1
        group["data"] = data
        for index, (name, unit, step) in enumerate(dims):
            dim = group.create_dataset(f"dim{first + index}", data=np.arange(data.shape[index]) * step)
            dim.attrs["name"], dim.attrs["units"] = name, unit


Y, X, N = ("y", "[n_m]", 0.3), ("x", "[n_m]", 0.2), ("Number", "[]", 1)


@pytest.mark.parametrize(
    ("dims", "order"),
    [
        ((Y, X), "yx"),
        ((X, Y), "xy"),
        ((("R_x", "nm", 0.2), ("R_y", "nm", 0.3)), "xy"),
        ((N, Y, X), "nyx"),
        ((X, Y, N), "xyn"),
        ((Y, N, X), "ynx"),
        ((("", "s", 1), ("", "nm", 0.3), ("", "nm", 0.2)), "nyx"),
        ((("", "nm", 0.3), ("", "nm", 0.2), ("", "", 1)), "yxn"),
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_the_dim_entries_say_which_stored_axis_is_which(tmp_path, dims, order, first):
    series = np.random.default_rng(0).integers(0, 999, (5, 24, 36))
    wanted = series if len(dims) == 3 else series[0]
    letters = "nyx"[-len(dims) :]
    write_axes(tmp_path / "a.emd", wanted.transpose([letters.index(c) for c in order]), *dims, first=first)
    found = read_micrographs(tmp_path / "a.emd")
    np.testing.assert_array_equal([m.image for m in found], wanted.reshape(-1, 24, 36))
    assert all(m.pixel_size_nm == pytest.approx((0.3, 0.2)) for m in found)


@pytest.mark.parametrize(
    ("dims", "why"),
    [
        ((("", "nm", 1), ("", "nm", 1), ("", "nm", 1)), "can't be told"),
        ((("", "", 1), ("", "", 1), ("", "", 1)), "can't be told"),
        ((Y, X, ("E", "[e_V]", 1)), "spectrum"),
    ],
)
def test_series_whose_axes_cannot_be_told_are_refused(tmp_path, image, dims, why):
    write_axes(tmp_path / "a.emd", np.stack([image, image + 1, image + 2]), *dims)
    assert why in refusal(tmp_path / "a.emd")


def test_axes_without_names_are_reversed_in_hyperspy_files_only(tmp_path, image):
    unnamed = [("", "nm", 0.3), ("", "nm", 0.2)]
    write_axes(tmp_path / "a.emd", image, *unnamed)
    write_axes(tmp_path / "b.emd", image.T, *reversed(unnamed), root="signals")
    for name in ("a.emd", "b.emd"):
        (found,) = read_micrographs(tmp_path / name)
        np.testing.assert_array_equal(found.image, image)
        assert found.pixel_size_nm == pytest.approx((0.3, 0.2))


def test_an_axis_with_uneven_steps_has_no_pixel_size(tmp_path, image):
    write_axes(tmp_path / "a.emd", image, Y, X)
    with h5py.File(tmp_path / "a.emd", "r+") as file:
        dim = file["data/a/dim2"]
        assert isinstance(dim, h5py.Dataset)
        dim[...] = np.arange(len(dim)) ** 2
    assert read_micrographs(tmp_path / "a.emd")[0].pixel_size_nm is None
