"""What the tags of a TIFF file say about its picture: pixel size, shades and information bar.

RosettaSciIO gives height and width of oblong pixels in the wrong order for FEI, TVIPS and Olympus, and knows
one unit of ImageJ. So these sizes are read from the tags here.
"""

import contextlib
import re
from typing import Any

from tem_pipeline.micrographs.calibration import unit_kind
from tem_pipeline.micrographs.readers.signals import Signal

_TVIPS_DIFFRACTION = 3
"""TVIPS' number for an illumination mode in diffraction."""

_TITAN_XML = 34683
_LONGEST_XML = 10**6
_DM_SCALES_AND_UNITS = (("65010", "65004"), ("65009", "65003"))
"""Numbers of DigitalMicrograph's tags of y and of x."""


def describe_picture(signal: Signal, page: Any) -> None:
    """Complete a signal that RosettaSciIO read from a TIFF file, and correct its pixel size.

    Parameters
    ----------
    signal : Signal
        Changed in place.
    page : tifffile.TiffPage
        The first page of the signal.
    """
    tags = signal["original_metadata"]
    _correct_imagej(signal, tags)
    _correct_fei(signal, tags)
    _correct_titan(signal, tags, page)
    _correct_tvips(signal, tags)
    _correct_olympus(signal, tags)
    signal["is_reduced"] = bool(page.is_reduced)
    photometric = int(page.photometric)
    if photometric == 0:
        signal["white_is_zero"] = _white_is_zero(page)
    elif photometric == 3 and page.colormap is not None:
        signal["palette"] = page.colormap.T


def _white_is_zero(page: Any) -> int | None:
    """Give the stored number that shows as black."""
    return 2**page.bitspersample - 1 if page.sampleformat == 1 else None


def _set_pixel_size(signal: Signal, sizes: tuple[Any, Any], units: tuple[Any, Any]) -> None:
    """Set height and width of a pixel; sizes may be texts."""
    for axis, size, unit in zip(signal["axes"][-2:], sizes, units, strict=True):
        axis["scale"], axis["units"] = float(size), unit


def _correct_imagej(signal: Signal, tags: dict[str, Any]) -> None:
    """Take the unit of each axis from ImageJ's description, unless DigitalMicrograph's tags say more."""
    description = tags.get("ImageDescription")
    if not isinstance(description, str) or not description.startswith("ImageJ="):
        return
    with contextlib.suppress(KeyError, TypeError, ValueError):
        scales, units = zip(*((tags[s], tags[u]) for s, u in _DM_SCALES_AND_UNITS), strict=True)
        if all(unit_kind(unit) == "length" for unit in units):
            _set_pixel_size(signal, scales, units)
            return
    unit, y_unit = (re.search(rf"^{key}=(.*)$", description, re.MULTILINE) for key in ("unit", "yunit"))
    if not unit:
        return
    resolutions = [tags.get(tag, (0, 0)) for tag in ("YResolution", "XResolution")]
    sizes = [units / pixels if pixels else 0.0 for pixels, units in resolutions]
    _set_pixel_size(signal, (sizes[0], sizes[1]), ((y_unit or unit)[1], unit[1]))


def _correct_fei(signal: Signal, tags: dict[str, Any]) -> None:
    """Read pixel size and number of rows of a Thermo Fisher (FEI) image; below them is an information bar."""
    metadata = tags.get("fei_metadata")
    if not isinstance(metadata, dict):
        return
    scan, image, beam = (metadata.get(name) or {} for name in ("Scan", "Image", "IRBeam"))
    rows = 0.0
    with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        sizes = (
            float(beam["VFW"]) / float(image["ResolutionY"]),
            float(beam["HFW"]) / float(image["ResolutionX"]),
        )
        _set_pixel_size(signal, sizes, ("m", "m"))
    with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        _set_pixel_size(signal, (scan["PixelHeight"], scan["PixelWidth"]), ("m", "m"))
        rows = float(scan["VerFieldsize"]) / float(scan["PixelHeight"])
    with contextlib.suppress(KeyError, TypeError, ValueError):
        rows = float(image["ResolutionY"])
    if 1 <= rows < 2**31:
        signal["rows"] = round(rows)


def _correct_titan(signal: Signal, tags: dict[str, Any], page: Any) -> None:
    """Read the pixel size from the XML of older Titan software, if it is there once."""
    tag = page.tags.get(_TITAN_XML)
    text = tag.value if tag is not None else ""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str) or len(text) > _LONGEST_XML or isinstance(tags.get("fei_metadata"), dict):
        return
    blocks = re.findall(r"<PixelSize\b[^>]*>(.*?)</PixelSize>", text, re.DOTALL)
    if len(blocks) != 1:
        return
    found = [
        re.findall(rf"""<{name}(?:\s+unit=["']([^"'<>]*)["'])?\s*>\s*([-+.\deE]+)\s*</{name}>""", blocks[0])
        for name in "YX"
    ]
    if all(len(matches) == 1 for matches in found):
        (y_unit, y_size), (x_unit, x_size) = (matches[0] for matches in found)
        with contextlib.suppress(ValueError):
            _set_pixel_size(signal, (y_size, x_size), (y_unit or "m", x_unit or "m"))


def _correct_tvips(signal: Signal, tags: dict[str, Any]) -> None:
    """Read TVIPS' pixel size, and mark the axes of a diffraction pattern, which are given as lengths."""
    tvips = tags.get("TVIPS")
    if not isinstance(tvips, dict):
        return
    with contextlib.suppress(KeyError, TypeError, ValueError):
        _set_pixel_size(signal, (tvips["PixelSizeY"], tvips["PixelSizeX"]), ("nm", "nm"))
    if tvips.get("TemMode") == _TVIPS_DIFFRACTION:
        for axis in signal["axes"][-2:]:
            axis["units"] = "1 / nm"


def _correct_olympus(signal: Signal, tags: dict[str, Any]) -> None:
    olympus = tags.get("Olympus_SIS_metadata")
    if isinstance(olympus, dict):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            # Rounded because the file has a float of 32 bits.
            sizes = [round(float(olympus[name]), 15) for name in ("pixelsizey", "pixelsizex")]
            _set_pixel_size(signal, (sizes[0], sizes[1]), ("m", "m"))
