"""Simplifies an exported network before it is compiled.

A decoder of `ds_unet` up-samples x by a transposed convolution U with bias b, concatenates the skip
connection s and fuses both by a 1×1 convolution (S V). There is no non-linearity between the two, so

    (S V) (s, U x + b) = S s + (V U) x + V b

and V U is computed once. In units of W² multiplications per pixel, with the base width W, the first scale
takes 9, each other scale of the contracting path 1.5, and each scale of the expanding path 4 instead of 5. In
total, 31 of 35 remain. Concatenation and its copies are no longer needed.
"""

from typing import Any

import numpy as np


def merge_up_convolutions(model: Any, least_side_px: int) -> int:
    """Merge each up-convolution into the 1×1 convolution that fuses it with its skip connection.

    Parameters
    ----------
    model : openvino.Model
        Changed in place. A network with another structure than `ds_unet` stays unchanged.
    least_side_px : int
        Height and width of the input are multiples of this.

    Returns
    -------
    int
        Number of merged up-convolutions.
    """
    beside = [node for node in model.get_ordered_ops() if node.get_type_name() == "Concat"]
    merged = sum(_merge(node) for node in beside)
    if merged:
        # OpenVINO adds the two convolutions in place only if it knows that they have the same size. For that
        # it must know that halving and doubling the image loses no pixels.
        import openvino

        batch, _, _, channels = model.input().get_partial_shape()
        side = openvino.Dimension(least_side_px, -1)
        model.reshape(openvino.PartialShape([batch, side, side, channels]))
    return merged


def _merge(beside: Any) -> bool:
    from openvino import opset13 as operations

    if len(beside.inputs()) != 2 or len(targets := beside.output(0).get_target_inputs()) != 1:
        return False
    if beside.get_attributes()["axis"] not in (1, -3):  # the axis of the channels
        return False
    fusing = next(iter(targets)).get_node()
    skip, biased = beside.input_value(0), beside.input_value(1).get_node()
    if fusing.get_type_name() != "Convolution" or biased.get_type_name() != "Add":
        return False
    up = biased.input_value(0).get_node()
    if up.get_type_name() != "ConvolutionBackpropData":
        return False
    weights, up_weights, bias = (_numbers(node.input_value(1)) for node in (fusing, up, biased))
    if weights is None or up_weights is None or bias is None or bias.size != up_weights.shape[1]:
        return False
    n_skip = weights.shape[1] - up_weights.shape[1]
    strides = list(up.get_attributes()["strides"])
    if weights.shape[2:] != (1, 1) or not _is_plain(fusing, [1, 1]):
        return False
    if list(up_weights.shape[2:]) != strides or not _is_plain(up, strides):
        return False
    of_skip, of_up = weights[:, :n_skip], weights[:, n_skip:, 0, 0]
    merged_up = np.einsum("iuyx,ou->ioyx", up_weights, of_up, optimize=True)
    merged_bias = (of_up @ bias.reshape(-1)).reshape(1, -1, 1, 1)
    none = [0, 0]
    from_skip = operations.convolution(skip, operations.constant(of_skip), [1, 1], none, none, [1, 1])
    from_up = operations.convolution_backprop_data(
        up.input_value(0), operations.constant(merged_up), strides, pads_begin=none, pads_end=none
    )
    both = operations.add(operations.add(from_skip, from_up), operations.constant(merged_bias))
    fusing.output(0).replace(both.output(0))
    return True


def _numbers(output: Any) -> np.ndarray | None:
    """Give the value of a constant, also if it is stored in half precision."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.data.astype(np.float32) if node.get_type_name() == "Constant" else None


def _is_plain(convolution: Any, strides: list[int]) -> bool:
    """Tell whether a convolution has these strides, no padding and no dilation."""
    attributes = convolution.get_attributes()
    padding = [*attributes["pads_begin"], *attributes["pads_end"], *attributes.get("output_padding", [])]
    return (
        list(attributes["strides"]) == strides
        and not any(padding)
        and all(step == 1 for step in attributes["dilations"])
    )
