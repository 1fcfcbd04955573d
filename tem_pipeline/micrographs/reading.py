"""Reads micrographs out of the files of microscopes, cameras and their programs.

RosettaSciIO knows the formats; here its answers are judged: what is an image in real space, what is its
pixel size, and what is wrong with a file, in one line. Files are hostile: whatever a library raises becomes
that line. What becomes of several images of one file is left to `ingestion`.
"""

import contextlib
import io
import logging
import math
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.calibration import to_nm, unit_kind

SUPPORTED_SUFFIXES = frozenset(
    {".dm3", ".dm4", ".emd", ".ser", ".emi", ".mrc", ".hspy", ".tif", ".tiff", ".png", ".jpg", ".jpeg"}
)

MIN_SIDE_PX = 4
"""No particle can be seen in less."""

MAX_FRAMES = 100_000

# A header may claim any size. Real pixels compress a hundredfold at most, and blank ones that are small
# enough do no harm.
_MAX_EXPANSION = 100
_ALWAYS_ALLOWED_BYTES = 2**28

_SEARCHED_BYTES = 2**20
"""What stays in a processor's cache between reading it and looking at it."""

_ELEMENTS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb "
    "Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
    "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm"
)

Signal = dict[str, Any]
"""What RosettaSciIO gives for one data set: "data", "axes", "metadata", "original_metadata"."""


class MicrographError(UserError):
    """A file holds no micrograph that can be used; the message names it and says why and what to do.

    Attributes
    ----------
    reason : str
        The message without the file's name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(shown(f"{path.name}: {reason}"))
        self.reason = shown(reason)


class _Refused(Exception):
    """Why a file or one of its data sets is no micrograph; only the caller knows which file it is."""


@dataclass(frozen=True, eq=False)
class Micrograph:
    """One image in real space, as its file holds it.

    Attributes
    ----------
    image : ndarray, (height, width)
        In the file's own dtype.
    pixel_size_nm : (float, float) or None
        Height and width of a pixel (y, x) that the file's metadata give; None where they give none that can
        be trusted.
    signal, frame : int
        Which data set of the file, and which frame of its stack, from 0.
    n_frames : int
        Frames in that stack.
    title : str
        What the microscope's program calls it (often the detector), else the file's stem.
    detector : {"bright_field", "haadf"} or None
        What the title says about the detector.
    is_elemental_map : bool
        A map of an element from EDS or EELS; particles are never measured on it.
    acquisition : str
        Equal for the images of one acquisition (detectors and frames), below one folder.
    fault : str
        Why nothing can be measured on it (constant, not finite, too small); empty if nothing is wrong.
    """

    image: np.ndarray = field(repr=False)
    pixel_size_nm: tuple[float, float] | None
    signal: int
    frame: int
    n_frames: int
    title: str
    detector: str | None
    is_elemental_map: bool
    acquisition: str
    fault: str = ""


def read_micrographs(path: str | Path, *, measurable_only: bool = True) -> list[Micrograph]:
    """Read every image in real space that a file holds.

    Parameters
    ----------
    path : path
        One of `SUPPORTED_SUFFIXES`. An `.emi` brings the images of its `NAME_1.ser …`; of a `.ser` whose
        `.emi` lies beside it, the unit is taken from there.
    measurable_only : bool
        Leave out images with a `Micrograph.fault`. Without it they are among the answer.

    Returns
    -------
    list of Micrograph
        At least one. A 3-D data set gives one for each index of its first axis.

    Raises
    ------
    MicrographError
        One line: the file, what is wrong, what to do.
    """
    path = Path(path)
    try:
        with _quiet():
            signals = _read_signals(path)
            micrographs, refusals = _judge(path, signals)
    except Exception as error:
        raise MicrographError(path, _reason(error, path)) from error
    if measurable_only:
        faults = [m.fault for m in micrographs if m.fault]
        micrographs = [m for m in micrographs if not m.fault]
        refusals = faults + refusals
    if not micrographs:
        raise MicrographError(path, "; ".join(dict.fromkeys(refusals)) or "it holds no image")
    return micrographs


def shown(name: object) -> str:
    """Give a file's name as messages can show it: no control characters, no bytes that are no text."""
    return "".join(c if c.isprintable() else "�" for c in str(name))


