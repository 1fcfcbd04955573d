import numpy as np
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.training import PROFILES, train_network, with_fused_normalisation


def test_fused_normalisation_trains_and_predicts_as_keras_does():
    import keras

    from tem_pipeline.segmentation.networks import ds_unet

    keras.utils.set_random_seed(0)
    plain = ds_unet(4)
    fused = with_fused_normalisation(plain)
    assert all(np.array_equal(a, b) for a, b in zip(plain.get_weights(), fused.get_weights(), strict=True))
    images = np.random.default_rng(0).normal(size=(4, 64, 64, 1)).astype(np.float32)
    np.testing.assert_allclose(plain(images, training=True), fused(images, training=True), atol=1e-4)
    for mine, theirs in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0.01, atol=1e-4)
    plain.set_weights(fused.get_weights())
    np.testing.assert_allclose(plain(images), fused(images), atol=1e-4)


def test_training_without_a_validation_image_is_refused():
    crops = np.zeros((8, 128, 128), np.float32)
    with pytest.raises(UserError, match="validation"):
        train_network(
            crops,
            crops.astype(np.uint8),
            [],
            classes=("background", "core"),
            loss="dice",
            profile=PROFILES["quick"],
        )
