"""Prepares one micrograph for measurement: pixel size, square pixels, data type and mode.

`reading` reads the file, `ingestion` chooses which images of a session are measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.calibration import Calibration, calibrate, resample_to_square
from tem_pipeline.micrographs.intensity import detect_mode
from tem_pipeline.micrographs.modes import UNSURE_MODE, Mode
from tem_pipeline.micrographs.reading import Micrograph
from tem_pipeline.text import printable


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image that can be segmented and measured.

    Attributes
    ----------
    image : ndarray, (height, width), uint8, uint16 or float32
        Square pixels, native byte order, C-contiguous.
    pixel_size_nm : (float, float) or None
        Height and width of a pixel of `image` (y, x); None if unknown.
    calibration : Calibration
        The pixel size before resampling and its origin.
    mode : {"bright_field", "haadf"}
    mode_source : {"session", "detector", "image", "unsure"}
        Who decided on the mode: the session or the command line, the detector in the file, or the pixels.
    note : str
        What a person should check about the mode; empty if nothing.
    """

    image: np.ndarray = field(repr=False)
    pixel_size_nm: tuple[float, float] | None
    calibration: Calibration
    mode: Mode
    mode_source: str
    note: str = ""


def prepare_image(
    micrograph: Micrograph,
    *,
    pixel_size_nm: float | Sequence[float] | None = None,
    mode: Mode | None = None,
) -> PreparedImage:
    """Calibrate a micrograph, make its pixels square, convert its type and decide its mode.

    Parameters
    ----------
    micrograph : Micrograph
        Without a `Micrograph.fault`.
    pixel_size_nm : float or (float, float), optional
        Pixel size (y, x) in nm for files without one.
    mode : {"bright_field", "haadf"}, optional
        Wins over the detector. By default the detector decides; if that is unknown, the pixels decide.

    Returns
    -------
    PreparedImage
        uint8 and uint16 stay as they are; every other type becomes float32.

    Raises
    ------
    UserError
        If values do not fit into float32, pixels are too oblong to be made square, or an algorithm fails on
        them. The message is one line, without the file's name.
    """
    try:
        return _prepare(micrograph, pixel_size_nm, mode)
    except UserError:
        raise
    except Exception as error:
        # Unexpected pixels may make an algorithm fail; the other files must still be done.
        raise UserError(printable(f"{type(error).__name__}: {error}")) from error


def _prepare(
    micrograph: Micrograph, pixel_size_nm: float | Sequence[float] | None, mode: Mode | None
) -> PreparedImage:
    calibration = calibrate(micrograph.pixel_size_nm, pixel_size_nm, micrograph.calibration_note)
    image, size_nm = _in_kept_type(micrograph.image), calibration.pixel_size_nm
    if size_nm is not None:
        image, size_nm = resample_to_square(image, size_nm)
    detector, note = micrograph.detector, ""
    if mode:
        decided, source = mode, "session"
        if detector not in (None, mode):
            note = f"session.yaml says {mode}, the title {micrograph.title!r} says {detector}"
    elif detector:
        decided, source = detector, "detector"
    else:
        decided, is_sure = detect_mode(image)
        source = "image" if is_sure else "unsure"
        note = "" if is_sure else UNSURE_MODE
    return PreparedImage(np.ascontiguousarray(image), size_nm, calibration, decided, source, note)


def _in_kept_type(image: np.ndarray) -> np.ndarray:
    native = image.dtype.newbyteorder("=")
    if native in (np.uint8, np.uint16):
        return image.astype(native, copy=False)
    with np.errstate(over="ignore"):
        converted = image.astype(np.float32)
    if not np.isfinite(converted).all():
        raise UserError("its values are too large: export it again")
    return converted
