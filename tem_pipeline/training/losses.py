"""The four losses that the paper compares, its equations (3) to (6), for two classes and for more.

Each takes the truth as integer class maps (batch, height, width), optionally with a trailing axis of 1, and
the prediction as softmax probabilities (batch, height, width, classes). Each returns one number per batch.
They only use `keras.ops`, so the same code trains under TensorFlow, JAX and PyTorch.

References
----------
Liu, Yao, Zhang, Zeng, "Detection and particle size statistics of the TEM nanomaterial images based on deep
learning", 2021, doi 10.19651/j.cnki.emt.2106310.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tem_pipeline.errors import UserError
from tem_pipeline.tables import LOSSES

Loss = Callable[[Any, Any], Any]

SMOOTHING = 1.0
"""Added to numerator and denominator of soft IoU and Dice, so that two empty masks have a loss of 0."""


def cross_entropy(y_true: Any, y_pred: Any) -> Any:
    """Cross entropy, equation (3), as the mean over pixels.

    With two classes this is -[y log ŷ + (1 - y) log(1 - ŷ)]; with more, minus the logarithm of the true
    class's probability.

    Parameters
    ----------
    y_true : tensor, (batch, height, width)
        Class of every pixel, any numeric dtype.
    y_pred : tensor, (batch, height, width, classes)
        Probabilities. If they come directly from a softmax, Keras computes the loss from the logits.

    Returns
    -------
    tensor, scalar
    """
    from keras import ops

    return ops.mean(ops.sparse_categorical_crossentropy(_class_map(y_true, y_pred), y_pred))


def weighted_cross_entropy(y_true: Any, y_pred: Any, weights: Sequence[float]) -> Any:
    """Cross entropy weighted by class, equation (4), as the mean over pixels.

    With two classes and weights (1 - β, β) this is -[β y log ŷ + (1 - β)(1 - y) log(1 - ŷ)]. As in the
    paper, the sum is divided by the number of pixels, not by the sum of their weights.

    Parameters
    ----------
    y_true, y_pred : tensor
        As in `cross_entropy`.
    weights : sequence of float, (classes,)
        Weight of each class, background first; see `class_weights`.
    """
    from keras import ops

    labels = _class_map(y_true, y_pred)
    per_pixel = ops.sparse_categorical_crossentropy(labels, y_pred)
    weight_of_class = ops.convert_to_tensor(weights, dtype=per_pixel.dtype)
    return ops.mean(ops.take(weight_of_class, labels) * per_pixel)


def iou_loss(y_true: Any, y_pred: Any) -> Any:
    """1 - soft IoU, equation (5), averaged over the foreground classes.

    IoU = (TP + 1) / (TP + FP + FN + 1) with the soft counts of the whole batch.

    Parameters
    ----------
    y_true, y_pred : tensor
        As in `cross_entropy`.
    """
    from keras import ops

    hits, truth, predicted = _soft_counts(y_true, y_pred)
    return 1.0 - ops.mean((hits + SMOOTHING) / (truth + predicted - hits + SMOOTHING))


def dice_loss(y_true: Any, y_pred: Any) -> Any:
    """1 - soft Dice, equation (6), averaged over the foreground classes.

    Dice = (2 TP + 1) / (2 TP + FP + FN + 1) with the soft counts of the whole batch.

    Parameters
    ----------
    y_true, y_pred : tensor
        As in `cross_entropy`.
    """
    from keras import ops

    hits, truth, predicted = _soft_counts(y_true, y_pred)
    return 1.0 - ops.mean((2.0 * hits + SMOOTHING) / (truth + predicted + SMOOTHING))


def class_weights(class_pixel_counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Weight the classes by inverse frequency; the weights add up to 1.

    For two classes these are (1 - β, β) of equation (4), with β the background's share of the pixels.

    Parameters
    ----------
    class_pixel_counts : sequence of int, (classes,)
        Pixels of each class in the training data, background first.

    Returns
    -------
    ndarray, (classes,), float64

    Raises
    ------
    UserError
        If a class has no pixel in the training data.
    """
    counts = np.asarray(class_pixel_counts, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2:
        raise ValueError(f"pixel counts of at least two classes are needed, not {class_pixel_counts!r}")
    if not np.all(counts > 0):
        raise UserError(
            f"class {int(np.argmin(counts))} has no pixel in the training data, so its weight is undefined: "
            "annotate it in at least one training image, or train with another loss"
        )
    inverse = counts.sum() / counts
    return inverse / inverse.sum()


def make_loss(
    name: str,
    class_pixel_counts: Sequence[int] | np.ndarray | None = None,
    beta: float | None = None,
) -> Loss:
    """Give the loss with this name, ready for `keras.Model.compile`.

    Parameters
    ----------
    name : {"cross_entropy", "weighted_cross_entropy", "iou", "dice"}
    class_pixel_counts : sequence of int, (classes,), optional
        Pixels of each class in the training data. They give the weights of the weighted cross entropy.
    beta : float, optional
        Weight of the foreground in equation (4), between 0 and 1, for two classes only. It replaces the
        weights from the counts.

    Returns
    -------
    callable
        (y_true, y_pred) -> scalar tensor.

    Raises
    ------
    UserError
        For an unknown name, a β outside 0 … 1 or with more than two classes, or a weighted cross entropy
        with neither β nor counts.
    """
    if name == "weighted_cross_entropy":
        weights = _weights(class_pixel_counts, beta)

        def loss(y_true: Any, y_pred: Any) -> Any:
            return weighted_cross_entropy(y_true, y_pred, weights)

        loss.__name__ = name
        return loss
    plain: dict[str, Loss] = {"cross_entropy": cross_entropy, "iou": iou_loss, "dice": dice_loss}
    if name not in plain:
        raise UserError(f"loss {name!r} is unknown: use one of {', '.join(LOSSES)}")
    return plain[name]


def _weights(class_pixel_counts: Sequence[int] | np.ndarray | None, beta: float | None) -> list[float]:
    if beta is None:
        if class_pixel_counts is None:
            raise UserError(
                "weighted_cross_entropy needs a beta or the training data's pixel counts: give one of them"
            )
        return class_weights(class_pixel_counts).tolist()
    if class_pixel_counts is not None and len(class_pixel_counts) != 2:
        raise UserError(
            f"beta weighs two classes and the training data has {len(class_pixel_counts)}: leave beta out"
        )
    if not 0 < beta < 1:
        raise UserError(f"beta is {beta}: it must be between 0 and 1")
    return [1 - beta, beta]


def _class_map(y_true: Any, y_pred: Any) -> Any:
    from keras import ops

    labels = ops.cast(y_true, "int32")
    return ops.squeeze(labels, axis=-1) if len(labels.shape) == len(y_pred.shape) else labels


def _soft_counts(y_true: Any, y_pred: Any) -> tuple[Any, Any, Any]:
    """Sum y·ŷ (TP), y (TP + FN) and ŷ (TP + FP) over the batch, for each foreground class."""
    from keras import ops

    foreground = y_pred[..., 1:]
    classes = ops.arange(1, y_pred.shape[-1], dtype="int32")
    truth = ops.cast(_class_map(y_true, y_pred)[..., None] == classes, foreground.dtype)
    pixels = (0, 1, 2)
    return (
        ops.sum(truth * foreground, axis=pixels),
        ops.sum(truth, axis=pixels),
        ops.sum(foreground, axis=pixels),
    )