def group_acquisitions(files: Iterable[Path]) -> list[list[Path]]:
    """Put together the files that may hold one acquisition, and leave out those that another one brings.

    Parameters
    ----------
    files : iterable of Path

    Returns
    -------
    list of list of Path
        In the order of `files`. A `NAME_1.ser` whose `NAME.emi` is among them is left out: reading the `.emi`
        brings it. `NAME_1.ser`, `NAME_2.ser` without one stand in one group; every other file alone.
    """
    files = list(files)
    present = {(f.parent, f.name.casefold()) for f in files}
    groups: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        base = _tia_base(file)
        if base and (file.parent, f"{base}.emi".casefold()) in present:
            continue
        groups.setdefault((file.parent, f"{base}_*.ser" if base else file.name), []).append(file)
    return list(groups.values())


# --- what libraries give -------------------------------------------------------------------------------


def _read_signals(path: Path) -> list[Signal]:
    # The plugins are imported where they are used: together they take over a second.
    suffix = path.suffix.lower()
    if suffix not in SUPPORTED_SUFFIXES:
        known = " ".join(sorted(SUPPORTED_SUFFIXES))
        raise _Refused(f"format {suffix or 'without a suffix'} is not read: use one of {known}")
    if not path.is_file():
        raise _Refused("there is no such file" if not path.exists() else "it is no file")
    if path.stat().st_size == 0:
        raise _Refused("the file is empty (0 bytes): copy it again")
    if suffix in (".dm3", ".dm4"):
        return _read_dm(path)
    if suffix in (".ser", ".emi"):
        return _read_tia(path)
    if suffix == ".emd":
        return _read_emd(path)
    if suffix == ".hspy":
        import h5py
        from rsciio.hspy import file_reader

        with h5py.File(path, "r") as file:
            _check_hdf5(path, file)
        return file_reader(str(path))
    if suffix in (".tif", ".tiff"):
        return _read_tiff(path)
    return _read_mrc(path) if suffix == ".mrc" else _read_picture(path)


def _read_dm(path: Path) -> list[Signal]:
    # The public file_reader() copies every tag for every image, and one bad image takes the others with it.
    from rsciio.digitalmicrograph._api import DigitalMicrographReader, ImageObject

    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        reader = DigitalMicrographReader(file)
        read_array = reader.read_array

        # RosettaSciIO's own steps take hours, or all memory, where a damaged length claims megabytes.
        def read_text(length: int, skip: bool = False) -> Any:
            if skip:
                return DigitalMicrographReader.read_string(reader, length, skip)
            text = file.read(length) if 0 <= length <= file_bytes else b""
            if len(text) != length:
                raise EOFError("a text in it is longer than the file")
            try:
                return text.decode("utf8")
            except UnicodeDecodeError:
                return text.decode("latin-1")

        def read_list(size: int, *args: Any, skip: bool = False, **options: Any) -> Any:
            if not skip and size > file_bytes:
                raise EOFError("a list in it is longer than the file")
            return read_array(size, *args, skip=skip, **options)

        def read_fields() -> tuple[int, ...]:
            _, count = reader.read_l_or_q(file, "big"), reader.read_l_or_q(file, "big")
            if count > 10_000:
                raise EOFError("a structure in it has too many fields")
            return tuple(
                [(reader.read_l_or_q(file, "big"), reader.read_l_or_q(file, "big"))[1] for _ in range(count)]
            )

        vars(reader).update(read_string=read_text, read_array=read_list, parse_struct_definition=read_fields)
        reader.parse_file()
        signals: list[Signal] = []
        errors: list[Exception] = []
        for tags in reader.get_image_dictionaries() or []:
            try:
                image = ImageObject(tags, file)
                signals.append(
                    {
                        "data": image.get_data(lazy=False),
                        "axes": image.get_axes_dict(),
                        "metadata": image.get_metadata(),
                        "original_metadata": {"ImageTags": tags.get("ImageTags", {})},
                    }
                )
            except Exception as error:
                errors.append(error)
    if errors and not signals:
        raise errors[0]
    return signals


def _read_emd(path: Path) -> list[Signal]:
    import h5py
    from rsciio.emd import file_reader
    from rsciio.emd._emd_velox import FeiEMDReader

    with h5py.File(path, "r") as file:
        _check_hdf5(path, file)
        if "Version" not in file:
            # Stacking groups, the reader takes "image_1" and "image_10" for one series.
            return file_reader(str(path), stack_group=False)
        # file_reader() asks for a library for spectrum images even if only images are wanted. The reader
        # behind it has them by then, as it has those before an image that it cannot read.
        reader = FeiEMDReader(select_type="images")
        try:
            reader.read_file(file)
        except Exception:
            if not reader.dictionaries:
                raise
        return reader.dictionaries


