from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tem_pipeline.training.metrics import (
    SCORES,
    bootstrap_intervals,
    boundary_counts,
    confusion_counts,
    instance_counts,
    match_instances,
    pooled_boundary_f,
    pooled_instance_f1,
    scores,
)

masks = array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)
counts = st.tuples(*[st.integers(0, 10**7)] * 4)


def test_counts_and_scores_by_hand():
    truth = np.array([[1, 1, 1, 0], [0, 0, 0, 0]])
    prediction = np.array([[1, 1, 0, 1], [0, 0, 0, 0]])
    tally = confusion_counts(truth, prediction)
    assert tally == (2, 1, 1, 4)
    result = scores(tally)
    assert result["accuracy"] == pytest.approx(6 / 8)
    assert result["iou"] == pytest.approx(2 / 4)
    assert result["mean_iou"] == pytest.approx((2 / 4 + 4 / 6) / 2)
    assert result["dice"] == pytest.approx(4 / 6)


def test_counts_of_images_are_pooled_before_the_scores_are_taken():
    pooled = scores([(10, 0, 0, 90), (1, 9, 0, 90)])
    assert pooled["dice"] == pytest.approx(22 / 31)  # the mean of the two images' Dice would be 0.59
    assert pooled == scores((11, 9, 0, 180))


def test_empty_truth_and_empty_prediction_score_1():
    empty = np.zeros((3, 3), bool)
    assert scores(confusion_counts(empty, empty)) == dict.fromkeys(SCORES, 1.0)
    assert scores(confusion_counts(~empty, ~empty)) == dict.fromkeys(SCORES, 1.0)


def test_an_empty_prediction_of_a_particle_scores_0():
    truth = np.eye(4, dtype=bool)
    assert scores(confusion_counts(truth, np.zeros_like(truth)))["dice"] == 0


