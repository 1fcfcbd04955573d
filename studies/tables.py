"""Turns the rows of the study into the tables, the sentences and the figure of docs/loss-study.md.

Text between the page's markers is computed from the rows; the rest of the page is written by hand.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from studies.trainings import REAL, SIMULATED
from tem_pipeline.annotation.datasets import AnnotatedSet
from tem_pipeline.annotation.pixels import decode_class_map
from tem_pipeline.reports.figures import figure_png, loss_comparison_figure
from tem_pipeline.tables import LOSSES

Rows = list[dict[str, Any]]

# Table 1 of Liu et al. 2021.
PAPER = {
    "cross_entropy": {"accuracy": 0.9718, "mean_iou": 0.8435, "dice": 0.8394},
    "weighted_cross_entropy": {"accuracy": 0.9755, "mean_iou": 0.8558, "dice": 0.8602},
    "iou": {"accuracy": 0.9765, "mean_iou": 0.8599, "dice": 0.8608},
    "dice": {"accuracy": 0.9761, "mean_iou": 0.8650, "dice": 0.8692},
}
PAPER_PARAMETERS = {"ds_unet": 5_982_210, "unet": 34_894_178}
STANDARD_GOAL = {"dice": 0.98, "mean_iou": 0.97}

TITLES = {SIMULATED: "Simulated core–shell micrographs", REAL: "Real bright-field particles"}
NAMES = {
    "cross_entropy": "cross entropy",
    "weighted_cross_entropy": "weighted cross entropy",
    "iou": "IoU",
    "dice": "Dice",
    "none": "Gaussian filter and Otsu's threshold, no network",
    "ds_unet": "DS-U-Net",
    "unet": "U-Net",
    "split_then_augment": "split by source, then augment",
    "augment_then_split": "augment, then split (the paper's)",
}
MEASURES = {
    "accuracy": "accuracy",
    "mean_iou": "mean IoU",
    "dice": "Dice",
    "boundary_f": "boundary F",
    "instance_f1": "instance F1",
    "diameter_error": "diameter error",
}

FIGURE = "loss_study.png"
FIGURE_4 = f"""![Image, truth, and the masks of the four losses]({FIGURE})

*As in the paper's figure 4: the first test image by name of each set, first seed.
Blue is missed, orange is false.*"""


@dataclass(frozen=True)
class Claim:
    """A finding of the paper: the difference of two losses' scores is between two bounds."""

    text: str
    measure: str
    one: str
    other: str
    low: float = 0.0
    high: float = np.inf


CLAIMS = (
    Claim("Dice: Dice loss above cross entropy", "dice", "dice", "cross_entropy"),
    Claim("Dice: IoU loss above cross entropy", "dice", "iou", "cross_entropy"),
    Claim("Dice: weighted above plain cross entropy", "dice", "weighted_cross_entropy", "cross_entropy"),
    Claim("Dice: Dice loss above weighted cross entropy", "dice", "dice", "weighted_cross_entropy"),
    Claim("Dice: Dice and IoU loss less than 0.01 apart", "dice", "dice", "iou", -0.01, 0.01),
    Claim("mean IoU: Dice loss above cross entropy", "mean_iou", "dice", "cross_entropy"),
    Claim("mean IoU: IoU loss above cross entropy", "mean_iou", "iou", "cross_entropy"),
    Claim("boundary F: Dice loss above cross entropy", "boundary_f", "dice", "cross_entropy"),
)


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Give the mean of repeated trainings and half the width of its 95 % t-interval; NaN for a single one.

    Parameters
    ----------
    values : sequence of float
        One per seed.
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return float(array.mean()), float("nan")
    error = array.std(ddof=1) / np.sqrt(len(array))
    return float(array.mean()), float(stats.t.ppf(0.975, len(array) - 1) * error)


def verdict(difference: tuple[float, float], low: float, high: float) -> str:
    """Compare a difference (mean and half width) with the bounds of a claim."""
    ends = difference[0] - difference[1], difference[0] + difference[1]
    if low < ends[0] and ends[1] < high:
        return "agrees"
    if ends[1] < low or high < ends[0]:
        return "contradicts"
    return "not decided"


