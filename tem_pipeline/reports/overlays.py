"""Draws the particles' outlines on their micrograph, as pictures: arrays or PNG bytes.

Only Pillow is used here, because loading matplotlib would delay the segmentation of a single image.
"""

import importlib.util
import io
from collections.abc import Collection
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from tem_pipeline.micrographs.frame import labels_on_frame

# Visible on a grey micrograph, and distinguishable for colour-blind readers.
COUNTED_COLOUR, EDGE_COLOUR, SHELL_COLOUR = "#00F0A0", "#FF8C1A", "#6FC3FF"
_INK, _PAPER = (34, 34, 34), (255, 255, 255)

# Small images are magnified up to this, so that outlines stay thin beside small particles.
_MAGNIFIED_PX = 1024
_LARGEST_ZOOM = 4
_STRIP_PX = 2**22


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    shells: np.ndarray | None = None,
    edge_labels: Collection[int] | None = None,
    pixel_size_nm: float | None = None,
    max_px: int | None = None,
) -> np.ndarray:
    """Draw the particles' outlines on their micrograph, with a legend and, if calibrated, a scale bar.

    Parameters
    ----------
    image : ndarray, (height, width)
        Any intensities; stretched between the 0.5 and 99.5 percentiles.
    labels : ndarray of int, (height, width)
        0 background, particles 1 and more.
    shells : ndarray of int, (height, width), optional
        Whole particles, shell included.
    edge_labels : collection of int, optional
        Particles that aren't counted; by default those with a pixel on the frame.
    pixel_size_nm : float, optional
        Side of a pixel; without it there is no scale bar and the legend says so.
    max_px : int, optional
        Longest side of the picture. Small images are magnified by whole numbers, at most 4 times, up to
        1024 px.

    Returns
    -------
    ndarray, (height', width', 3), uint8
        RGB, with a legend below the micrograph.
    """
    longest = max(image.shape)
    if max_px is not None and longest > max_px:
        zoom = max_px / longest
    else:
        magnified_px = min(max_px or _MAGNIFIED_PX, _MAGNIFIED_PX)
        zoom = float(np.clip(magnified_px // longest, 1, _LARGEST_ZOOM))
    height, width = (max(1, round(side * zoom)) for side in image.shape)
    grey = _grey(image, height, width)
    picture = np.repeat(grey[..., None], 3, axis=2)

    rows = np.minimum(((np.arange(height) + 0.5) / zoom).astype(int), image.shape[0] - 1)
    columns = np.minimum(((np.arange(width) + 0.5) / zoom).astype(int), image.shape[1] - 1)
    small = labels[np.ix_(rows, columns)]
    thickness = 2 if zoom >= 2 else 1
    at_edge = (
        labels_on_frame(labels) if edge_labels is None else np.asarray(list(edge_labels), dtype=np.int64)
    )
    rim = _rim(small, thickness)
    cut = np.isin(small, at_edge)
    if shells is not None:
        picture[_rim(shells[np.ix_(rows, columns)], thickness) & (small == 0)] = _bytes(SHELL_COLOUR)
    picture[rim & ~cut] = _bytes(COUNTED_COLOUR)
    picture[rim & cut] = _bytes(EDGE_COLOUR)

    present = np.unique(labels)
    present = present[present > 0]
    n_edge = int(np.isin(present, at_edge).sum())
    entries = [
        (COUNTED_COLOUR, f"{len(present) - n_edge} counted"),
        (EDGE_COLOUR, f"{n_edge} cut by the edge"),
    ]
    if shells is not None:
        entries.append((SHELL_COLOUR, "shells"))
    canvas = Image.fromarray(picture)
    if pixel_size_nm is not None:
        _draw_scale_bar(canvas, pixel_size_nm / zoom)
    return np.asarray(_add_legend(canvas, entries, "" if pixel_size_nm is not None else "no calibration"))


def overlay_png(
    image: np.ndarray,
    labels: np.ndarray,
    shells: np.ndarray | None = None,
    edge_labels: Collection[int] | None = None,
    pixel_size_nm: float | None = None,
    max_px: int = 512,
    maximum_bytes: int | None = 100_000,
) -> bytes:
    """Encode an overlay as PNG, by default as a thumbnail that an event log can hold.

    Parameters
    ----------
    image, labels, shells, edge_labels, pixel_size_nm
        As in `overlay`.
    max_px : int
        Longest side of the picture.
    maximum_bytes : int, optional
        Grey levels and then pixels are reduced until the picture is at most this large. None: no limit.

    Returns
    -------
    bytes
    """
    while True:
        picture = Image.fromarray(overlay(image, labels, shells, edge_labels, pixel_size_nm, max_px))
        if maximum_bytes is None:
            return _png(_indexed(picture), compress_level=2)
        encoded = _png(picture)
        if len(encoded) <= maximum_bytes:
            return encoded
        for levels in (64, 24):
            encoded = _png(picture.quantize(palette=_palette(levels), dither=Image.Dither.NONE))
            if len(encoded) <= maximum_bytes or max_px <= 64:
                return encoded
        max_px = int(max_px * 0.85)


def stretch(image: np.ndarray) -> np.ndarray:
    """Map the intensities between the 0.5 and 99.5 percentiles to 0 … 255.

    Parameters
    ----------
    image : ndarray, (height, width)
        Of any real dtype.

    Returns
    -------
    ndarray, (height, width), uint8
        128 everywhere for an image without contrast.
    """
    low, high = (float(end) for end in np.percentile(image, (0.5, 99.5)))
    if high <= low:
        return np.full(image.shape, 128, dtype=np.uint8)
    scaled = np.subtract(image, low, dtype=np.float32)
    scaled *= 255 / (high - low)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def _png(picture: Image.Image, compress_level: int = 6) -> bytes:
    # The option `optimize` takes 8 s for 2048 × 2048 px.
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=compress_level)
    return stream.getvalue()


def _indexed(picture: Image.Image) -> Image.Image:
    """Reduce a picture to 128 greys and the outlines' colours: one byte per pixel, without visible loss.

    Pillow's search for the nearest colour distinguishes only 64 greys, so greys are converted here and only
    the outlines by Pillow.
    """
    levels = 128
    palette = _palette(levels)
    red, green = (np.asarray(picture.getchannel(channel)) for channel in (0, 1))
    nearest_grey = np.rint(np.arange(256) * (levels - 1) / 255).astype(np.uint8)
    nearest = np.asarray(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    indexed = Image.fromarray(np.where(red == green, nearest_grey[red], nearest))
    indexed.putpalette(palette.getpalette() or ())
    return indexed


@cache
def _palette(levels: int) -> Image.Image:
    """Make a palette of grey levels and the outlines' colours, which are too rare for an adaptive palette."""
    colours = [(grey, grey, grey) for grey in np.linspace(0, 255, levels).astype(int).tolist()]
    colours += [_bytes(colour) for colour in (COUNTED_COLOUR, EDGE_COLOUR, SHELL_COLOUR)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in colours for part in colour])
    return palette


def _bytes(colour: str) -> tuple[int, int, int]:
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue


def _grey(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image and map it to 256 greys.

    Large images are first averaged in strips, which avoids a full copy in memory.
    """
    if height > image.shape[0]:
        # Enlarging 8-bit greys is much faster than enlarging floats.
        enlarged = Image.fromarray(stretch(image)).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(enlarged)
    step = min(image.shape[0] // height, image.shape[1] // width)
    if step > 1:
        rows, columns = (side // step for side in image.shape)
        averaged = np.empty((rows, columns), dtype=np.float32)
        strip = max(1, _STRIP_PX // (step * image.shape[1]))
        for top in range(0, rows, strip):
            bottom = min(top + strip, rows)
            block = image[top * step : bottom * step, : columns * step]
            averaged[top:bottom] = block.reshape(bottom - top, step, columns, step).mean(axis=(1, 3))
        image = averaged
    source = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return stretch(np.asarray(source.resize((width, height), Image.Resampling.BOX)))


def _rim(labels: np.ndarray, thickness: int) -> np.ndarray:
    """Mark the pixels of particles that are within `thickness` px of another label."""
    inner = labels > 0
    core = inner.copy()
    for _ in range(thickness):
        kept = core.copy()
        kept[1:] &= core[:-1] & (labels[1:] == labels[:-1])
        kept[:-1] &= core[1:] & (labels[:-1] == labels[1:])
        kept[:, 1:] &= core[:, :-1] & (labels[:, 1:] == labels[:, :-1])
        kept[:, :-1] &= core[:, 1:] & (labels[:, :-1] == labels[:, 1:])
        core = kept
    return inner & ~core


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font of the figures, found without loading matplotlib.
    package = importlib.util.find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    return ImageFont.truetype(Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", size)


def _scale_bar_nm(width_px: int, pixel_size_nm: float) -> float:
    """Find the largest 1, 2 or 5 × 10ⁿ nm that is at most a quarter of the width."""
    longest = width_px * pixel_size_nm / 4
    power = 10.0 ** np.floor(np.log10(longest))
    return float(max(m * power for m in (1, 2, 5) if m * power <= longest))


def _length_text(length_nm: float) -> str:
    if length_nm >= 1000:
        return f"{length_nm / 1000:g} µm"
    return f"{length_nm:g} nm" if length_nm >= 1 else f"{length_nm * 1000:g} pm"


def _draw_scale_bar(canvas: Image.Image, pixel_size_nm: float) -> None:
    width, height = canvas.size
    length_nm = _scale_bar_nm(width, pixel_size_nm)
    if length_nm < pixel_size_nm:  # the picture is too narrow for a bar
        return
    length = round(length_nm / pixel_size_nm)
    unit = max(2, round(max(width, height) / 200))
    font = _font(max(10, 5 * unit))
    text = _length_text(length_nm)
    draw = ImageDraw.Draw(canvas, "RGBA")
    text_width, text_height = draw.textlength(text, font=font), font.size
    box_width, box_height = max(length, text_width) + 4 * unit, text_height + 6 * unit
    left, top = 2 * unit, height - 2 * unit - box_height
    draw.rounded_rectangle((left, top, left + box_width, top + box_height), unit, fill=(0, 0, 0, 150))
    middle = left + box_width / 2
    draw.text((middle, top + unit), text, font=font, fill=_PAPER, anchor="ma")
    bar_top = top + box_height - 2.5 * unit
    draw.rectangle((middle - length / 2, bar_top, middle + length / 2 - 1, bar_top + unit), fill=_PAPER)


def _add_legend(canvas: Image.Image, entries: list[tuple[str, str]], note: str) -> Image.Image:
    """Add a white strip below the picture that explains the outlines, in as many lines as needed."""
    width, height = canvas.size
    size = int(np.clip(max(width, height) / 45, 10, 28))
    font, gap = _font(size), size // 2
    items = [*entries, ("", note)] if note else entries
    lines: list[list[tuple[float, str, str]]] = [[]]
    x = float(gap)
    for colour, text in items:
        needed = font.getlength(text) + (2 * size if colour else 0)
        if lines[-1] and x + needed > width - gap:
            lines.append([])
            x = float(gap)
        lines[-1].append((x, colour, text))
        x += needed + 2 * gap
    line_height = round(1.7 * size)
    strip = line_height * len(lines)
    page = Image.new("RGB", (width, height + strip), _PAPER)
    page.paste(canvas, (0, 0))
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        middle = height + line_height * (number + 0.5)
        for x, colour, text in line:
            if colour:
                half = max(1, size // 8)
                draw.rectangle((x, middle - half, x + 1.5 * size, middle + half), fill=_bytes(colour))
                x += 2 * size
            draw.text((x, middle), text, font=font, fill=_INK, anchor="lm")
    return page