def _check_hdf5(path: Path, file: Any) -> None:
    """Refuse links and data sets that reach into other files, and sizes that nothing stored backs."""
    from h5py import h5d, h5l, h5o

    # h5py's own visititems opens every object, which takes as long as reading the file.
    outside: list[bytes] = []
    datasets: list[bytes] = []

    def note_link(name: bytes, info: Any) -> None:
        if info.type not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
            outside.append(name)

    def note_object(name: bytes, info: Any) -> None:
        if info.type == h5o.TYPE_DATASET:
            datasets.append(name)

    file.id.links.visit(note_link, info=True)
    h5o.visit(file.id, note_object, info=True)
    declared = 0
    for name in datasets:
        item = h5d.open(file.id, name)
        stored_as = item.get_create_plist()
        if stored_as.get_external_count() or stored_as.get_layout() == h5d.VIRTUAL:
            outside.append(name)
        declared += item.get_space().get_simple_extent_npoints() * item.get_type().get_size()
    if outside:
        name = outside[0].decode("utf-8", "replace")[:80]
        raise _Refused(f"its part {name!r} lies in another file: export it as one file")
    _check_expansion(path, declared)


def _check_expansion(path: Path, declared_bytes: int) -> None:
    stored_bytes = path.stat().st_size
    if declared_bytes > max(_ALWAYS_ALLOWED_BYTES, _MAX_EXPANSION * stored_bytes):
        raise _Refused(
            f"it claims {declared_bytes / 1e9:.3g} GB of pixels in {stored_bytes / 1e6:.3g} MB: "
            "the file is damaged, copy or export it again"
        )


def _tia_base(path: Path) -> str | None:
    """Return NAME of NAME_1.ser."""
    match = re.fullmatch(r"(.+)_[1-9]\.ser", path.name, re.IGNORECASE | re.DOTALL)
    return match[1] if match else None


def _read_tia(path: Path) -> list[Signal]:
    # RosettaSciIO's emi reader takes the unit of every .ser from the first object, and its search for them
    # fails in folders with brackets in their names; its reader of one .ser with one object does neither.
    from rsciio.tia._api import get_xml_info_from_emi

    if path.suffix.lower() == ".ser":
        sers, base = [path], _tia_base(path)
        emi = next((e for e in (path.with_name(f"{base}{s}") for s in (".emi", ".EMI")) if e.is_file()), None)
        emi = emi if base else None
    else:
        emi = path
        pattern = re.compile(re.escape(path.stem) + r"_[1-9]\.ser", re.IGNORECASE)
        sers = sorted(f for f in path.parent.iterdir() if pattern.fullmatch(f.name))
        if not sers:
            raise _Refused(f"its pixels lie in {path.stem}_1.ser, which is not here: copy that beside it")
    objects = get_xml_info_from_emi(str(emi)) if emi else []
    if emi and not objects:
        raise _Refused(
            f"{emi.name} is damaged or cut short, and only it says whether this is a diffraction pattern: "
            "copy it again"
        )
    signals: list[Signal] = []
    errors: list[Exception] = []
    for ser in sers:
        try:
            signals.extend(_read_ser(ser, objects))
        except Exception as error:
            errors.append(error)
    if errors and not signals:
        raise errors[0]
    return signals


def _read_ser(path: Path, objects: list[str]) -> list[Signal]:
    from rsciio.tia._api import convert_xml_to_dict, ser_reader

    index = int(path.stem[-1]) - 1 if _tia_base(path) else 0
    described = objects[index : index + 1] or objects[:1]
    mode = ""
    if described:
        content = convert_xml_to_dict(described[0])
        with contextlib.suppress(AttributeError):
            mode = str(content.ObjectInfo.ExperimentalDescription.Mode)
    signals = ser_reader(str(path), described or None)
    for signal in signals:
        for axis in signal["axes"][-2:]:
            # Read without its .emi, a diffraction pattern has its 1/m taken for m: kilometres a pixel.
            in_kilometres = unit_kind(axis.get("units")) == "length" and abs(axis["scale"]) >= 1e9
            if in_kilometres or ("Diffraction" in mode and "STEM" not in mode):
                axis["units"] = "1 / nm"
        times = np.atleast_1d(signal["original_metadata"]["ser_header_parameters"].get("Time", 0))
        base = _tia_base(path)
        # TIA writes the detectors of one acquisition in the same second.
        signal["acquisition"] = path.name if base is None else base if objects else f"{base} {times[0]}"
    return signals


