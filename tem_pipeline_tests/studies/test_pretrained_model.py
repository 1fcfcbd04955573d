"""Centres in boxes are counted once each; the page says what was measured."""

import numpy as np
import pandas as pd

from studies.pretrained_model import match_centres, pooled_f1, pretrained_section

BOXES = np.array([[0.0, 0, 10, 10], [5, 5, 15, 15], [100, 100, 110, 110]])


def test_each_centre_and_each_box_is_matched_at_most_once():
    assert match_centres(np.array([[7.0, 7]]), BOXES) == 1
    assert match_centres(np.array([[7.0, 7], [7, 8], [7, 6]]), BOXES) == 2
    assert match_centres(np.array([[50.0, 50]]), BOXES) == 0
    assert match_centres(np.zeros((0, 2)), BOXES) == 0


def test_a_centre_in_two_boxes_is_matched_so_that_most_boxes_are():
    assert match_centres(np.array([[7.0, 7], [2, 2]]), BOXES[:2]) == 2


def test_f1_pools_boxes_over_images():
    rows = pd.DataFrame({"matched": [10, 0], "found": [10, 5], "boxes": [10, 5]})
    found = pooled_f1(rows)
    assert found["f1"] == 20 / 30
    assert found["low"] <= found["f1"] <= found["high"]


def test_the_page_shows_every_image_and_condition():
    scores = {"accuracy": 0.9, "mean_iou": 0.8, "dice": 0.95}
    row = {
        "name": "Pt1",
        "mode": "haadf",
        "boxes": 9,
        "found": 8,
        "precision": 0.5,
        "recall": 0.4,
        "f1": 0.45,
    }
    condition = {"pixel_size_nm": 0.1, "dose": 250, "mode": "haadf", "dice_core": 0.9, "dice_shell": 0.99}
    result = {
        "rows": [
            {"scores": {**scores, "intervals": dict.fromkeys(scores, (0.7, 0.99)), "images": 20}},
            {
                "rows": [row],
                "pooled": {"all": {"f1": 0.77, "low": 0.7, "high": 0.8, "images": 16}},
                "pooled_with_flips": {"all": {"f1": 0.78, "low": 0.71, "high": 0.81, "images": 16}},
            },
            {"rows": [{**condition, "diameter_error": -0.011}]},
        ]
    }
    page = pretrained_section(result)
    assert "0.950 (0.700 … 0.990)" in page
    assert "| all, 16 images | 0.770 (0.700 … 0.800) | 0.780 (0.710 … 0.810) |" in page
    assert "| Pt1 | haadf | 9 | 8 | 0.50 | 0.40 | 0.45 |" in page
    assert "| 0.10 | 250 | haadf | 0.900 | 0.990 | -1.1 % |" in page
