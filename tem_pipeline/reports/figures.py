"""Draws what people check by eye: size histograms, fields, correlations, the masks of the losses.

Figures are matplotlib `Figure` objects without global state; the caller stores or shows them. Outlines on a
micrograph are drawn in `overlays`.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import scipy
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tem_pipeline.reports.overlays import stretch

# Okabe and Ito's palette.
_BAR_COLOUR, _CURVE_COLOUR = "#56B4E9", "#D55E00"
_MISSED_COLOUR, _FALSE_COLOUR = "#0072B2", "#E69F00"
_LOSS_NAMES = {"iou": "IoU", "dice": "Dice"}


def loss_comparison_figure(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions_by_loss: Mapping[str, Sequence[np.ndarray]],
) -> Figure:
    """Draw the masks of each loss next to image and truth, as in figure 4 of Liu et al. 2021.

    Parameters
    ----------
    images : sequence of ndarray, (height, width)
    truths : sequence of ndarray, (height, width)
        Everything except 0 is foreground.
    predictions_by_loss : mapping from loss to sequence of ndarray, (height, width)
        One mask per image, in the order of `images`.

    Returns
    -------
    Figure
        One row per image. Correct foreground is white, missed blue, false orange. Each mask's Dice is below
        it.
    """
    names = (_LOSS_NAMES.get(loss, loss.replace("_", " ")) for loss in predictions_by_loss)
    titles = ["image", "truth", *names]
    n_rows = len(images)
    figure = Figure(figsize=(2.05 * len(titles), 2.25 * n_rows + 0.4), layout="constrained")
    grid = figure.subplots(n_rows, len(titles), squeeze=False)
    for i, (image, truth) in enumerate(zip(images, truths, strict=True)):
        grid[i, 0].imshow(stretch(np.asarray(image, dtype=np.float32)), cmap="gray", vmin=0, vmax=255)
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
        Patch(facecolor="white", edgecolor="0.4", label="correct"),
        Patch(facecolor=_MISSED_COLOUR, label="missed"),
        Patch(facecolor=_FALSE_COLOUR, label="false"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def distribution_figure(row: Mapping[str, Any]) -> Figure:
    """Draw one row of `size_distributions`: histogram, both fits and the interval of the median.

    The histograms of diameter and of perimeter are figure 5 of Liu et al. 2021.

    Parameters
    ----------
    row : mapping
        Of `SIZE_DISTRIBUTION_SCHEMA`; null values aren't drawn.

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
    """Draw the mean size of each field, with the session's mean and its interval.

    Parameters
    ----------
    fields : DataFrame
        One row per field with counted particles, in the order to draw: mean, standard_error (NaN for a
        single particle).
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
        Rows of `STRUCTURE_ACTIVITY_SCHEMA` of one activity; those without correlation show their samples
        only. A line is dotted unless the corrected p value of Pearson's correlation is below 0.05.

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
            for name, *place in zip(row["sample_ids"], x, y, strict=True):
                label = name if len(name) <= 16 else name[:15] + "…"
                axes.annotate(
                    _literal(label), place, (4, 3), textcoords="offset points", fontsize=6.5, color="0.35"
                )
        if row["reason"] is not None and not pd.isna(row["reason"]):
            axes.set_title("no correlation", fontsize=9, color="0.4")
            if not len(x):
                axes.text(0.5, 0.5, "no samples", transform=axes.transAxes, ha="center", color="0.5")
                axes.set_xticks([])
                axes.set_yticks([])
            continue
        ends = np.array([x.min(), x.max()])
        # A line through points with large errors of x can be very steep: it must not squeeze the points.
        axes.set_ylim(axes.get_ylim())
        sure = row["pearson_p_corrected"] < 0.05
        look = {"color": _CURVE_COLOUR} if sure else {"color": "0.6", "linestyle": ":"}
        axes.plot(ends, row["intercept"] + row["slope"] * ends, linewidth=1.5, **look)
        r, low, high, p, corrected = (
            row[f"pearson{end}"] for end in ("", "_low", "_high", "_p", "_p_corrected")
        )
        # The interval is of this correlation alone: the uncorrected p value belongs to it.
        contradiction = (low > 0 or high < 0) != (p < 0.05)
        axes.set_title(
            f"r = {r:.2f} ({low:.2f} … {high:.2f}), p = {p:.2g}, n = {len(x)}\n"
            f"p = {corrected:.2g} corrected for {row['n_tests']} tests"
            + ("; interval and p disagree: undecided" if contradiction else ""),
            fontsize=8,
        )
    handles = [
        Line2D([], [], color="#0072B2", marker="o", linestyle="", label="sample, with its standard errors"),
        Line2D([], [], color=_CURVE_COLOUR, label="fitted line, corrected p < 0.05"),
        Line2D([], [], color="0.6", linestyle=":", label="fitted line, no significant correlation"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    conditions = rows["conditions"].iloc[0]
    if conditions:
        figure.suptitle(_literal(conditions[:100]), fontsize=10)
    return figure


def figure_svg(figure: Figure) -> bytes:
    """Encode a figure as reproducible SVG: no date, and text as outlines so that no font is needed."""
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
        Pixels per inch.

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
    """Escape text so that matplotlib doesn't read it as mathematics."""
    return text.replace("$", r"\$")


def _compare(real: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    picture = np.zeros((*real.shape, 3))
    picture[real & predicted] = 1
    picture[real & ~predicted] = to_rgb(_MISSED_COLOUR)
    picture[~real & predicted] = to_rgb(_FALSE_COLOUR)
    return picture