def _read_tiff(path: Path) -> list[Signal]:
    # The public file_reader() opens the file itself: no look at the sizes first without parsing twice, and
    # one page that cannot be read takes the others with it.
    from rsciio.tiff._api import _read_tiff as read_series
    from tifffile import TiffFile

    signals: list[Signal] = []
    errors: list[Exception] = []
    with (
        _logged_errors("tifffile") as logged,
        _SearchedFile(io.FileIO(path)) as file,
        TiffFile(file) as tiff,
    ):
        _check_expansion(path, sum(max(0, int(series.nbytes)) for series in tiff.series))
        for series in tiff.series:
            try:
                signal = read_series(tiff, series, str(path))
            except Exception as error:
                errors.append(error)
            else:
                signals.append(signal | {"is_finite": file.has_given_finite(signal["data"])})
    if errors and not signals:
        raise errors[0]
    if any("invalid page offset" in line or "corrupted file" in line for line in logged):
        raise _Refused("it is cut short, some of its images are missing: copy or export it again")
    for signal in signals:
        tags = signal["original_metadata"]
        description = tags.get("ImageDescription")
        axes = signal["axes"][-2:]
        if isinstance(description, str) and description.startswith("ImageJ="):
            unit = re.search(r"^unit=(.*)$", description, re.MULTILINE)
            # RosettaSciIO knows ImageJ's "micron" only, and then has the scale without a unit.
            if unit and not any(axis.get("units") for axis in axes):
                for axis, tag in zip(axes, ("YResolution", "XResolution"), strict=True):
                    pixels, units = tags.get(tag, (0, 0))
                    axis["scale"], axis["units"] = (units / pixels if pixels else 0.0), unit[1]
        tvips = tags.get("TVIPS")
        if isinstance(tvips, dict) and tvips.get("TemMode") == 3:
            for axis in axes:
                axis["units"] = "1 / nm"
    return signals


class _SearchedFile(io.BufferedReader):
    """A file that looks for NaN in the numbers read from it while they are in the processor's cache.

    To go through 64 MB once more takes three tenths of the time of reading them.
    """

    _finite: np.ndarray | None = None

    def readinto(self, buffer: Any, /) -> int:
        self._finite = None
        is_array = isinstance(buffer, np.ndarray) and buffer.flags.c_contiguous
        if not is_array or buffer.dtype.kind != "f" or not buffer.dtype.isnative:
            return super().readinto(cast(Any, buffer))
        numbers: Any = buffer.reshape(-1)
        step = _SEARCHED_BYTES // numbers.itemsize
        n_read, is_finite = 0, True
        for part in (numbers[start : start + step] for start in range(0, numbers.size, step)):
            n_given = super().readinto(part)
            n_read += n_given
            if n_given < part.nbytes:
                return n_read  # it is cut short: the rest may be claimed only
            is_finite = is_finite and _seems_finite(part)
        if is_finite:
            self._finite = numbers
        return n_read

    def has_given_finite(self, data: np.ndarray) -> bool:
        """Say whether the array is what was read last, and all its numbers were finite."""
        return (
            self._finite is not None
            and self._finite.nbytes == data.nbytes
            and self._finite.dtype == data.dtype
            and np.may_share_memory(self._finite, data)
        )


def _read_mrc(path: Path) -> list[Signal]:
    # mrcfile's definitions, but not its reader: that makes room for whatever a header claims.
    from mrcfile.dtypes import HEADER_DTYPE
    from mrcfile.utils import data_shape_from_header, dtype_from_mode

    with path.open("rb") as file:
        start = file.read(HEADER_DTYPE.itemsize)
    if len(start) < HEADER_DTYPE.itemsize:
        raise ValueError("it is shorter than a header")
    # Programs write the machine stamp wrongly; read in the wrong byte order, small numbers become huge.
    for order in "<>":
        header = np.frombuffer(start, HEADER_DTYPE.newbyteorder(order)).view(np.recarray)[0]
        if 0 <= header.mode < 2**16 and 0 < header.nx < 2**16:
            break
    else:
        raise ValueError("it has no MRC header")
    dtype, shape = dtype_from_mode(int(header.mode)).newbyteorder(order), data_shape_from_header(header)
    offset, count = HEADER_DTYPE.itemsize + int(header.nsymbt), math.prod(shape)
    counts = [int(header[name]) for name in ("my", "mx")]
    cell = [float(header.cella[name]) for name in ("y", "x")]
    if min(shape) < 1 or header.nsymbt < 0 or offset + count * dtype.itemsize > path.stat().st_size:
        raise _Refused(
            f"its header claims {'x'.join(map(str, shape))} pixels, more than the file holds: copy it again"
        )
    data = np.fromfile(path, dtype=dtype, count=count, offset=offset).reshape(shape)
    # A cell of zero or negative size, or without samples, is a header nobody filled in.
    sizes = [c / n if n > 0 and c > 0 else 0.0 for c, n in zip(cell, counts, strict=True)]
    axes = [{"scale": size, "units": "Å", "navigate": False} for size in sizes]
    leading = [{"scale": 1.0, "units": None, "navigate": True} for _ in range(data.ndim - 2)]
    return [{"data": data, "axes": leading + axes, "metadata": {}, "original_metadata": {}}]


