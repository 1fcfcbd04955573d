import math

import numpy as np
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.tables import LOSSES
from tem_pipeline.training.losses import (
    class_weights,
    cross_entropy,
    dice_loss,
    iou_loss,
    make_loss,
    weighted_cross_entropy,
)

# One 2×2 image. Probability of core at its four pixels, and the truth.
CORE = np.array([[[0.9, 0.2], [0.6, 0.3]]], dtype=np.float32)
TRUTH = np.array([[[1, 0], [1, 1]]], dtype=np.uint8)
PREDICTION = np.stack([1 - CORE, CORE], axis=-1)

# Three classes, one row of two pixels: the truth is shell, then core.
TRUTH3 = np.array([[[1, 2]]], dtype=np.uint8)
PREDICTION3 = np.array([[[[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]]], dtype=np.float32)


def value(tensor) -> float:
    return float(np.asarray(tensor))


def test_cross_entropy_is_equation_3_as_a_mean_over_pixels():
    by_hand = -(math.log(0.9) + math.log(1 - 0.2) + math.log(0.6) + math.log(0.3)) / 4
    assert value(cross_entropy(TRUTH, PREDICTION)) == pytest.approx(by_hand, abs=1e-6)


def test_weighted_cross_entropy_is_equation_4_as_a_mean_over_pixels():
    beta = 0.7
    by_hand = -(beta * (math.log(0.9) + math.log(0.6) + math.log(0.3)) + (1 - beta) * math.log(1 - 0.2)) / 4
    assert value(make_loss("weighted_cross_entropy", beta=beta)(TRUTH, PREDICTION)) == pytest.approx(
        by_hand, abs=1e-6
    )


def test_iou_loss_is_equation_5_with_soft_counts_and_smoothing_1():
    # TP = 0.9 + 0.6 + 0.3 = 1.8, FP = 0.2, FN = 3 - 1.8 = 1.2
    assert value(iou_loss(TRUTH, PREDICTION)) == pytest.approx(1 - 2.8 / 4.2, abs=1e-6)


def test_dice_loss_is_equation_6_with_soft_counts_and_smoothing_1():
    assert value(dice_loss(TRUTH, PREDICTION)) == pytest.approx(1 - 4.6 / 6.0, abs=1e-6)


def test_three_classes_by_hand():
    assert value(cross_entropy(TRUTH3, PREDICTION3)) == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    weights = (0.1, 0.3, 0.6)
    assert value(weighted_cross_entropy(TRUTH3, PREDICTION3, weights)) == pytest.approx(
        -(0.3 * math.log(0.5) + 0.6 * math.log(0.8)) / 2
    )
    # shell: TP 0.5, truth 1, predicted 0.6; core: TP 0.8, truth 1, predicted 1.1
    iou = (1.5 / (1 + 0.6 - 0.5 + 1) + 1.8 / (1 + 1.1 - 0.8 + 1)) / 2
    dice = (2.0 / (1 + 0.6 + 1) + 2.6 / (1 + 1.1 + 1)) / 2
    assert value(iou_loss(TRUTH3, PREDICTION3)) == pytest.approx(1 - iou, abs=1e-6)
    assert value(dice_loss(TRUTH3, PREDICTION3)) == pytest.approx(1 - dice, abs=1e-6)


def test_soft_counts_are_summed_over_the_batch_not_per_image():
    truth = np.concatenate([TRUTH, np.zeros_like(TRUTH)])
    prediction = np.concatenate([PREDICTION, PREDICTION])
    # The second image adds FP = 2.0 and nothing else.
    assert value(iou_loss(truth, prediction)) == pytest.approx(1 - 2.8 / 6.2, abs=1e-6)


def test_beta_is_the_background_share_of_the_training_pixels():
    np.testing.assert_allclose(class_weights([900, 100]), [0.1, 0.9])
    from_counts = make_loss("weighted_cross_entropy", class_pixel_counts=[900, 100])
    given = make_loss("weighted_cross_entropy", beta=0.9)
    assert value(from_counts(TRUTH, PREDICTION)) == pytest.approx(value(given(TRUTH, PREDICTION)))


def test_a_given_beta_replaces_the_one_from_the_training_data():
    loss = make_loss("weighted_cross_entropy", class_pixel_counts=[900, 100], beta=0.5)
    assert value(loss(TRUTH, PREDICTION)) == pytest.approx(value(cross_entropy(TRUTH, PREDICTION)) / 2)


def test_more_classes_are_weighted_by_inverse_frequency():
    weights = class_weights([800, 100, 50])
    assert weights.sum() == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(8)
    assert weights[2] / weights[1] == pytest.approx(2)


@pytest.mark.parametrize("name", LOSSES)
def test_only_a_perfect_prediction_has_no_loss(name):
    loss = make_loss(name, class_pixel_counts=[3, 1])
    truth = np.zeros((1, 8, 8), np.uint8)
    truth[0, 2:6, 2:6] = 1
    perfect = np.eye(2, dtype=np.float32)[truth]
    assert value(loss(truth, perfect)) == pytest.approx(0, abs=1e-5)
    assert value(loss(truth, perfect[..., ::-1])) > 0.9


@pytest.mark.parametrize("name", LOSSES)
def test_a_trailing_axis_of_the_truth_and_its_dtype_make_no_difference(name):
    loss = make_loss(name, class_pixel_counts=[3, 1])
    expected = value(loss(TRUTH, PREDICTION))
    assert value(loss(TRUTH[..., None].astype(np.float32), PREDICTION)) == pytest.approx(expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("mask", ["empty", "full", "mixed"])
@pytest.mark.parametrize("logit", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("through_softmax_layer", [True, False])
def test_loss_and_gradient_are_finite_on_empty_full_and_saturated_masks(
    name, classes, mask, logit, through_softmax_layer
):
    import keras
    import tensorflow as tf

    truth = np.zeros((2, 4, 4), np.uint8)
    if mask == "full":
        truth[:] = classes - 1
    elif mask == "mixed":
        truth[:, :2] = classes - 1
    logits = tf.Variable(tf.concat([tf.zeros((2, 4, 4, classes - 1)), tf.fill((2, 4, 4, 1), logit)], -1))
    loss = make_loss(name, class_pixel_counts=[5] * classes)
    with tf.GradientTape() as tape:
        softmax = keras.layers.Softmax() if through_softmax_layer else tf.nn.softmax
        result = loss(truth, softmax(logits))
    gradient = np.asarray(tape.gradient(result, logits))
    assert np.isfinite(value(result))
    assert np.all(np.isfinite(gradient))
    if logit == 0:
        assert np.any(gradient != 0)


def test_cross_entropy_has_a_gradient_where_a_saturated_network_is_wrong():
    import keras
    import tensorflow as tf

    logits = tf.Variable(tf.tile(tf.constant([[[[60.0, -60.0]]]]), (1, 4, 4, 1)))
    with tf.GradientTape() as tape:
        result = cross_entropy(np.ones((1, 4, 4)), keras.layers.Softmax()(logits))
    gradient = np.asarray(tape.gradient(result, logits))
    np.testing.assert_allclose(gradient[..., 1], -1 / 16, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_keras_fits_a_model_with_each_loss(name):
    import keras

    keras.utils.set_random_seed(0)
    truth = np.zeros((4, 16, 16), np.uint8)
    truth[:, 4:10, 5:12] = 1
    images = (np.random.default_rng(0).normal(size=truth.shape) * 0.3 - 2 * truth).astype(np.float32)
    model = keras.Sequential([keras.layers.Conv2D(2, 1), keras.layers.Softmax()])
    model.compile(optimizer=keras.optimizers.Adam(0.2), loss=make_loss(name, [3, 1]), jit_compile=False)
    history = model.fit(images[..., None], truth, batch_size=4, epochs=25, verbose=0).history["loss"]
    assert history[-1] < 0.3 * history[0]


def test_wrong_choices_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"focal.*use one of cross_entropy"):
        make_loss("focal")
    with pytest.raises(UserError, match="beta is 1"):
        make_loss("weighted_cross_entropy", beta=1)
    with pytest.raises(UserError, match="two classes"):
        make_loss("weighted_cross_entropy", [5, 5, 5], beta=0.9)
    with pytest.raises(UserError, match="needs a beta"):
        make_loss("weighted_cross_entropy")
    with pytest.raises(UserError, match="class 1 has no pixel"):
        make_loss("weighted_cross_entropy", [10, 0])
