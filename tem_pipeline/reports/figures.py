"""Draws what a person checks by eye: outlines on a micrograph, size histograms, the masks of the losses.

Figures are matplotlib `Figure` objects without any global state, pictures are arrays or PNG bytes; where they
are stored or shown is left to the caller.
"""

import io
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import scipy
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

# Bright enough to stand on a grey micrograph, and told apart by colour-blind readers.
COUNTED_COLOUR, EDGE_COLOUR, SHELL_COLOUR = "#00F0A0", "#FF8C1A", "#6FC3FF"
# Okabe and Ito's palette.
_BAR_COLOUR, _CURVE_COLOUR = "#56B4E9", "#D55E00"
_MISSED_COLOUR, _FALSE_COLOUR = "#0072B2", "#E69F00"
_LOSS_NAMES = {"iou": "IoU", "dice": "Dice"}
_INK, _PAPER = (34, 34, 34), (255, 255, 255)

_MAGNIFIED_PX = (
    1024  # small images are magnified up to this, so that outlines stay thin beside small particles
)
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
    """Draw the particles' outlines on their micrograph, with a legend and, where calibrated, a scale bar.

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
        Longest side of the picture; small images are magnified by whole numbers up to it, at most 4 times.

    Returns
    -------
    ndarray, (height', width', 3), uint8
        RGB; a legend stands below the micrograph.
    """
    longest = max(image.shape)
    if max_px is not None and longest > max_px:
        zoom = max_px / longest
    else:
        zoom = float(np.clip((max_px or _MAGNIFIED_PX) // longest, 1, _LARGEST_ZOOM))
    height, width = (max(1, round(side * zoom)) for side in image.shape)
    grey = _stretch(_resize(image, height, width))
    picture = np.repeat(grey[..., None], 3, axis=2)

    rows = np.minimum(((np.arange(height) + 0.5) / zoom).astype(int), image.shape[0] - 1)
    columns = np.minimum(((np.arange(width) + 0.5) / zoom).astype(int), image.shape[1] - 1)
    small = labels[np.ix_(rows, columns)]
    thickness = 2 if zoom >= 2 else 1
    at_edge = _frame_labels(labels) if edge_labels is None else np.asarray(list(edge_labels), dtype=np.int64)
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
        The picture gets fewer grey levels, then fewer pixels, until it is no larger; None keeps it as it is.

    Returns
    -------
    bytes
    """
    while True:
        picture = Image.fromarray(overlay(image, labels, shells, edge_labels, pixel_size_nm, max_px))
        if maximum_bytes is None:
            return _png(picture, compress_level=3)
        encoded = _png(picture)
        if len(encoded) <= maximum_bytes:
            return encoded
        for levels in (64, 24):
            encoded = _png(picture.quantize(palette=_palette(levels), dither=Image.Dither.NONE))
            if len(encoded) <= maximum_bytes or max_px <= 64:
                return encoded
        max_px = int(max_px * 0.85)


def loss_comparison_figure(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions_by_loss: Mapping[str, Sequence[np.ndarray]],
) -> Figure:
    """Set the masks of each loss beside image and truth, as in figure 4 of Liu et al. 2021.

    Parameters
    ----------
    images : sequence of ndarray, (height, width)
    truths : sequence of ndarray, (height, width)
        Foreground is everything but 0.
    predictions_by_loss : mapping from loss to sequence of ndarray, (height, width)
        One mask an image, in the order of `images`.

    Returns
    -------
    Figure
        A row an image. Right foreground is white, missed blue, false orange; each mask's
        Dice stands below it.
    """
    names = (_LOSS_NAMES.get(loss, loss.replace("_", " ")) for loss in predictions_by_loss)
    titles = ["image", "truth", *names]
    n_rows = len(images)
    figure = Figure(figsize=(2.05 * len(titles), 2.25 * n_rows + 0.4), layout="constrained")
    grid = figure.subplots(n_rows, len(titles), squeeze=False)
    for i, (image, truth) in enumerate(zip(images, truths, strict=True)):
        grid[i, 0].imshow(_stretch(np.asarray(image, dtype=np.float32)), cmap="gray", vmin=0, vmax=255)
        real = np.asarray(truth) > 0
        grid[i, 1].imshow(_compare(real, real), interpolation="nearest")
        for j, masks in enumerate(predictions_by_loss.values(), start=2):
            predicted = np.asarray(masks[i]) > 0
            grid[i, j].imshow(_compare(real, predicted), interpolation="nearest")
            total = real.sum() + predicted.sum()
            dice = 2 * (real & predicted).sum() / total if total else 1.0
            grid[i, j].set_xlabel(f"Dice {dice:.3f}", fontsize=9)
        for axes, title in zip(grid[i], titles, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            if i == 0:
                axes.set_title(title, fontsize=10)
    handles = [
        Patch(facecolor="white", edgecolor="0.4", label="right"),
        Patch(facecolor=_MISSED_COLOUR, label="missed"),
        Patch(facecolor=_FALSE_COLOUR, label="false"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def distribution_figure(row: Mapping[str, Any]) -> Figure:
    """Draw a row of `size_distributions`: its histogram, both fits and the interval of its median.

    The histograms of diameter and of perimeter are figure 5 of Liu et al. 2021.

    Parameters
    ----------
    row : mapping
        Of `SIZE_DISTRIBUTION_SCHEMA`; what is null in it isn't drawn.

    Returns
    -------
    Figure
    """
    edges, counts = np.asarray(row["histogram_edges"], float), np.asarray(row["histogram_counts"], float)
    unit = "" if row["unit"] == "1" else f" ({row['unit']})"
    figure = Figure(figsize=(5.6, 3.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(f"{str(row['measurand']).replace('_', ' ')}{unit}")
    axes.set_ylabel("particles")
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if not len(counts):
        axes.text(0.5, 0.5, "no counted particles", transform=axes.transAxes, ha="center", color="0.5")
        return figure
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color="#BBD9EC", edgecolor="white")
    reach = edges[-1] - edges[0]
    x = np.linspace(max(edges[0] - 0.25 * reach, reach / 1000), edges[-1] + 0.25 * reach, 400)
    area = float(np.sum(counts * np.diff(edges)))
    mean, sd = _number(row, "normal_mean"), _number(row, "normal_sd")
    if mean is not None and sd:
        axes.plot(
            x, area * scipy.stats.norm.pdf(x, mean, sd), color=_CURVE_COLOUR, linewidth=1.6, label="normal"
        )
    centre, spread = _number(row, "lognormal_geometric_mean"), _number(row, "lognormal_geometric_sd")
    if centre is not None and spread and spread > 1:
        density = scipy.stats.lognorm.pdf(x, np.log(spread), scale=centre)
        axes.plot(x, area * density, color="#0072B2", linewidth=1.6, linestyle="--", label="lognormal")
    if (median := _number(row, "median")) is not None:
        low, high = _number(row, "median_low"), _number(row, "median_high")
        if low is not None and high is not None:
            axes.axvspan(low, high, color="0.45", alpha=0.22, linewidth=0, label="median, 95 % interval")
        axes.axvline(median, color="0.25", linewidth=1, label=None if low is not None else "median")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    return figure


def fields_figure(fields: pd.DataFrame, row: Mapping[str, Any]) -> Figure:
    """Set the fields' mean sizes side by side, with the session's mean and its interval.

    Parameters
    ----------
    fields : DataFrame
        One row a field with counted particles, in the order to draw: mean, standard_error (NaN for one
        particle).
    row : mapping
        The session's row of `size_distributions`.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(5.6, 3.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("field")
    axes.set_ylabel(f"mean {str(row['measurand']).replace('_', ' ')} ({row['unit']})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = _number(row, "mean_low"), _number(row, "mean_high")
    if low is not None and high is not None:
        axes.axhspan(low, high, color="0.45", alpha=0.22, linewidth=0, label="session, 95 % interval")
    if (mean := _number(row, "mean")) is not None:
        axes.axhline(mean, color="0.25", linewidth=1, label=None if low is not None else "session")
    size = 5 if len(fields) <= 40 else 3
    axes.errorbar(
        np.arange(1, len(fields) + 1),
        fields["mean"],
        1.96 * fields["standard_error"],
        fmt="o",
        markersize=size,
        color="#0072B2",
        ecolor="#8FBBD9",
        elinewidth=1.2,
        label="field, 95 % interval of its particles",
    )
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def structure_activity_figure(rows: pd.DataFrame) -> Figure:
    """Draw the activity against each descriptor, with error bars on both axes and the fitted line.

    Parameters
    ----------
    rows : DataFrame
        Rows of `STRUCTURE_ACTIVITY_SCHEMA` of one activity; those without correlation show their samples.
        A line whose slope may be 0 is dotted.

    Returns
    -------
    Figure
    """
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.1 * lines + 0.3), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(rows) :]:
        axes.set_axis_off()
    for axes, row in zip(grid, rows.to_dict("records"), strict=False):
        unit = "" if row["descriptor_unit"] == "1" else f" ({row['descriptor_unit']})"
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(_literal(row["descriptor"].replace("_", " ") + unit))
        axes.set_ylabel(_literal(f"activity ({row['activity_unit']})"))
        axes.spines[["top", "right"]].set_visible(False)
        x, y, x_error, y_error = (
            np.array(row[name], dtype=float)
            for name in (
                "descriptor_values",
                "activity_values",
                "descriptor_standard_errors",
                "activity_standard_errors",
            )
        )
        if len(x):
            axes.errorbar(x, y, y_error, x_error, fmt="o", markersize=4.5, color="#0072B2", ecolor="#8FBBD9")
        if row["reason"] is not None and not pd.isna(row["reason"]):
            axes.set_title("no correlation", fontsize=9, color="0.4")
            if not len(x):
                axes.text(0.5, 0.5, "no samples", transform=axes.transAxes, ha="center", color="0.5")
                axes.set_xticks([])
                axes.set_yticks([])
            continue
        ends = np.array([x.min(), x.max()])
        # Where x is mostly error the line is steep and says nothing: it must not push the points together.
        axes.set_ylim(axes.get_ylim())
        sure = row["slope_low"] > 0 or row["slope_high"] < 0
        look = {"color": _CURVE_COLOUR} if sure else {"color": "0.6", "linestyle": ":"}
        axes.plot(ends, row["intercept"] + row["slope"] * ends, linewidth=1.5, **look)
        r, low, high, p = (row[f"pearson{end}"] for end in ("", "_low", "_high", "_p_corrected"))
        axes.set_title(f"r = {r:.2f} ({low:.2f} … {high:.2f}), p = {p:.2g}", fontsize=9)
    conditions = rows["conditions"].iloc[0]
    if conditions:
        figure.suptitle(_literal(conditions[:100]), fontsize=10)
    return figure


def figure_svg(figure: Figure) -> bytes:
    """Encode a figure as SVG that says the same every time: letters are outlines, and no date is in it."""
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "tem_pipeline", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def figure_png(figure: Figure, dpi: int = 150) -> bytes:
    """Encode a figure as PNG.

    Parameters
    ----------
    figure : Figure
    dpi : int
        Pixels an inch.

    Returns
    -------
    bytes
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, bbox_inches="tight")
    return stream.getvalue()


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return None if value is None or pd.isna(value) else float(value)


def _literal(text: str) -> str:
    """Keep matplotlib from reading a text of a person's as mathematics."""
    return text.replace("$", r"\$")


def _png(picture: Image.Image, compress_level: int = 6) -> bytes:
    # `optimize` took 8 s for 2048 × 2048 px where level 3 takes 0.2 s; a quarter larger.
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=compress_level)
    return stream.getvalue()