def _read_picture(path: Path) -> list[Signal]:
    from PIL import Image

    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        channels = len(picture.getbands())
        _check_expansion(path, picture.width * picture.height * channels)
        if picture.mode in ("P", "PA", "CMYK", "YCbCr", "HSV", "LAB"):
            picture = picture.convert("RGB")
        data = np.asarray(picture)
    if data.dtype == bool:
        data = data.astype(np.uint8) * np.uint8(255)
    if data.dtype == np.int32 and data.size and data.min() >= 0 and data.max() < 2**16:
        data = data.astype(np.uint16)  # how Pillow gives some 16-bit PNGs
    axes = [{"scale": 1.0, "units": None, "navigate": False} for _ in range(2)]
    if data.ndim == 3:
        axes.append({"name": "sample", "navigate": False})
    return [{"data": data, "axes": axes, "metadata": {}, "original_metadata": {}}]


# --- what is made of it --------------------------------------------------------------------------------


def _judge(path: Path, signals: list[Signal]) -> tuple[list[Micrograph], list[str]]:
    micrographs: list[Micrograph] = []
    refusals: list[str] = []
    for index, signal in enumerate(signals):
        try:
            micrographs.extend(_micrographs(path, index, signal))
        except Exception as error:
            refusals.append(_reason(error, path))
    return micrographs, refusals


def _micrographs(path: Path, index: int, signal: Signal) -> list[Micrograph]:
    if not isinstance(signal, dict) or "data" not in signal:
        raise _Refused("a data set of it holds no pixels")
    data, axes = _grey(np.asarray(signal["data"]), list(signal["axes"]))
    while data.ndim > 2 and data.shape[0] == 1:
        data, axes = data[0], axes[1:]
    if data.dtype.kind == "c":
        raise _Refused("it is a complex image (a Fourier transform), no micrograph: export the image itself")
    if data.dtype.kind not in "buif":
        raise _Refused("it holds no numbers that make an image")
    if data.ndim not in (2, 3) or len(axes) < 2:
        what = "a spectrum" if data.ndim < 2 else f"a data set of {data.ndim} axes"
        raise _Refused(f"it holds {what}, no image: export the images by themselves")
    if 0 in data.shape:
        raise _Refused("it holds an image without pixels")
    y_axis, x_axis = axes[-2:]
    kinds = {unit_kind(axis.get("units")) for axis in (y_axis, x_axis)}
    units = y_axis.get("units") or x_axis.get("units")
    if "reciprocal" in kinds:
        raise _Refused(
            f"its axes are reciprocal ({units}): a diffraction pattern or Fourier transform is no micrograph"
        )
    if "other" in kinds or bool(y_axis.get("navigate")) != bool(x_axis.get("navigate")):
        raise _Refused("it is a spectrum or spectrum image, no micrograph: export the images by themselves")
    if _is_uncalibrated_diffraction(signal, kinds):
        raise _Refused("the microscope was in diffraction when it was recorded: no micrograph")
    height_nm, width_nm = (to_nm(axis.get("scale"), axis.get("units")) for axis in (y_axis, x_axis))
    pixel_size_nm = None if height_nm is None or width_nm is None else (height_nm, width_nm)
    title = _title(path, signal)
    frames = data if data.ndim == 3 else data[np.newaxis]
    if len(frames) > MAX_FRAMES or (len(frames) > 1 and min(frames.shape[1:]) < MIN_SIDE_PX):
        raise _Refused(
            f"a stack of {len(frames)} frames of {frames.shape[1]}x{frames.shape[2]} px is no micrograph"
        )
    return [
        Micrograph(
            image=image,
            pixel_size_nm=pixel_size_nm,
            signal=index,
            frame=number,
            n_frames=len(frames),
            title=title,
            detector=_detector(title),
            is_elemental_map=_is_elemental_map(title, signal),
            acquisition=str(signal.get("acquisition", path.name)),
            fault=_fault(image, is_finite=bool(signal.get("is_finite"))),
        )
        for number, image in enumerate(frames)
    ]