def test_class_maps_and_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one class"):
        confusion_counts(np.array([[0, 2]]), np.array([[0, 1]]))
    with pytest.raises(ValueError, match="shape"):
        confusion_counts(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


@given(masks)
def test_counts_add_up_to_the_pixels(pair):
    assert sum(confusion_counts(*pair)) == pair[0].size


@given(counts)
def test_dice_follows_from_iou(tally):
    result = scores(tally)
    assert result["dice"] == pytest.approx(2 * result["iou"] / (1 + result["iou"]))


@given(masks)
def test_truth_and_prediction_may_be_exchanged(pair):
    truth, prediction = pair
    assert scores(confusion_counts(truth, prediction)) == scores(confusion_counts(prediction, truth))


@given(masks)
def test_exchanging_foreground_and_background_keeps_accuracy_and_mean_iou(pair):
    truth, prediction = pair
    one, other = scores(confusion_counts(truth, prediction)), scores(confusion_counts(~truth, ~prediction))
    assert one["accuracy"] == other["accuracy"]
    assert one["mean_iou"] == pytest.approx(other["mean_iou"])


@given(counts, st.integers(1, 5))
def test_repeating_every_image_changes_no_score(tally, times):
    assert scores([tally] * times) == pytest.approx(scores(tally))


@given(counts)
def test_scores_are_between_0_and_1_and_iou_is_at_most_dice(tally):
    result = scores(tally)
    assert all(0 <= value <= 1 for value in result.values())
    assert result["iou"] <= result["dice"] + 1e-12


def test_intervals_are_repeatable_and_contain_the_pooled_score():
    rng = np.random.default_rng(5)
    table = np.stack(
        [rng.integers(50, 100, 12), *rng.integers(0, 20, (2, 12)), rng.integers(500, 900, 12)], 1
    )
    first, again = bootstrap_intervals(table, seed=3), bootstrap_intervals(table, seed=3)
    assert first == again
    assert first != bootstrap_intervals(table, seed=4)
    for name, value in scores(table).items():
        low, high = first[name]
        assert low < value < high


def test_intervals_agree_with_resampling_written_out():
    table = np.array([(90, 5, 5, 900), (60, 20, 20, 900), (80, 10, 5, 905), (30, 2, 40, 928)])
    rng = np.random.default_rng(0)
    dice = [scores(table[rng.integers(0, 4, 4)])["dice"] for _ in range(4000)]
    low, high = bootstrap_intervals(table, n=4000)["dice"]
    np.testing.assert_allclose((low, high), np.quantile(dice, (0.025, 0.975)), atol=0.01)


def test_equal_sources_have_no_spread_and_one_source_has_no_interval():
    table = [(9, 1, 2, 50)] * 5
    assert bootstrap_intervals(table)["dice"] == pytest.approx((18 / 21, 18 / 21))
    assert np.isnan(bootstrap_intervals(table[:1])["dice"]).all()


def test_particles_are_paired_where_they_overlap_by_more_than_half():
    truth, found = np.zeros((10, 40), np.uint16), np.zeros((10, 40), np.uint16)
    truth[2:8, 2:8], found[2:8, 3:8] = 3, 1
    truth[2:8, 12:20], found[2:8, 12:16], found[2:8, 16:20] = 1, 2, 4
    truth[2:8, 30:36], found[2:8, 33:39] = 2, 5
    assert match_instances(truth, found).tolist() == [[3, 1]]
    assert match_instances(found, truth).tolist() == [[1, 3]]
    assert match_instances(truth, truth)[:, 0].tolist() == [1, 2, 3]
    assert match_instances(truth, np.zeros_like(found)).shape == (0, 2)


def test_label_images_of_different_shapes_are_not_matched():
    with pytest.raises(ValueError, match="differ in shape"):
        match_instances(np.zeros((5, 5), int), np.zeros((4, 4), int))


def disc(row: float, column: float, diameter: float, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    y, x = np.indices(shape)
    return np.hypot(y - row, x - column) <= diameter / 2


@given(masks, st.floats(0, 3))
def test_boundary_counts_follow_exchange_and_flips(pair, tolerance_px):
    truth, prediction = pair
    assert pooled_boundary_f(boundary_counts(truth, truth, tolerance_px)) == 1
    counts = boundary_counts(truth, prediction, tolerance_px)
    assert boundary_counts(prediction, truth, tolerance_px) == (counts[2], counts[3], counts[0], counts[1])
    for turned in (np.flipud, np.fliplr, np.transpose):
        assert boundary_counts(turned(truth), turned(prediction), tolerance_px) == counts
    wider = boundary_counts(truth, prediction, tolerance_px + 1)
    assert wider[0] >= counts[0]
    assert wider[2] >= counts[2]
    assert 0 <= pooled_boundary_f(counts) <= 1


def test_the_boundary_score_falls_with_shifts_beyond_the_tolerance():
    truth = disc(30, 30, 24)
    shifted = [
        pooled_boundary_f(boundary_counts(truth, np.roll(truth, shift, axis=1)))
        for shift in (0, 1, 2, 3, 5, 9)
    ]
    assert shifted[:3] == [1, 1, 1]
    assert all(near > far for near, far in pairwise(shifted[2:]))
    assert pooled_boundary_f(boundary_counts(truth, np.roll(truth, 5, axis=1), 5)) == 1
    assert pooled_boundary_f(boundary_counts(truth, disc(30, 30, 26))) == 1
    assert pooled_boundary_f(boundary_counts(truth, disc(30, 30, 32))) == 0


def test_the_boundary_score_by_hand():
    truth, found = np.zeros((9, 40), bool), np.zeros((9, 40), bool)
    truth[2:7, 2:7] = True  # 16 boundary pixels, all found
    found[2:7, 2:7] = True
    found[4:6, 30:34] = True  # 8 boundary pixels where nothing is
    counts = boundary_counts(truth, found)
    assert counts == (16, 8, 16, 0)
    precision, recall = 16 / 24, 1
    assert pooled_boundary_f(counts) == pytest.approx(2 * precision * recall / (precision + recall))
    assert pooled_boundary_f(2 * np.array(counts)) == pytest.approx(pooled_boundary_f(counts))


def test_the_image_edge_is_not_a_boundary_and_empty_masks_agree():
    everything, nothing = np.ones((5, 6), bool), np.zeros((5, 6), bool)
    assert boundary_counts(everything, nothing) == (0, 0, 0, 0)
    assert pooled_boundary_f((0, 0, 0, 0)) == 1
    half = everything.copy()
    half[:, 3:] = False
    assert boundary_counts(half, half) == (5, 0, 5, 0)
    assert (
        pooled_boundary_f(boundary_counts(half, nothing))
        == pooled_boundary_f(boundary_counts(nothing, half))
        == 0
    )


def test_boundaries_of_different_shapes_or_negative_tolerance_are_refused():
    with pytest.raises(ValueError, match="tolerance"):
        boundary_counts(np.zeros((2, 3), bool), np.zeros((2, 3), bool), -1)
    with pytest.raises(ValueError, match="truth"):
        boundary_counts(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def test_right_false_and_missed_particles_are_counted():
    truth, found = np.zeros((30, 60), np.int32), np.zeros((30, 60), np.int32)
    for number, column in ((1, 8), (2, 22), (5, 36)):  # numbers need not follow each other
        truth[disc(10, column, 10, truth.shape)] = number
    found[disc(10, 8, 10, truth.shape)] = 1
    found[disc(10, 23, 10, truth.shape)] = 2
    found[disc(10, 52, 10, truth.shape)] = 3
    assert instance_counts(truth, found) == (2, 1, 1)
    assert pooled_instance_f1((2, 1, 1)) == pytest.approx(2 / 3)
    assert pooled_instance_f1(instance_counts(truth, truth)) == 1
    assert pooled_instance_f1(np.add((2, 1, 1), (0, 0, 2))) == pytest.approx(4 / 8)


def test_two_particles_found_as_one_are_missed_and_one_is_false():
    truth = np.zeros((30, 40), np.int32)
    truth[disc(10, 10, 12, truth.shape)], truth[disc(10, 23, 12, truth.shape)] = 1, 2
    merged = (truth > 0).astype(np.int32)
    assert instance_counts(truth, merged) == (0, 1, 2)
    nothing = np.zeros_like(truth)
    assert pooled_instance_f1(instance_counts(nothing, nothing)) == 1
    assert pooled_instance_f1(instance_counts(truth, nothing)) == 0


def test_intervals_leave_out_resamples_without_a_value():
    table = np.array([[0.1, 1], [0.3, 1], [0.0, 0], [0.0, 0]])

    def mean(pooled: np.ndarray) -> dict[str, np.ndarray]:
        total, count = np.moveaxis(pooled, -1, 0)
        return {"mean": np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)}

    assert bootstrap_intervals(table, statistics=mean)["mean"] == pytest.approx((0.1, 0.3))
    assert np.isnan(bootstrap_intervals(table[2:], statistics=mean)["mean"]).all()
    assert np.isnan(bootstrap_intervals(table[:1], statistics=mean)["mean"]).all()
