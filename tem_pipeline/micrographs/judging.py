"""Decides which of a file's data sets are micrographs, and describes them.

`readers` read the files. Their axes, units and titles come from many libraries and are not trusted.
"""

import contextlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tem_pipeline.micrographs.calibration import to_nm, unit_kind
from tem_pipeline.micrographs.modes import Mode
from tem_pipeline.micrographs.readers.signals import Refused, Signal, reason_of
from tem_pipeline.text import printable

MIN_SIDE_PX = 4
"""Smaller images cannot show a particle."""

MAX_FRAMES = 100_000

_MOSTLY_GREY = 0.95
"""Share of pixels shown in grey from which a picture with a palette is grey with a few coloured marks."""

_SAME_SHAPE = 1.02
_SAME_PICTURE = 0.95
"""Ratio of sides, and correlation, up to which and from which an image is a copy of another."""

_ELEMENTS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb "
    "Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
    "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm"
)


@dataclass(frozen=True, eq=False)
class Micrograph:
    """One image in real space, as its file holds it.

    Attributes
    ----------
    image : ndarray, (height, width)
        In the file's own dtype.
    pixel_size_nm : (float, float) or None
        Height and width of a pixel (y, x) from the file's metadata; None if they have no plausible one.
    signal, frame : int
        Number of the data set in the file, and of the frame in its stack, from 0.
    n_frames : int
        Number of frames in that stack.
    title : str
        The name given by the microscope's program (often the detector), else the file's stem.
    detector : {"bright_field", "haadf"} or None
        The detector that the title names.
    is_elemental_map : bool
        A map of an element from EDS or EELS; particles are never measured on it.
    acquisition : str
        The same for all images of one acquisition (detectors and frames) within a folder.
    fault : str
        Why nothing can be measured on the image (constant, not finite, too small); empty if it is good.
    is_display_copy : bool
        A smaller, coarser or coloured copy of another image in the file, made for the screen.
    calibration_note : str
        Why the file's pixel size is not used; empty if it is, or if the file has none.
    file_shape : (int, int) or None
        Height and width in the file if `image` is less: without the information bar below the picture.
    """

    image: np.ndarray = field(repr=False)
    pixel_size_nm: tuple[float, float] | None
    signal: int
    frame: int
    n_frames: int
    title: str
    detector: Mode | None
    is_elemental_map: bool
    acquisition: str
    fault: str = ""
    is_display_copy: bool = False
    calibration_note: str = ""
    file_shape: tuple[int, int] | None = None

    @property
    def kind(self) -> str:
        """Say what the image is: "elemental map", "display copy" or "micrograph"."""
        if self.is_elemental_map:
            return "elemental map"
        return "display copy" if self.is_display_copy else "micrograph"


def judge_signals(
    path: Path, signals: list[Signal], *, as_stored: bool = False
) -> tuple[list[Micrograph], list[str]]:
    """Find the micrographs among the signals of a file.

    Parameters
    ----------
    path : Path
        The file.
    signals : list of Signal
    as_stored : bool
        Keep the values of masks, whose numbers mean labels, even if the file says that 0 shows as white.

    Returns
    -------
    micrographs : list of Micrograph
        Including those with a fault. A 3-D signal gives one per index of its first axis.
    refusals : list of str
        One reason per signal that is not a micrograph.
    """
    micrographs: list[Micrograph] = []
    refusals: list[str] = []
    for index, signal in enumerate(signals):
        try:
            micrographs.extend(_micrographs(path, index, signal, as_stored))
        except Exception as error:
            refusals.append(reason_of(error, path))
    return _with_display_copies(micrographs), refusals


def _with_display_copies(micrographs: list[Micrograph]) -> list[Micrograph]:
    """Mark uncalibrated images of 8 bits that look like another image of the file, and smaller ones."""

    def is_copy(one: Micrograph) -> bool:
        if one.is_elemental_map or one.n_frames > 1 or one.pixel_size_nm is not None:
            return False
        others = [other for other in micrographs if other.signal != one.signal and other.kind == "micrograph"]
        finer = [m for m in others if m.pixel_size_nm is not None or m.image.dtype.itemsize > 1]
        return one.image.dtype.itemsize == 1 and any(_is_same_picture(one.image, m.image) for m in finer)

    marked = [replace(m, is_display_copy=m.is_display_copy or is_copy(m)) for m in micrographs]
    if any(m.kind == "micrograph" for m in marked):
        return marked
    return [replace(m, is_display_copy=False) for m in marked]  # A copy of what isn't here is all there is.