def replace_section(page: str, name: str, content: str) -> str:
    """Put content between a page's markers ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises
    ------
    ValueError
        If the page doesn't have both markers, once each and in this order.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if page.count(start) != 1 or page.count(end) != 1 or page.index(start) > page.index(end):
        raise ValueError(f"the page must hold {start} and {end}, once each and in this order")
    before, rest = page.split(start)
    return f"{before}{start}\n{content.strip()}\n{end}{rest.split(end)[1]}"


def losses_section(result: dict[str, Any]) -> str:
    """Give the tables of the four losses on both sets, and a comparison with the paper's findings."""
    rows = result["rows"]
    lines = []
    for data in _ordered(rows, "data"):
        table = []
        for loss in [*LOSSES, "none"]:
            of_loss = [row for row in rows if (row["data"], row["loss"]) == (data, loss)]
            each = ", ".join(f"{row['test']['dice']:.4f}" for row in of_loss)
            table.append([NAMES[loss], *(_repeated(of_loss, measure) for measure in MEASURES), each])
        lines += [f"### {TITLES[data]}", ""]
        lines += markdown_table(["loss", *MEASURES.values(), "Dice of each seed"], table)
        lines += ["", _about([row for row in rows if row["data"] == data]), ""]
    compared, verdicts = [], []
    for claim in CLAIMS:
        cells = [claim.text, _published(claim)]
        for data in _ordered(rows, "data"):
            difference = mean_and_half_width(_differences(rows, data, claim))
            verdicts.append(verdict(difference, claim.low, claim.high))
            cells.append(f"{_signed(difference)}: {verdicts[-1]}")
        compared.append(cells)
    lines += ["### Which of the paper's findings appear here", ""]
    lines += markdown_table(
        ["finding", "the paper", *(TITLES[data].lower() for data in _ordered(rows, "data"))], compared
    )
    kinds = ("agrees", "contradicts", "not decided")
    counted = ", ".join(f"{kind} {verdicts.count(kind)}" for kind in kinds)
    lines += ["", f"Of {len(verdicts)} comparisons: {counted}.", "", FIGURE_4, "", _footer(result)]
    return "\n".join(lines)


def networks_section(result: dict[str, Any]) -> str:
    """Give the tables of size, time and quality of both networks."""
    timed = next(row for row in result["rows"] if "networks" in row)
    rows = [row for row in result["rows"] if "networks" not in row]
    profile = timed["profile"]

    def line(title: str, form: str, small: float, large: float) -> list[str]:
        return [title, format(small, form), format(large, form), f"{100 * small / large:.0f} %"]

    def of_both(name: str) -> list[float]:
        return [float(np.median(timed["networks"][network][name])) for network in PAPER_PARAMETERS]

    step = f"training step of {profile['batch']} crops of {profile['crop_px']} px (s)"
    lines = markdown_table(
        ["", "DS-U-Net", "U-Net", "DS-U-Net / U-Net"],
        [
            line(f"parameters, base width {profile['base_width']}", ",.0f", *of_both("parameters")),
            line("parameters, base width 64", ",.0f", *of_both("parameters_as_published")),
            line("parameters, the paper", ",", *PAPER_PARAMETERS.values()),
            line(step, ".3f", *of_both("step_seconds")),
            line("one image of 512 × 512 px, OpenVINO (s)", ".3f", *of_both("image_seconds")),
        ],
    )
    for data in _ordered(rows, "data"):
        table = []
        for measure, title in MEASURES.items():
            small, large = (
                [row["test"][measure] for row in rows if (row["data"], row["network"]) == (data, network)]
                for network in PAPER_PARAMETERS
            )
            if None in small or None in large:
                table.append([title, "–", "–", "–"])
                continue
            percent = measure == "diameter_error"
            difference = mean_and_half_width([a - b for a, b in zip(small, large, strict=True)])
            means = [_value(float(np.mean(values)), percent) for values in (small, large)]
            table.append([title, *means, _signed(difference, percent)])
        lines += ["", f"### {TITLES[data]}", ""]
        lines += markdown_table(["mean of the four losses", "DS-U-Net", "U-Net", "difference"], table)
    return "\n".join([*lines, "", _footer(result)])


def protocol_section(result: dict[str, Any]) -> str:
    """Give the scores that each protocol reports, and those of the same networks on held-out sources."""
    rows = result["rows"]
    lines = []
    for data in _ordered(rows, "data"):
        table, sentences = [], []
        for measure, title in (("dice", "Dice"), ("mean_iou", "mean IoU")):
            for protocol in _ordered(rows, "protocol"):
                of = [row for row in rows if (row["data"], row["protocol"]) == (data, protocol)]
                reported = [row["reported"][measure] for row in of]
                crops = [row["held_out_crops"][measure] for row in of]
                whole = [row["test"][measure] for row in of]
                cells = [_plus_minus(mean_and_half_width(values)) for values in (reported, crops, whole)]
                # Crops are compared with crops, and whole images with whole images.
                alike = crops if protocol == "augment_then_split" else whole
                excess = mean_and_half_width([a - b for a, b in zip(reported, alike, strict=True)])
                table.append([NAMES[protocol], title, *cells, _signed(excess)])
                if protocol == "augment_then_split":
                    sentences.append(f"{title}: {_excess(excess)}.")
        mixed = [row for row in rows if (row["data"], row["protocol"]) == (data, "augment_then_split")]
        sides = " or ".join(
            sorted({f"{row['images_on_both_sides']} of {row['training_images']}" for row in mixed})
        )
        columns = ["protocol", "", "reported", "held-out crops", "held-out images", "reported too high by"]
        lines += [f"### {TITLES[data]}", "", *markdown_table(columns, table), ""]
        lines += [f"If augmented first, {sides} images are on both sides.", *sentences, ""]
    return "\n".join([*lines, _footer(result)])


