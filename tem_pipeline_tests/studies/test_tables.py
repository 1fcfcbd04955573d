from typing import Any

import numpy as np
import pytest
from scipy import stats

from studies.__main__ import DOCS, PAGE
from studies.tables import (
    CLAIMS,
    MEASURES,
    PAPER,
    SECTIONS,
    losses_figure,
    mean_and_half_width,
    replace_section,
    verdict,
)
from studies.trainings import CLASSICAL, REAL, SIMULATED, _mask_text
from tem_pipeline.tables import LOSSES
from tem_pipeline_tests.studies.discs import discs_set


def row(data: str, loss: str, dice: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    test: dict[str, Any] = dict.fromkeys(MEASURES, dice) | {"diameter_error": 0.01}
    test["intervals"] = {name: [value - 0.005, value + 0.005] for name, value in test.items()}
    return {
        "data": data,
        "loss": loss,
        "seed": seed,
        "network": "ds_unet",
        "protocol": "split_then_augment",
        "core_share": 0.088,
        "training_images": 15,
        "images_on_both_sides": 0,
        "test_images": ["a", "b"],
        "test_sources": 2,
        "seconds": 30.0,
        "reported": {"accuracy": dice, "mean_iou": dice, "dice": dice},
        "held_out_crops": {"dice": dice, "mean_iou": dice},
        "test": test,
    } | more


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"date": "2026-11-25", "machine": {"cores": "2"}, "rows": rows}


def losses_rows(better: float) -> list[dict[str, Any]]:
    """Make rows in which the IoU and Dice losses differ from the cross entropies, similarly for each seed."""
    return [
        row(data, loss, 0.9 + 0.01 * seed + (better if loss in ("iou", "dice") else 0) + 1e-4 * seed**2, seed)
        for data in (SIMULATED, REAL)
        for seed in (0, 1, 2)
        for loss in (*LOSSES, "none")
    ]


