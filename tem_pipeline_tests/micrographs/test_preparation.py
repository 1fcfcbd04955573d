import numpy as np
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.preparation import prepare_image
from tem_pipeline.micrographs.reading import Micrograph


def micrograph(image: np.ndarray | None = None, **known) -> Micrograph:
    if image is None:
        image = np.random.default_rng(0).integers(100, 4000, (32, 40), dtype=np.uint16)
    defaults = {
        "pixel_size_nm": None,
        "signal": 0,
        "frame": 0,
        "n_frames": 1,
        "title": "HAADF",
        "detector": None,
        "is_elemental_map": False,
        "acquisition": "a.tif",
    }
    return Micrograph(image, **defaults | known)


def test_a_plain_calibrated_image_stays_as_it_is():
    original = micrograph(pixel_size_nm=(0.1, 0.1), detector="haadf")
    prepared = prepare_image(original)
    np.testing.assert_array_equal(prepared.image, original.image)
    assert prepared.image.dtype == np.uint16
    assert prepared.pixel_size_nm == (0.1, 0.1)
    assert (prepared.calibration.state, prepared.mode, prepared.mode_source) == (
        "metadata",
        "haadf",
        "detector",
    )
    assert prepared.note == ""


def test_the_given_pixel_size_is_used_only_if_the_file_has_none():
    assert prepare_image(micrograph(), pixel_size_nm=0.2).pixel_size_nm == (0.2, 0.2)
    known = prepare_image(micrograph(pixel_size_nm=(0.1, 0.1)), pixel_size_nm=0.2)
    assert known.pixel_size_nm == (0.1, 0.1)
    assert "0.2" in known.calibration.note
    assert prepare_image(micrograph()).pixel_size_nm is None
    assert prepare_image(micrograph()).calibration.state == "missing"


def test_oblong_pixels_become_square():
    prepared = prepare_image(micrograph(pixel_size_nm=(0.2, 0.1)))
    assert prepared.image.shape == (64, 40)
    assert prepared.pixel_size_nm == (0.1, 0.1)
    assert prepared.calibration.pixel_size_nm == (0.2, 0.1)
    with pytest.raises(UserError, match="oblong"):
        prepare_image(micrograph(np.eye(512), pixel_size_nm=(1e3, 1e-3)))


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i1", "u4", ">i4", "f2", "f4", ">f8", bool])
def test_types_become_uint8_uint16_or_float32(dtype):
    values = (np.arange(80).reshape(8, 10) % 100).astype(dtype)
    prepared = prepare_image(micrograph(values))
    kept = {"u1": np.uint8, "<u2": np.uint16, ">u2": np.uint16}.get(dtype, np.float32)
    assert prepared.image.dtype == kept
    assert prepared.image.dtype.isnative
    np.testing.assert_array_equal(prepared.image, values)


def test_images_stored_by_columns_become_c_contiguous():
    image = np.asfortranarray(np.arange(80, dtype=np.float32).reshape(8, 10))
    prepared = prepare_image(micrograph(image))
    assert prepared.image.flags.c_contiguous
    np.testing.assert_array_equal(prepared.image, image)


def test_values_too_large_for_float32_are_refused():
    with pytest.raises(UserError, match="too large"):
        prepare_image(micrograph(np.eye(8) * 1e300))


def test_the_given_mode_wins_and_a_contradiction_is_noted():
    prepared = prepare_image(micrograph(detector="haadf"), mode="bright_field")
    assert (prepared.mode, prepared.mode_source) == ("bright_field", "session")
    assert "bright_field" in prepared.note
    assert "haadf" in prepared.note
    assert prepare_image(micrograph(detector="haadf"), mode="haadf").note == ""
    assert prepare_image(micrograph(), mode="haadf").note == ""


@pytest.mark.parametrize(("particle", "mode"), [(200, "bright_field"), (2000, "haadf")])
def test_the_pixels_decide_the_mode_if_nothing_else_does(particle, mode):
    image = np.random.default_rng(0).normal(1000, 10, (64, 64)).astype(np.float32)
    for top, left in ((5, 5), (20, 30), (30, 8), (45, 45), (50, 20)):
        image[top : top + 8, left : left + 8] = particle
    prepared = prepare_image(micrograph(image))
    assert (prepared.mode, prepared.mode_source) == (mode, "image")
