"""The card of an exported model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.models import CARD_FILE, read_card, write_card
from tem_pipeline_tests.segmentation.networks import CARD


def test_a_card_is_read_as_it_was_written(tmp_path: Path):
    for card in (
        CARD,
        replace(CARD, pixel_size_nm=(0.1, 0.2), scales=(1.0, 0.5), core_threshold=0.4, diameters_px=(20, 90)),
    ):
        write_card(tmp_path, card)
        assert read_card(tmp_path) == card


def test_a_card_without_a_diameter_error_can_be_read(tmp_path: Path):
    write_card(tmp_path, replace(CARD, diameter_error=0.01))
    assert read_card(tmp_path).diameter_error == 0.01
    content = json.loads((tmp_path / CARD_FILE).read_text())
    del content["diameter_error"]
    (tmp_path / CARD_FILE).write_text(json.dumps(content))
    assert read_card(tmp_path).diameter_error is None


def test_a_card_of_a_later_version_with_more_fields_can_be_read(tmp_path: Path):
    write_card(tmp_path, CARD)
    content = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps({**content, "later": 1}))
    assert read_card(tmp_path) == CARD


@pytest.mark.parametrize(
    "wrong",
    [
        {"scales": ()},
        {"scales": (0.0,)},
        {"core_threshold": 1.5},
        {"pixel_size_nm": (0.2, 0.1)},
        {"diameters_px": (0, 9)},
    ],
)
def test_a_card_with_impossible_values_is_refused_in_one_line(tmp_path: Path, wrong: dict):
    write_card(tmp_path, replace(CARD, **wrong))
    with pytest.raises(UserError, match="not a model card"):
        read_card(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"classes": 3}', '{"name": "x"}', "\x00"])
def test_a_file_that_is_not_a_card_is_refused_in_one_line(tmp_path: Path, text: str):
    (tmp_path / CARD_FILE).write_text(text)
    with pytest.raises(UserError, match="not a model card"):
        read_card(tmp_path)


def test_a_card_cannot_name_weights_outside_its_folder(tmp_path: Path):
    write_card(tmp_path, replace(CARD, weights="../../elsewhere"))
    with pytest.raises(UserError, match="not a model card"):
        read_card(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds no model"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", 3),
        ("name", "a\nb"),
        ("version", {"a": 1}),
        ("base_width", -1),
        ("base_width", 10**12),
        ("classes", "core"),
        ("classes", ["core", "core"]),
        ("scales", [float("nan")]),
        ("scales", [float("inf")]),
        ("scales", [1e9]),
        ("scales", [1.0] * 100),
        ("pixel_size_nm", [0.1]),
        ("pixel_size_nm", [0.1, 1e300]),
        ("diameter_error", float("nan")),
        ("diameter_error", -1),
        ("core_threshold", "0.5"),
        ("weights", ".."),
        ("weights", "a/../../b"),
        ("weights", "/etc"),
        ("weights", ""),
        ("training_images", 7),
        ("validation_scores", {"dice": "high"}),
    ],
)
def test_a_hostile_card_is_refused_in_one_line(tmp_path: Path, name: str, value: object):
    write_card(tmp_path, CARD)
    content = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps({**content, name: value}))
    with pytest.raises(UserError, match="not a model card"):
        read_card(tmp_path)


def test_a_deeply_nested_card_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / CARD_FILE).write_text("[" * 200_000)
    with pytest.raises(UserError, match="not a model card"):
        read_card(tmp_path)
