import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.calibration import (
    MAX_PIXEL_SIZE_NM,
    MIN_PIXEL_SIZE_NM,
    calibrate,
    resample_to_square,
    to_nm,
    unit_kind,
)

MU, ANGSTROM = ("u", "µ", "μ"), ("Å", "\u212b", "A\u030a")
SPELLINGS = {
    1e-3: {"pm", "picometer", "picometres"},
    0.1: {"A", "ang", "Angstrom", "angstroms", "ångström", "Ångströms", "Angstroem", *ANGSTROM},
    1.0: {"nm", "NM", "nanometer", "nanometers", "Nanometres", "nanomètres", "nanometro", "[n_m]", "(nm)"},
    1e3: {
        *(f"{mu}m" for mu in MU),
        *("micron", "microns", "Microns", "micrometer", "micrometres", "micromètre", "Mikrometer", "[u_m]"),
        *("&micro;m", "&#181;m", "&mu;m", "\\u00B5m", "\\u00b5m", "\\u03bcm", "\\\\u00B5m"),
    },
    1e6: {"mm", "millimeters"},
}


@pytest.mark.parametrize(
    ("unit", "nm"), [(unit, nm) for nm, units in SPELLINGS.items() for unit in sorted(units)]
)
def test_units_of_length_are_read_in_every_spelling(unit, nm):
    scale = 2.0 if nm < 1e6 else 1e-6
    written = [unit, f" {unit} ", f"{unit}\0\0", f"{unit}/px", f"{unit} per pixel", unit.encode()]
    written.append(unit.encode().decode("latin-1"))
    with contextlib.suppress(UnicodeEncodeError):
        written.append(unit.encode("latin-1"))
    for spelling in written:
        assert to_nm(scale, spelling) == pytest.approx(scale * nm, rel=1e-12), spelling
        assert unit_kind(spelling) == "length", spelling
    for inverse in (
        f"1/{unit}",
        f"1 / {unit}",
        f"{unit}^-1",
        f"{unit}⁻¹",
        f"1/({unit})",
        f"reciprocal {unit}",
    ):
        assert to_nm(scale, inverse) is None, inverse
        assert unit_kind(inverse) == "reciprocal", inverse


@pytest.mark.parametrize(("unit", "scale"), [("m", 1e-10), ("mm", 1e-7), ("meters", 1e-10), ("metre", 1e-10)])
def test_large_units_are_read_too(unit, scale):
    assert to_nm(scale, unit) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "unit", ["1/nm", "1 / nm", "1/µm", "nm^-1", "nm-1", "nm⁻¹", "1/Å", "1/m", "1/meters", "Å**-1"]
)
def test_reciprocal_units_are_recognised_and_give_no_size(unit):
    assert unit_kind(unit) == "reciprocal"
    assert to_nm(0.1, unit) is None


@pytest.mark.parametrize("unit", ["eV", "keV", "s", "ms", "mrad", "deg", "Hz", "counts"])
def test_energy_time_and_angle_are_not_lengths(unit):
    assert unit_kind(unit) == "other"
    assert to_nm(0.1, unit) is None


@pytest.mark.parametrize(
    "unit", [None, "", "px", "pixel", "pixels", "<undefined>", "arb. units", "inch", "cm", "dpi"]
)
def test_a_number_without_a_unit_of_length_is_not_a_calibration(unit):
    assert to_nm(1, unit) is None
    assert to_nm(0.25, unit) is None
    assert unit_kind(unit) == "none"


@pytest.mark.parametrize(
    "scale", [0, -1, math.nan, math.inf, -math.inf, None, "many", [1, 2], 0.9e-3, 1.1e6, 1e300]
)
def test_implausible_sizes_are_not_a_calibration(scale):
    assert to_nm(scale, "nm") is None


@given(st.floats(allow_nan=True, allow_infinity=True), st.text(max_size=12))
def test_any_header_gives_a_plausible_size_or_none(scale, unit):
    size_nm = to_nm(scale, unit)
    assert size_nm is None or MIN_PIXEL_SIZE_NM <= size_nm <= MAX_PIXEL_SIZE_NM
    assert unit_kind(unit) in {"length", "reciprocal", "other", "none"}


def test_the_pixel_size_of_the_file_wins():
    found = calibrate((0.1, 0.1), 0.1005)
    assert (found.pixel_size_nm, found.state, found.note) == ((0.1, 0.1), "metadata", "")


def test_a_disagreement_above_two_percent_is_noted():
    found = calibrate((0.1, 0.1), 0.103)
    assert found.pixel_size_nm == (0.1, 0.1)
    assert "0.103" in found.note
    assert "3 %" in found.note
    assert calibrate((0.1, 0.1), (0.1, 0.09)).note


def test_the_session_pixel_size_is_used_only_if_the_file_has_none():
    assert calibrate(None, 0.2).pixel_size_nm == (0.2, 0.2)
    assert calibrate(None, (0.2, 0.3)).pixel_size_nm == (0.2, 0.3)
    assert calibrate((0.0, 0.1), 0.2).state == "session"
    assert calibrate(None, None).state == "missing"
    assert calibrate(None, -1).pixel_size_nm is None
    assert calibrate((math.nan, 1), None).state == "missing"


def test_square_pixels_are_left_alone():
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    same, size_nm = resample_to_square(image, (0.1, 0.10005))
    assert same is image
    assert size_nm == (0.1, 0.10005)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_oblong_pixels_become_square_at_the_finer_spacing(dtype):
    image = np.arange(40, dtype=dtype).reshape(8, 5)
    square, size_nm = resample_to_square(image, (0.2, 0.1))
    assert square.shape == (16, 5)
    assert size_nm == (0.1, 0.1)
    assert square.dtype == dtype
    assert square.min() >= image.min()
    assert square.max() <= image.max()
    wide, _ = resample_to_square(image.T, (0.1, 0.2))
    np.testing.assert_array_equal(wide, square.T)


def test_resampling_keeps_positions_in_nanometres():
    y, x = np.mgrid[:60, :180]
    height_nm, width_nm = 0.3, 0.1
    image = np.hypot((y + 0.5) * height_nm - 9, (x + 0.5) * width_nm - 8).astype(np.float32)
    square, (pixel_nm, _) = resample_to_square(image, (height_nm, width_nm))
    y, x = np.mgrid[: square.shape[0], : square.shape[1]]
    truth = np.hypot((y + 0.5) * pixel_nm - 9, (x + 0.5) * pixel_nm - 8)
    away = truth > 1.5  # the tip of the cone is round after linear interpolation
    assert np.abs(square - truth)[2:-2][away[2:-2]].max() < 0.02


@given(ratio=st.floats(1.01, 20), tall=st.booleans())
def test_resampling_keeps_the_imaged_area(ratio, tall):
    image = np.ones((40, 30), np.float32)
    sizes_nm = (0.1 * ratio, 0.1) if tall else (0.1, 0.1 * ratio)
    square, (y_nm, x_nm) = resample_to_square(image, sizes_nm)
    seen = square.shape[0] * y_nm * square.shape[1] * x_nm
    assert y_nm == x_nm == 0.1
    assert seen == pytest.approx(40 * 30 * sizes_nm[0] * sizes_nm[1], rel=0.03)


def test_pixels_a_million_times_as_high_as_wide_are_refused():
    with pytest.raises(UserError, match="oblong"):
        resample_to_square(np.ones((512, 512), np.uint8), (1e3, 1e-3))
