"""Decides which of a file's data sets are micrographs, and describes them.

`readers` read the files. Their axes, units and titles come from many libraries and are not trusted.
"""

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tem_pipeline.micrographs.calibration import to_nm, unit_kind
from tem_pipeline.micrographs.modes import Mode
from tem_pipeline.micrographs.readers.signals import Refused, Signal, reason_of
from tem_pipeline.text import printable

MIN_SIDE_PX = 4
"""Smaller images cannot show a particle."""

MAX_FRAMES = 100_000

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


def judge_signals(path: Path, signals: list[Signal]) -> tuple[list[Micrograph], list[str]]:
    """Find the micrographs among the signals of a file.

    Parameters
    ----------
    path : Path
        The file.
    signals : list of Signal

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
            micrographs.extend(_micrographs(path, index, signal))
        except Exception as error:
            refusals.append(reason_of(error, path))
    return micrographs, refusals


def _micrographs(path: Path, index: int, signal: Signal) -> list[Micrograph]:
    if not isinstance(signal, dict) or "data" not in signal:
        raise Refused("one of its data sets has no pixels")
    data, axes = _grey(np.asarray(signal["data"]), list(signal["axes"]))
    while data.ndim > 2 and data.shape[0] == 1:
        data, axes = data[0], axes[1:]
    _check_numbers(data, axes)
    y_axis, x_axis = axes[-2:]
    _check_real_space(signal, y_axis, x_axis)
    height_nm, width_nm = (to_nm(axis.get("scale"), axis.get("units")) for axis in (y_axis, x_axis))
    title = _title(path, signal)
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
            is_elemental_map=_is_elemental_map(title, signal),
            acquisition=str(signal.get("acquisition", path.name)),
            fault=_fault(image),
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


def _was_in_diffraction(signal: Signal) -> bool:
    """Tell from DigitalMicrograph's tags whether a TEM image was recorded in diffraction mode."""
    with contextlib.suppress(Exception):
        tags = signal["original_metadata"]["ImageTags"]["Microscope Info"]
        return tags["Illumination Mode"] == "TEM" and tags["Imaging Mode"] == "DIFFRACTION"
    return False


def _title(path: Path, signal: Signal) -> str:
    metadata = signal.get("metadata")
    title = ""
    with contextlib.suppress(Exception):
        title = str(metadata["General"]["title"])  # pyright: ignore[reportOptionalSubscript]
    if title in ("", "Unrecognized_image_signal"):
        with contextlib.suppress(Exception):
            title = str(signal["original_metadata"]["BinaryResult"]["Detector"])
    return printable(title or path.stem).strip()[:120]


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
    return is_velox and symbol is not None and symbol[1] in _ELEMENTS.split()


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
