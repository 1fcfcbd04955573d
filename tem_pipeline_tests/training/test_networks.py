from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tem_pipeline.segmentation.merging import merge_up_convolutions
from tem_pipeline.segmentation.models import NETWORK_STRIDE_PX, read_card
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.training.networks import ds_unet, unet


def test_ds_unet_at_base_64_with_two_classes_has_the_published_size():
    assert 5_900_000 <= ds_unet(64, 2).count_params() <= 6_050_000


def test_unet_at_base_64_with_two_classes_has_the_published_size():
    assert 34_400_000 <= unet(64, 2).count_params() <= 34_900_000


def test_only_the_first_two_3x3_convolutions_of_ds_unet_are_ordinary():
    import keras

    model = ds_unet(8)
    ordinary = [
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3)
    ]
    separable = [layer for layer in model.layers if isinstance(layer, keras.layers.SeparableConv2D)]
    assert ordinary == ["encoder0_conv1", "encoder0_conv2"]
    assert len(separable) == 2 * 4 + 4
    assert not any(layer.use_bias for layer in separable)


@pytest.mark.parametrize("build", [ds_unet, unet])
@pytest.mark.parametrize(("size", "classes"), [((16, 16), 2), ((48, 80), 3)])
def test_output_is_a_probability_for_every_pixel_of_any_multiple_of_16(build, size, classes):
    image = np.random.default_rng(0).normal(size=(2, *size, 1)).astype(np.float32)
    probability = np.asarray(build(4, classes)(image))
    assert probability.shape == (2, *size, classes)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability.sum(axis=-1), 1, atol=1e-5)


def test_the_seed_alone_decides_the_weights():
    import keras

    keras.utils.set_random_seed(1)
    first = ds_unet(4, seed=7).get_weights()
    keras.utils.set_random_seed(2)
    again = ds_unet(4, seed=7).get_weights()
    other = ds_unet(4, seed=8).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_without_a_seed_the_callers_random_seed_decides_the_weights():
    import keras

    keras.utils.set_random_seed(3)
    first = ds_unet(4).get_weights()
    keras.utils.set_random_seed(3)
    again = ds_unet(4).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_probabilities_stay_in_float32_under_mixed_precision():
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert keras.backend.standardize_dtype(ds_unet(4).output.dtype) == "float32"
    finally:
        keras.config.set_dtype_policy(before)


def test_impossible_sizes_of_a_network_are_refused():
    with pytest.raises(ValueError, match="at least 2 classes"):
        ds_unet(8, classes=1)


@pytest.fixture(scope="module", params=[ds_unet, unet], ids=["ds_unet", "unet"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Build a network, in Keras and exported, with biases, averages and scales as after a training."""
    model = request.param(8, 3, seed=0)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if layer.name.endswith("_norm"):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, gamma.shape),
                    rng.normal(0, 0.2, beta.shape),
                    rng.normal(0, 0.2, mean.shape),
                    rng.uniform(0.5, 2, variance.shape),
                ]
            )
        elif layer.name.endswith("_up"):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.normal(0, 0.2, bias.shape)])
    target = tmp_path_factory.mktemp("exported") / "model.xml"
    model.export(str(target), format="openvino", verbose=False)
    return model, target


def test_the_openvino_export_gives_the_output_of_keras_at_any_size(exported):
    import openvino

    model, file = exported
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in [(64, 64), (48, 112)]:
        image = np.random.default_rng(2).normal(size=(1, *size, 1)).astype(np.float32)
        expected = np.asarray(model(image, training=False))
        assert expected.std() > 0.01
        np.testing.assert_allclose(compiled(image)[0], expected, atol=2e-4)


@pytest.mark.parametrize("half_precision", [False, True])
def test_merging_up_convolutions_keeps_a_networks_output(exported, half_precision, tmp_path):
    import openvino

    model, file = exported
    core = openvino.Core()
    plain = core.read_model(file)
    if half_precision:
        openvino.save_model(plain, tmp_path / "half.xml", compress_to_fp16=True)
        plain = core.read_model(tmp_path / "half.xml")
    _compare_with_merged(plain, merges=4 if model.name == "ds_unet" else 0)


def test_merging_up_convolutions_keeps_the_shipped_models_output():
    import openvino

    folder = PROJECT_ROOT / "models" / "pretrained"
    _compare_with_merged(
        openvino.Core().read_model(folder / read_card(folder).weights / "model.xml"), merges=4
    )


def test_an_up_convolution_concatenated_along_rows_is_not_merged():
    import openvino
    from openvino import opset13 as operations

    ones = [np.ones(shape, np.float32) for shape in ((2, 2, 2, 2), (1, 2, 1, 1), (3, 2, 1, 1))]
    kernel, bias, fusing = (operations.constant(each) for each in ones)
    skip, x = (operations.parameter([1, 2, side, side], np.float32) for side in (8, 4))
    up = operations.convolution_backprop_data(x, kernel, [2, 2], pads_begin=[0, 0], pads_end=[0, 0])
    below = operations.concat([skip, operations.add(up, bias)], axis=2)
    fused = operations.convolution(below, fusing, [1, 1], [0, 0], [0, 0], [1, 1])
    assert merge_up_convolutions(openvino.Model([fused], [skip, x]), NETWORK_STRIDE_PX) == 0  # type: ignore[misc]


def _compare_with_merged(plain: Any, merges: int) -> None:
    import openvino

    core, merged = openvino.Core(), plain.clone()
    assert merge_up_convolutions(merged, NETWORK_STRIDE_PX) == merges
    assert _count(merged, "Concat") == (0 if merges else _count(plain, "Concat"))
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    before, after = (core.compile_model(model, "CPU", f32) for model in (plain, merged))
    for size in [(16, 16), (64, 64), (48, 112)]:
        image = np.random.default_rng(2).normal(size=(1, *size, 1)).astype(np.float32)
        expected = before(image)[0]
        assert expected.std() > 0.01
        np.testing.assert_allclose(after(image)[0], expected, atol=1e-5)


def _count(model: Any, kind: str) -> int:
    return sum(node.get_type_name() == kind for node in model.get_ordered_ops())
