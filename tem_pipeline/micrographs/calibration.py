"""Decides which pixel size in nm a micrograph has, if any, and resamples oblong pixels to square ones.

`reading` reads pixel sizes from files, `sessions` from session.yaml.
"""

import contextlib
import html
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tem_pipeline.errors import UserError

MIN_PIXEL_SIZE_NM = 1e-3
MAX_PIXEL_SIZE_NM = 1e6
"""Sizes outside 1 pm … 1 mm per pixel come from wrong headers, not from micrographs."""

DISAGREEMENT = 0.02
"""Relative difference between file and session.yaml above which a note asks a person to check."""

SQUARE_TOLERANCE = 1e-3

# Centimetre and inch are left out on purpose: image editors write print resolutions (72 dpi) in them, which
# would pass for a calibration.
_LENGTHS_NM = {
    1e-3: ("pm", "picometer"),
    0.1: (
        *("a", "å", "ang", "angst", "angstrom", "angstroem", "angström"),
        *("ångstrom", "ångström", "aangstrom", "aangström"),
    ),
    1.0: ("nm", "nanometer", "nanometro", "nanometr"),
    1e3: ("um", "µm", "µ", "micron", "mikron", "micrometer", "mikrometer", "micrometro", "mikrometr"),
    1e6: ("mm", "millimeter"),
    1e9: ("m", "meter"),
}
_NM_PER_UNIT = {name: nm for nm, names in _LENGTHS_NM.items() for name in names}
_SPECTRAL = {
    *("ev", "kev", "mev", "hz", "khz", "ghz", "cm-1", "s", "sec", "second", "ms", "us", "µs", "ns"),
    *("rad", "mrad", "µrad", "urad", "deg", "degree", "°", "counts", "k", "°c"),
}


@dataclass(frozen=True)
class Calibration:
    """The pixel size of a micrograph and its origin.

    Attributes
    ----------
    pixel_size_nm : (float, float) or None
        Height and width of a pixel (y, x) in nm.
    state : {"metadata", "session", "missing"}
        Whether it comes from the file, from session.yaml or the command line, or is unknown.
    note : str
        What a person should check; empty if nothing.
    """

    pixel_size_nm: tuple[float, float] | None
    state: str
    note: str = ""


def _decoded(unit: object) -> str:
    """Give a unit as text, with its escapes resolved and each sign in one of its look-alike forms."""
    if isinstance(unit, bytes):
        try:
            text = unit.decode("utf-8")
        except UnicodeDecodeError:
            text = unit.decode("latin-1")
    else:
        text = "" if unit is None else str(unit)
    if any(sign in text for sign in "ÂÃÌÎâ"):
        # UTF-8 that was read as if it were of a single byte per sign.
        for encoding in ("latin-1", "cp1252"):
            with contextlib.suppress(UnicodeError):
                text = text.encode(encoding).decode("utf-8")
    # ImageJ and Java escape signs as \\u00B5, web pages as &micro;.
    text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    text = html.unescape(text)
    # Brings Å of two kinds, superscripts and full-width letters to one form; µ becomes Greek mu there.
    return unicodedata.normalize("NFKC", text).replace("\N{GREEK SMALL LETTER MU}", "µ")


def _plain_unit(unit: object) -> str:
    text = re.sub(r"[\s\0]+", " ", _decoded(unit)).strip(" .").lower()
    text = re.sub(r" ?(/|per) ?(px|pix|pixels?)$", "", text).strip("[]() .").replace("_", "")
    text = re.sub(r"m[eè]tre", "meter", text)
    if len(text) > 3 and text.endswith("s") and text[:-1] in _NM_PER_UNIT:
        text = text[:-1]
    return text


def unit_kind(unit: object) -> str:
    """Tell what an image axis with this unit measures.

    Parameters
    ----------
    unit : str, bytes or None
        As written in a microscope file: "nm", "µm", "1 / nm", "nm^-1", "eV", "pixel" …

    Returns
    -------
    {"length", "reciprocal", "other", "none"}
        "other" is energy, time or angle; "none" is no unit, pixels, or an unknown unit.
    """
    text = _plain_unit(unit)
    if text in _NM_PER_UNIT:
        return "length"
    squeezed = re.sub(r"\s+|\*\*|\^|[()\[\]]", "", text).replace("−", "-")
    for pattern in (r"1?/(.+)", r"(.+)-1", r"(?:1?per|inverse|reciprocal|inv\.?)(.+)"):
        match = re.fullmatch(pattern, squeezed)
        if match and (match[1] in _NM_PER_UNIT or match[1].rstrip("s") in _NM_PER_UNIT):
            return "reciprocal"
    if text in _SPECTRAL or text.rstrip("s") in _SPECTRAL:
        return "other"
    return "none"