def test_the_interval_of_the_mean_is_a_t_interval():
    values = [0.95, 0.96, 0.955]
    mean, half = mean_and_half_width(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert np.isnan(mean_and_half_width([0.9])[1])
    assert mean_and_half_width([0.9, 0.9]) == (pytest.approx(0.9), 0)


@pytest.mark.parametrize(
    ("difference", "found"),
    [
        ((0.02, 0.01), "agrees"),
        ((-0.02, 0.01), "contradicts"),
        ((0.005, 0.01), "not decided"),
        ((0.02, float("nan")), "not decided"),
    ],
)
def test_a_finding_is_decided_if_the_whole_interval_is_on_one_side(difference, found):
    assert verdict(difference, 0, np.inf) == found


def test_the_papers_numbers_agree_with_its_findings():
    assert any(claim.measure not in PAPER[claim.one] for claim in CLAIMS)
    for claim in CLAIMS:
        if claim.measure in PAPER[claim.one]:
            difference = PAPER[claim.one][claim.measure] - PAPER[claim.other][claim.measure]
            assert claim.low < difference < claim.high


@pytest.mark.parametrize(("better", "kind"), [(0.03, "agrees"), (-0.03, "contradicts")])
def test_the_sentences_on_losses_follow_from_the_rows(better: float, kind: str):
    text = SECTIONS["losses"](result(losses_rows(better)))
    line = next(
        line for line in text.splitlines() if line.startswith("| Dice: Dice loss above cross entropy")
    )
    assert line.count(f"{better:+.4f} ± 0.0000: {kind}") == 2
    assert "+0.0298" in line
    # The two cross entropies are equal in these rows, so nothing is claimed about them.
    equal = next(line for line in text.splitlines() if "weighted above plain" in line)
    assert equal.count("+0.0000 ± 0.0000: not decided") == 2
    assert "0.9000, 0.9101, 0.9204" in text
    assert "Otsu" in text


def test_losses_without_a_matched_core_have_no_diameter_error():
    rows = losses_rows(0.03)
    rows[0]["test"]["diameter_error"] = None
    text = SECTIONS["losses"](result(rows))
    assert "| – |" in next(line for line in text.splitlines() if line.startswith("| cross entropy |"))


def test_a_reported_score_is_compared_with_the_same_kind_of_crops():
    rows = [
        row(REAL, "dice", 0.97, seed, protocol=protocol)
        | {"images_on_both_sides": 16 if protocol == "augment_then_split" else 0}
        | {"held_out_crops": {"dice": crops + 1e-4 * seed, "mean_iou": 0.97}}
        for seed in (0, 1, 2)
        for protocol, crops in (("split_then_augment", 0.5), ("augment_then_split", 0.95))
    ]
    text = SECTIONS["protocol"](result(rows))
    assert "Dice: reported too high by +0.0199 ± 0.0002." in text
    assert "mean IoU: not proven to be reported too high (+0.0000 ± 0.0000)." in text
    assert "16 of 15 images are on both sides" in text
    ours = next(
        line for line in text.splitlines() if line.startswith("| split by source, then augment | Dice")
    )
    assert ours.endswith("| +0.0000 ± 0.0000 |")


def test_the_networks_are_compared_loss_by_loss():
    rows = [
        row(REAL, loss, dice + 0.01 * number, network=network)
        for number, loss in enumerate(LOSSES)
        for network, dice in (("ds_unet", 0.95), ("unet", 0.94))
    ]
    timed = {
        "ds_unet": {"parameters": 1000, "parameters_as_published": 6000},
        "unet": {"parameters": 4000, "parameters_as_published": 34000},
    }
    for number, network in enumerate(timed.values()):
        network |= {"step_seconds": [0.1 + 0.3 * number] * 3, "image_seconds": [0.2 + 0.2 * number] * 3}
    profile = {"base_width": 16, "batch": 8, "crop_px": 128}
    timing = {"networks": timed, "profile": profile, "seconds": 60}
    text = SECTIONS["networks"](result([*rows, timing]))
    assert "| parameters, base width 16 | 1,000 | 4,000 | 25 % |" in text
    assert "| parameters, the paper | 5,982,210 | 34,894,178 | 17 % |" in text
    assert "0.100 | 0.400 | 25 %" in text
    assert "| Dice | 0.9650 | 0.9550 | +0.0100 ± 0.0000 |" in text


def test_the_standard_goals_are_compared_with_values_and_intervals():
    rows = [row(REAL, loss, dice) for loss, dice in zip(LOSSES, (0.985, 0.985, 0.975, 0.865), strict=True)]
    # A goal is a list item of two lines.
    lines = SECTIONS["standard"](result(rows)).replace("\n  ", " ").splitlines()
    (dice,) = [line for line in lines if line.startswith("- Dice")]
    assert dice.startswith("- Dice of at least 0.98: cross entropy, weighted cross entropy.")
    assert dice.endswith("0.8692: cross entropy, weighted cross entropy, IoU.")
    (iou,) = [line for line in lines if line.startswith("- mean IoU")]
    assert "of at least 0.97: cross entropy, weighted cross entropy, IoU." in iou


def test_replacing_a_section_keeps_the_rest_of_the_page():
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n"
    once = replace_section(page, "x", "\nnew\n")
    assert once == page.replace("old", "new")
    assert replace_section(once, "x", "new") == once
    for broken in ("", "<!-- x -->", "<!-- /x --> <!-- x -->", page + page):
        with pytest.raises(ValueError, match="once each"):
            replace_section(broken, "x", "new")


def test_the_page_has_a_place_for_every_part_and_the_papers_table():
    page = (DOCS / PAGE).read_text(encoding="utf-8")
    for part in SECTIONS:
        assert replace_section(page, part, "new") != page
    for scores in PAPER.values():
        assert " | ".join(f"{value:.4f}" for value in scores.values()) in page


def test_the_figure_shows_the_first_test_image_of_either_set():
    data = {SIMULATED: discs_set(3), REAL: discs_set(4)}
    mask = _mask_text(data[REAL].images[0].class_map > 0)
    rows = [
        row(name, loss, 0.9, test_images=["image_01"], first_test_mask=mask, network=CLASSICAL)
        for name in data
        for loss in LOSSES
    ]
    assert losses_figure(rows, data).startswith(b"\x89PNG")