def standard_section(result: dict[str, Any]) -> str:
    """Give the scores of the four losses with the standard profile, and whether they reach their goals."""
    rows = result["rows"]
    best = {measure: max(scores[measure] for scores in PAPER.values()) for measure in STANDARD_GOAL}
    table = [[NAMES[row["loss"]], *(_with_interval(row["test"], name) for name in MEASURES)] for row in rows]
    lines = [*markdown_table(["loss", *MEASURES.values()], table), "", _about(rows), ""]
    for measure, goal in STANDARD_GOAL.items():
        tests = {NAMES[row["loss"]]: row["test"] for row in rows}
        lows = {name: test["intervals"][measure][0] for name, test in tests.items()}
        reached = [name for name, test in tests.items() if test[measure] >= goal]
        above = [name for name, low in lows.items() if low is not None and low > best[measure]]
        lines.append(
            f"- {MEASURES[measure]} of at least {goal:.2f}: {_who(reached, rows)}.\n"
            f"  With the whole interval above the paper's best, {best[measure]:.4f}: {_who(above, rows)}."
        )
    return "\n".join([*lines, "", _footer(result)])


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "losses": losses_section,
    "networks": networks_section,
    "protocol": protocol_section,
    "standard": standard_section,
}


def losses_figure(rows: Rows, data: dict[str, AnnotatedSet]) -> bytes:
    """Draw the paper's figure 4: one test image of each set with the masks of all losses, for the first seed.

    The image is the first one by name, so it is not hand-picked.
    """
    images, truths = [], []
    masks: dict[str, list[np.ndarray]] = {loss: [] for loss in LOSSES}
    for name, annotated in data.items():
        of_data = [row for row in rows if row["data"] == name]
        first = {row["loss"]: row for row in of_data if row["seed"] == of_data[0]["seed"]}
        shown = next(i for i in annotated.images if i.name == first["dice"]["test_images"][0])
        images.append(shown.image)
        truths.append(shown.class_map)
        for loss in LOSSES:
            masks[loss].append(decode_class_map(base64.b64decode(first[loss]["first_test_mask"])))
    return figure_png(loss_comparison_figure(images, truths, masks), dpi=110)


def _ordered(rows: Rows, name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


def _differences(rows: Rows, data: str, claim: Claim) -> list[float]:
    """Give the difference of the two losses' scores for each seed."""
    of_data = [row for row in rows if row["data"] == data]
    of = {(row["loss"], row["seed"]): row["test"][claim.measure] for row in of_data}
    return [of[claim.one, seed] - of[claim.other, seed] for seed in _ordered(of_data, "seed")]


def _published(claim: Claim) -> str:
    if claim.measure not in PAPER[claim.one]:
        return "by eye"
    return f"{PAPER[claim.one][claim.measure] - PAPER[claim.other][claim.measure]:+.4f}"


def _repeated(rows: Rows, measure: str) -> str:
    values = [row["test"][measure] for row in rows]
    if any(value is None for value in values):
        return "–"
    found = mean_and_half_width(values)
    return _signed(found, percent=True) if measure == "diameter_error" else _plus_minus(found)


def _with_interval(test: dict[str, Any], measure: str) -> str:
    percent = measure == "diameter_error"
    low, high = test["intervals"][measure]
    if test[measure] is None:
        return "–"
    value = _value(test[measure], percent)
    return value if low is None else f"{value} ({_value(low, percent)} … {_value(high, percent)})"


def _value(value: float, percent: bool) -> str:
    return f"{100 * value:+.1f} %" if percent else f"{value:.4f}"


def _plus_minus(found: tuple[float, float]) -> str:
    return f"{found[0]:.4f}" if np.isnan(found[1]) else f"{found[0]:.4f} ± {found[1]:.4f}"


def _signed(found: tuple[float, float], percent: bool = False) -> str:
    if percent:
        return f"{100 * found[0]:+.1f} ± {100 * found[1]:.1f} %"
    return f"{found[0]:+.4f} ± {found[1]:.4f}"


def _excess(found: tuple[float, float]) -> str:
    kind = verdict(found, 0, np.inf)
    if kind == "agrees":
        return f"reported too high by {_signed(found)}"
    if kind == "contradicts":
        return f"not reported too high ({_signed(found)})"
    return f"not proven to be reported too high ({_signed(found)})"


def _who(names: list[str], rows: Rows) -> str:
    return "all losses" if len(names) == len(rows) else ", ".join(names) or "none"


def _about(rows: Rows) -> str:
    """Describe a set: area of its cores, numbers of training and test images."""

    def counted(numbers: set[int], what: str) -> str:
        return f"{' or '.join(map(str, sorted(numbers)))} {what}"

    return (
        f"Cores cover {100 * rows[0]['core_share']:.1f} % of the pixels.\nEach seed has "
        f"{counted({row['training_images'] for row in rows}, 'training images')} and "
        f"{counted({len(row['test_images']) for row in rows}, 'test images')} of "
        f"{counted({row['test_sources'] for row in rows}, 'sources')}."
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Give the lines of a Markdown table; all columns except the first are right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _footer(result: dict[str, Any]) -> str:
    about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    minutes = sum(row["seconds"] for row in result["rows"]) / 60
    return f"{result['date']}; {minutes:.0f} min of trainings; {about}."