def to_nm(scale: object, unit: object) -> float | None:
    """Give the size of a pixel in nm, or None if the numbers are not a calibration.

    Parameters
    ----------
    scale : float
        Size of a pixel along an axis. Zero, negative, NaN and infinite sizes are not a calibration.
    unit : str, bytes or None
        Its unit. A number without a unit of length is not a calibration: programs write "1" if they know no
        size. Nor are inch and cm, which are print resolutions.

    Returns
    -------
    float or None
        Between 1 pm and 1 mm.
    """
    factor = _NM_PER_UNIT.get(_plain_unit(unit))
    if factor is None:
        return None
    try:
        size_nm = float(scale) * factor  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        return None
    return size_nm if MIN_PIXEL_SIZE_NM <= size_nm <= MAX_PIXEL_SIZE_NM else None


def _gate(pixel_size_nm: float | Sequence[float] | None) -> tuple[float, float] | None:
    if pixel_size_nm is None:
        return None
    values = np.atleast_1d(np.asarray(pixel_size_nm, dtype=float))
    height, width = (to_nm(value, "nm") for value in (values if values.size == 2 else values[[0, 0]]))
    return None if height is None or width is None else (height, width)


def calibrate(
    metadata_px_nm: float | Sequence[float] | None,
    session_px_nm: float | Sequence[float] | None = None,
    file_note: str = "",
) -> Calibration:
    """Choose between the pixel sizes of the file and of session.yaml.

    Parameters
    ----------
    metadata_px_nm, session_px_nm : float, (float, float) or None
        Pixel size in nm, one number or (y, x). Both are checked by `to_nm`.
    file_note : str
        What to say if the file has no size: why the one that it gives is not used.

    Returns
    -------
    Calibration
        The file wins. The note states a difference above 2 % along an axis.
    """
    metadata, session = _gate(metadata_px_nm), _gate(session_px_nm)
    if metadata is None:
        if session is None:
            return Calibration(None, "missing", file_note)
        return Calibration(session, "session", file_note)
    note = ""
    if session is not None:
        ratio = max(max(m / s, s / m) for m, s in zip(metadata, session, strict=True))
        if ratio > 1 + DISAGREEMENT:
            note = (
                f"the file says {_text(metadata)} nm per pixel, session.yaml {_text(session)} nm "
                f"({100 * (ratio - 1):.3g} % apart); the file's is used"
            )
    return Calibration(metadata, "metadata", note)


def _text(pixel_size_nm: tuple[float, float]) -> str:
    height, width = pixel_size_nm
    return f"{height:.6g}" if height == width else f"{height:.6g} × {width:.6g}"


def resample_to_square(
    image: np.ndarray, pixel_size_nm: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Resample an image with oblong pixels to square ones, at the finer of its two spacings.

    Parameters
    ----------
    image : ndarray, (height, width)
    pixel_size_nm : (float, float)
        Pixel size (y, x) in nm. Sizes that agree to 1e-3 count as square; the image is returned unchanged.

    Returns
    -------
    image : ndarray, (height', width')
        Interpolated linearly between pixel centres, so values stay in the range of the input. Unsigned 8 and
        16 bit integers keep their type, anything else becomes float32. The top left corner stays in place.
    pixel_size_nm : (float, float)

    Raises
    ------
    UserError
        If the result would have more than 2**27 pixels and more than four times as many as the input.
    """
    height_nm, width_nm = pixel_size_nm
    if math.isclose(height_nm, width_nm, rel_tol=SQUARE_TOLERANCE):
        return image, pixel_size_nm
    from scipy.ndimage import affine_transform

    fine = min(pixel_size_nm)
    shape = tuple(max(1, round(n * size / fine)) for n, size in zip(image.shape, pixel_size_nm, strict=True))
    if math.prod(shape) > max(2**27, 4 * image.size):
        raise UserError(
            f"pixels of {_text(pixel_size_nm)} nm are too oblong to be made square "
            f"({shape[0]}x{shape[1]} px): check the file's calibration"
        )
    steps = np.array([fine / height_nm, fine / width_nm])
    square = affine_transform(
        image.astype(np.float32, copy=False),
        steps,
        offset=(steps - 1) / 2,  # pyright: ignore[reportArgumentType]
        output_shape=shape,
        order=1,
        mode="nearest",
    )
    if image.dtype in (np.uint8, np.uint16):
        square = np.rint(square).astype(image.dtype)
    return square, (fine, fine)