def _is_same_picture(copy: np.ndarray, original: np.ndarray) -> bool:
    """Tell whether an image is the same picture as another one of at least its size."""
    factors = [large / small for large, small in zip(original.shape, copy.shape, strict=True)]
    if min(factors) < 1 or max(factors) > _SAME_SHAPE * min(factors):
        return False
    rows, columns = (
        np.minimum((np.arange(small) * factor).astype(int), large - 1)
        for small, factor, large in zip(copy.shape, factors, original.shape, strict=True)
    )
    pairs = np.stack([copy.ravel(), original[np.ix_(rows, columns)].ravel()]).astype(np.float64)
    with np.errstate(all="ignore"):
        return abs(float(np.corrcoef(*pairs).min())) > _SAME_PICTURE


def _micrographs(path: Path, index: int, signal: Signal, as_stored: bool) -> list[Micrograph]:
    if not isinstance(signal, dict) or "data" not in signal:
        raise Refused("one of its data sets has no pixels")
    stored = np.asarray(signal["data"])
    data, axes = _grey(stored, list(signal["axes"]))
    was_colour = data.ndim < stored.ndim or data.dtype != stored.dtype
    if not as_stored:
        data = _as_shown(data, signal)
    while data.ndim > 2 and data.shape[0] == 1:
        data, axes = data[0], axes[1:]
    _check_numbers(data, axes)
    y_axis, x_axis = axes[-2:]
    _check_real_space(signal, y_axis, x_axis)
    height_nm, width_nm = (to_nm(axis.get("scale"), axis.get("units")) for axis in (y_axis, x_axis))
    title, is_given = _title(path, signal)
    file_shape = data.shape[-2:]
    data = data[..., : signal.get("rows", file_shape[0]), :]
    frames = data if data.ndim == 3 else data[np.newaxis]
    if len(frames) > MAX_FRAMES or (len(frames) > 1 and min(frames.shape[1:]) < MIN_SIDE_PX):
        raise Refused(
            f"a stack of {len(frames)} frames of {frames.shape[1]}x{frames.shape[2]} px is no micrograph"
        )
    return [
        Micrograph(
            image=image,
            pixel_size_nm=None if height_nm is None or width_nm is None else (height_nm, width_nm),
            signal=index,
            frame=number,
            n_frames=len(frames),
            title=title,
            detector=_detector(title),
            is_elemental_map=_is_elemental_map(title if is_given else "", signal),
            acquisition=str(signal.get("acquisition", path.name)),
            fault=_fault(image),
            is_display_copy=bool(signal.get("is_reduced")) or was_colour,
            calibration_note=_calibration_note(y_axis, x_axis),
            file_shape=None if image.shape == file_shape else file_shape,
        )
        for number, image in enumerate(frames)
    ]


def _grey(data: np.ndarray, axes: list[Signal]) -> tuple[np.ndarray, list[Signal]]:
    """Take one channel of an image whose colours are all the same; refuse real colour."""
    if data.dtype.names:
        channels = [data[name] for name in data.dtype.names if name in "RGB"]
    elif data.ndim >= 3 and axes[-1].get("name") == "sample" and data.shape[-1] in (1, 2, 3, 4):
        # Grey or RGB, with or without transparency.
        channels = [data[..., c] for c in range(1 if data.shape[-1] <= 2 else 3)]
        axes = axes[:-1]
    else:
        return data, axes
    if any(not np.array_equal(channels[0], channel) for channel in channels[1:]):
        raise Refused("it is in colour: export the micrograph itself in grey, without screen decoration")
    return np.ascontiguousarray(channels[0]), axes


def _as_shown(data: np.ndarray, signal: Signal) -> np.ndarray:
    """Turn values round where the file says that 0 shows as white, and resolve a palette of greys."""
    if "palette" in signal and data.dtype.kind == "u":
        return _resolved(data, np.asarray(signal["palette"]))
    if "white_is_zero" not in signal:
        return data
    black = signal["white_is_zero"]
    if data.dtype.kind == "u" and black is not None:
        return data.dtype.type(black) - np.minimum(data, data.dtype.type(black))
    # Exact and without overflow for signed integers and for bits.
    return ~data if data.dtype.kind in "bui" else (data.max() + data.min()) - data