def _grey(data: np.ndarray, axes: list[Signal]) -> tuple[np.ndarray, list[Signal]]:
    """Take the one channel of an image that is grey in truth; colour is no micrograph."""
    if data.dtype.names:
        channels = [data[name] for name in data.dtype.names if name in "RGB"]
    elif data.ndim >= 3 and axes[-1].get("name") == "sample" and data.shape[-1] in (1, 2, 3, 4):
        # One value, or red, green and blue, with or without transparency.
        channels = [data[..., c] for c in range(1 if data.shape[-1] <= 2 else 3)]
        axes = axes[:-1]
    else:
        return data, axes
    if any(not np.array_equal(channels[0], channel) for channel in channels[1:]):
        raise _Refused("it is in colour: export the micrograph itself in grey, without screen decoration")
    return np.ascontiguousarray(channels[0]), axes


def _is_uncalibrated_diffraction(signal: Signal, kinds: set[str]) -> bool:
    if "length" in kinds:
        return False
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
    return shown(title or path.stem).strip()[:120]


def _detector(title: str) -> str | None:
    """Tell the detector by the title, unless that names both kinds or any other dark field."""
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
    # Only Velox: elsewhere "Pt" may be what somebody called a picture of platinum.
    is_velox = "BinaryResult" in (signal.get("original_metadata") or {})
    symbol = re.match(r"([A-Z][a-z]?)(?![A-Za-z])", title)
    return is_velox and symbol is not None and symbol[1] in _ELEMENTS.split()


def _seems_finite(numbers: np.ndarray) -> bool:
    """Say False where a number isn't finite, or where squares are too large to tell.

    One pass, without a second array.
    """
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.vdot(numbers, numbers)))


def _fault(image: np.ndarray, *, is_finite: bool = False) -> str:
    height, width = image.shape
    if min(image.shape) < MIN_SIDE_PX:
        return f"an image of {height}x{width} px is too small to hold a particle"
    # Some files hold columns one after the other: read as rows, each pixel would come from another page.
    inline = image.T if image.flags.f_contiguous else image
    if image.dtype.kind == "f" and not is_finite and not _seems_finite(inline):
        bad = image.size - int(np.count_nonzero(np.isfinite(image)))
        if bad:
            return f"{bad} of its pixels are not finite (NaN or infinite): export it again"
    # A few rows decide for nearly every image.
    first = image[0, 0]
    if (inline[:: max(1, len(inline) // 8)] == first).all() and (inline == first).all():
        return f"all its pixels have the same value ({first}): there is nothing to see"
    return ""


def _reason(error: BaseException, path: Path) -> str:
    """Say in one line what went wrong, for a person who doesn't know the libraries."""
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, MemoryError):
        return (
            "it claims more pixels than fit into memory: the file is damaged, or too large for this machine"
        )
    if isinstance(error, PermissionError):
        return "it may not be read: give the account that runs this the right to read it"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    detail = " ".join(str(error).replace(str(path), path.name).split())
    cause = f"{type(error).__name__}: {detail[:120]}" if detail else type(error).__name__
    kind = path.suffix.lower().lstrip(".")
    return f"it is damaged, cut short or no {kind} file ({cause}): copy or export it again"


@contextlib.contextmanager
def _logged_errors(name: str) -> Iterator[list[str]]:
    """Collect the errors that a library logs in this thread when it goes on with less than the file has."""
    lines: list[str] = []
    logger, thread = logging.getLogger(name), threading.get_ident()

    def collect(record: logging.LogRecord) -> bool:
        if record.thread == thread:
            lines.append(record.getMessage())
        return False

    level = logger.level
    logger.setLevel(logging.ERROR)
    logger.addFilter(collect)
    try:
        yield lines
    finally:
        logger.removeFilter(collect)
        logger.setLevel(level)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries from talking: what matters stands in the answer or in the error."""
    import rsciio  # noqa: F401 - sets its own level when first imported

    loggers = [logging.getLogger(name) for name in ("rsciio", "tifffile", "PIL", "h5py")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