@cache
def _palette(levels: int) -> Image.Image:
    """Grey levels and the outlines' colours, which few pixels have and a palette by frequency would drop."""
    colours = [(grey, grey, grey) for grey in np.linspace(0, 255, levels).astype(int).tolist()]
    colours += [_bytes(colour) for colour in (COUNTED_COLOUR, EDGE_COLOUR, SHELL_COLOUR)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in colours for part in colour])
    return palette


def _bytes(colour: str) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    return red, green, blue


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize to float32; large images are averaged in strips first, so that no full copy of them is made."""
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
    enlarged = height > image.shape[0]
    method = Image.Resampling.BICUBIC if enlarged else Image.Resampling.BOX
    return np.asarray(source.resize((width, height), method))


def _stretch(image: np.ndarray) -> np.ndarray:
    """Spread the intensities between the 0.5 and 99.5 percentiles over 0 … 255."""
    low, high = np.percentile(image, (0.5, 99.5))
    if high <= low:
        return np.full(image.shape, 128, dtype=np.uint8)
    return (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _frame_labels(labels: np.ndarray) -> np.ndarray:
    frame = np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1]))
    found = np.unique(frame)
    return found[found > 0].astype(np.int64)


def _rim(labels: np.ndarray, thickness: int) -> np.ndarray:
    """Pixels of particles that lie within `thickness` of another label."""
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


def _compare(real: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    picture = np.zeros((*real.shape, 3))
    picture[real & predicted] = 1
    picture[real & ~predicted] = to_rgb(_MISSED_COLOUR)
    picture[~real & predicted] = to_rgb(_FALSE_COLOUR)
    return picture


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _scale_bar_nm(width_px: int, pixel_size_nm: float) -> float:
    """Find the longest of 1, 2, 5 times a power of ten nm that takes at most a quarter of the width."""
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
    """Add a white strip with the outlines' meaning below the picture, in as many lines as it takes."""
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
