"""The two networks, DS-U-Net and U-Net, each built from small block functions.

`losses` has the losses, `fitting` trains the networks. Inference uses exported models, not this module.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

LEVELS = 5
"""Number of scales of both networks: full resolution and four halvings. Widths are base × 1, 2, 4, 8, 16."""


def ds_unet(base_width: int = 64, classes: int = 2, seed: int | None = None) -> keras.Model:
    """Build the DS-U-Net: a U-Net with depthwise separable convolutions, except for the first two.

    Each scale of the expanding path up-samples, concatenates the skip connection of that scale, fuses both by
    an ordinary 1×1 convolution and refines the result by one depthwise separable convolution.

    Parameters
    ----------
    base_width : int
        Channels at full resolution; they double at each halving of the image. The paper uses 64.
    classes : int
        2 for background and core, 3 for background, shell and core.
    seed : int, optional
        The same seed gives the same weights. Without a seed they depend on `keras.utils.set_random_seed`.

    Returns
    -------
    keras.Model
        Input (batch, height, width, 1) with height and width multiples of 16; output class
        probabilities (batch, height, width, classes) in float32. It has 6,015,362 parameters at base width 64
        with two classes.

    References
    ----------
    Liu, Yao, Zhang, Zeng, "Detection and particle size statistics of the TEM nanomaterial images based on
    deep learning", 2021, doi 10.19651/j.cnki.emt.2106310, figure 3.
    """
    weights = _Initialisers(seed)

    def encoder(x: Any, width: int, level: int) -> Any:
        convolution = _convolution if level == 0 else _separable_convolution
        x = convolution(x, width, f"encoder{level}_conv1", weights)
        return convolution(x, width, f"encoder{level}_conv2", weights)

    def decoder(x: Any, skip: Any, width: int, level: int) -> Any:
        import keras

        x = _up_convolution(x, width, f"decoder{level}_up", weights, kernel_size=2)
        x = keras.layers.Concatenate(name=f"decoder{level}_skip")([skip, x])
        x = _convolution(x, width, f"decoder{level}_fuse", weights, kernel_size=1)
        return _separable_convolution(x, width, f"decoder{level}_conv", weights)

    return _u_shape("ds_unet", encoder, decoder, base_width, classes, weights)


def unet(base_width: int = 64, classes: int = 2, seed: int | None = None) -> keras.Model:
    """Build an ordinary U-Net for comparison: two 3×3 convolutions at each scale of both paths.

    Parameters, input and output are those of `ds_unet`. With 3×3 transposed convolutions for up-sampling it
    has the size of the U-Net in the paper: 34.5 M parameters at base width 64.

    References
    ----------
    Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015,
    doi 10.1007/978-3-319-24574-4_28. Padding and batch normalisation are added here.
    """
    weights = _Initialisers(seed)

    def encoder(x: Any, width: int, level: int) -> Any:
        x = _convolution(x, width, f"encoder{level}_conv1", weights)
        return _convolution(x, width, f"encoder{level}_conv2", weights)

    def decoder(x: Any, skip: Any, width: int, level: int) -> Any:
        import keras

        x = _up_convolution(x, width, f"decoder{level}_up", weights, kernel_size=3)
        x = keras.layers.Concatenate(name=f"decoder{level}_skip")([skip, x])
        x = _convolution(x, width, f"decoder{level}_conv1", weights)
        return _convolution(x, width, f"decoder{level}_conv2", weights)

    return _u_shape("unet", encoder, decoder, base_width, classes, weights)


class _Initialisers:
    """Makes seeded initialisers, one per layer, in the order in which the layers are built."""

    def __init__(self, seed: int | None) -> None:
        # keras.utils.set_random_seed seeds the module `random`, so the caller's seed is used by default.
        self._source = random if seed is None else random.Random(seed)

    def _next_seed(self) -> int:
        return self._source.randrange(2**31)

    def he_normal(self) -> Any:
        import keras

        return keras.initializers.HeNormal(seed=self._next_seed())

    def glorot_uniform(self) -> Any:
        import keras

        return keras.initializers.GlorotUniform(seed=self._next_seed())

    def depthwise(self) -> Any:
        """Unit gain for a depthwise 3×3 kernel.

        Each of its channels has 9 inputs. Keras counts 9 × channels, so its weights would start too small.
        """
        import keras

        return keras.initializers.TruncatedNormal(stddev=1 / 3, seed=self._next_seed())


def _u_shape(
    name: str,
    encoder: Callable[[Any, int, int], Any],
    decoder: Callable[[Any, Any, int, int], Any],
    base_width: int,
    classes: int,
    weights: _Initialisers,
) -> keras.Model:
    import keras

    if base_width < 1 or classes < 2:
        raise ValueError(
            f"{name} needs a base width of at least 1 and at least 2 classes, not {base_width} and {classes}"
        )
    image = keras.Input((None, None, 1), name="image")
    x, skips = image, []
    for level in range(LEVELS):
        if level:
            x = keras.layers.MaxPooling2D(name=f"encoder{level}_pool")(x)
        x = encoder(x, base_width * 2**level, level)
        skips.append(x)
    for level in reversed(range(LEVELS - 1)):
        x = decoder(x, skips[level], base_width * 2**level, level)
    x = keras.layers.Conv2D(classes, 1, kernel_initializer=weights.glorot_uniform(), name="classes")(x)
    # In float32 also under mixed precision, so that the loss is computed in float32.
    probability = keras.layers.Softmax(dtype="float32", name="probability")(x)
    return keras.Model(image, probability, name=name)


def _convolution(x: Any, width: int, name: str, weights: _Initialisers, kernel_size: int = 3) -> Any:
    import keras

    convolution = keras.layers.Conv2D(
        width,
        kernel_size,
        padding="same",
        use_bias=False,  # the normalisation that follows has a bias
        kernel_initializer=weights.he_normal(),
        name=name,
    )
    return _normalised(convolution(x), name)


def _separable_convolution(x: Any, width: int, name: str, weights: _Initialisers) -> Any:
    import keras

    convolution = keras.layers.SeparableConv2D(
        width,
        3,
        padding="same",
        use_bias=False,
        depthwise_initializer=weights.depthwise(),
        pointwise_initializer=weights.he_normal(),
        name=name,
    )
    return _normalised(convolution(x), name)


def _up_convolution(x: Any, width: int, name: str, weights: _Initialisers, kernel_size: int) -> Any:
    import keras

    return keras.layers.Conv2DTranspose(
        width,
        kernel_size,
        strides=2,
        padding="same",
        kernel_initializer=weights.glorot_uniform(),
        name=name,
    )(x)


def _normalised(x: Any, name: str) -> Any:
    import keras

    # Keras' default momentum of 0.99 is too slow for a training of a few hundred steps.
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