def _resolved(data: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Give the greys that a palette shows; of colours that grow lighter with the value, the value itself."""
    data = np.minimum(data, data.dtype.type(len(palette) - 1))
    is_grey = (palette == palette[:, :1]).all(axis=1)
    # Microscopes reserve single values of a grey palette for coloured marks.
    if is_grey[data].mean() > _MOSTLY_GREY:
        values = np.where(is_grey, palette[:, 0] // 257, np.arange(len(palette))).astype(np.uint8)
        return values[data]
    lightness = palette[np.unique(data)].sum(axis=1, dtype=np.int64)
    if (np.diff(lightness) < 0).any():
        raise Refused("it is in colour: export the micrograph itself in grey, without screen decoration")
    return data


def _check_numbers(data: np.ndarray, axes: list[Signal]) -> None:
    if data.dtype.kind == "c":
        raise Refused("it is a complex image (a Fourier transform), no micrograph: export the image itself")
    if data.dtype.kind not in "buif":
        raise Refused("its values are not numbers of an image")
    if data.ndim not in (2, 3) or len(axes) < 2:
        what = "a spectrum" if data.ndim < 2 else f"a data set of {data.ndim} axes"
        raise Refused(f"it holds {what}, no image: export the images by themselves")
    if 0 in data.shape:
        raise Refused("its image has no pixels")


def _check_real_space(signal: Signal, y_axis: Signal, x_axis: Signal) -> None:
    kinds = {unit_kind(axis.get("units")) for axis in (y_axis, x_axis)}
    if "reciprocal" in kinds:
        units = y_axis.get("units") or x_axis.get("units")
        raise Refused(
            f"its axes are reciprocal ({units}): a diffraction pattern or Fourier transform is no micrograph"
        )
    if "other" in kinds or bool(y_axis.get("navigate")) != bool(x_axis.get("navigate")):
        raise Refused("it is a spectrum or spectrum image, no micrograph: export the images by themselves")
    if "length" not in kinds and _was_in_diffraction(signal):
        raise Refused("the microscope was in diffraction when it was recorded: no micrograph")


def _calibration_note(y_axis: Signal, x_axis: Signal) -> str:
    """Say why the file's pixel size is not used; 0 and 1 need no note, programs write them without a size."""
    for axis in (y_axis, x_axis):
        scale, unit = axis.get("scale"), axis.get("units")
        if unit_kind(unit) == "length" and to_nm(scale, unit) is None and scale not in (0, 1):
            size = printable(f"{scale} {unit}")[:60]
            return f"the file's pixel size of {size} can't be right and is not used"
    return ""


def _was_in_diffraction(signal: Signal) -> bool:
    """Tell from DigitalMicrograph's tags whether a TEM image was recorded in diffraction mode."""
    with contextlib.suppress(Exception):
        tags = signal["original_metadata"]["ImageTags"]["Microscope Info"]
        return tags["Illumination Mode"] == "TEM" and tags["Imaging Mode"] == "DIFFRACTION"
    return False


def _title(path: Path, signal: Signal) -> tuple[str, bool]:
    """Give the title, and whether the file gives it; else it is the file's name."""
    metadata = signal.get("metadata")
    title = ""
    with contextlib.suppress(Exception):
        title = str(metadata["General"]["title"])  # pyright: ignore[reportOptionalSubscript]
    if title in ("", "Unrecognized_image_signal"):
        with contextlib.suppress(Exception):
            title = str(signal["original_metadata"]["BinaryResult"]["Detector"])
    return printable(title or path.stem).strip()[:120], bool(title)


def _detector(title: str) -> Mode | None:
    """Find the detector in the title, unless the title names both kinds or another dark field."""
    text = title.casefold()
    haadf = "haadf" in text
    bright = bool(re.search(r"(?<![a-z])bf(?![a-z])|bright[ _-]?field", text))
    dark = bool(re.search(r"(?<![a-z])[al]?df\d?(?![a-z])|dark[ _-]?field", text))
    if haadf == bright or dark:
        return None
    return "haadf" if haadf else "bright_field"


def _is_elemental_map(title: str, signal: Signal) -> bool:
    signal_type = ""
    with contextlib.suppress(Exception):
        signal_type = str(signal["metadata"]["Signal"]["signal_type"])
    if signal_type.startswith(("EDS", "EELS")):
        return True
    # Only Velox names maps after their element. Elsewhere an image titled "Pt" may show platinum.
    is_velox = "BinaryResult" in (signal.get("original_metadata") or {})
    symbol = re.match(r"([A-Z][a-z]?)(?![A-Za-z])", title)
    # An element with its X-ray line, as in "Pt L" or "X-ray line intensity of a: Fe_Ka".
    line = re.search(r"(?:^|[ :])([A-Z][a-z]?)[ _-]?[KLM](?:[αβγabg]?\d?)(?![A-Za-z0-9])", title)
    found = [match[1] for match in (line, symbol if is_velox else None) if match is not None]
    return any(element in _ELEMENTS.split() for element in found)


def _fault(image: np.ndarray) -> str:
    height, width = image.shape
    if min(image.shape) < MIN_SIDE_PX:
        return f"an image of {height}x{width} px is too small to hold a particle"
    if image.dtype.kind == "f":
        n_bad = image.size - int(np.count_nonzero(np.isfinite(image)))
        if n_bad:
            return f"{n_bad} of its pixels are not finite (NaN or infinite): export it again"
    # Images stored column by column are slow to read row by row, so compare along the stored order.
    stored = image.T if image.flags.f_contiguous else image
    first = image[0, 0]
    # For nearly every image a few rows already differ.
    if (stored[:: max(1, len(stored) // 8)] == first).all() and (stored == first).all():
        return f"all its pixels have the same value ({first}): there is nothing to see"
    return ""
