"""Layers over codes as they are, and the channel's own scale behind the operator.

    codes int8 -> DEQUANTIZE (scale 1) -> CONV_2D with bias / s, no activation
        -> MUL by s of each channel, with the activation

Every reader of .tflite files knows a DEQUANTIZE of one scale; those of a scale for each channel
some refuse, and one computes wrongly. A dense layer behind another scale than 1, or one over more
than rows where a product follows, OpenVINO and onnxruntime take for a compressed one and round its
activations to 8 bits.
"""

from typing import NamedTuple

import numpy as np
from ai_edge_litert.schema_py_generated import (
    ActivationFunctionType,
    BuiltinOperator,
    GatherOptionsT,
    MulOptionsT,
    TensorType,
)

from tf_proxquant.litert.read import flatbuffer, weights
from tf_proxquant.litert.write import rows
from tf_proxquant.litert.write.writer import Decoder, Writer


class Layer(NamedTuple):
    """Where an operator has its weights and its bias, and the channels in its weights."""

    weights: int = 1
    bias: int | None = 2
    axis: int = 0


LAYERS = {
    "CONV_2D": Layer(),
    "DEPTHWISE_CONV_2D": Layer(axis=3),
    "FULLY_CONNECTED": Layer(),
    "GATHER": Layer(weights=0, bias=None),
    "TRANSPOSE_CONV": Layer(bias=3),
}
ACTIVATIONS = (
    ActivationFunctionType.NONE,
    ActivationFunctionType.RELU,
    ActivationFunctionType.RELU_N1_TO_1,
    ActivationFunctionType.RELU6,
)


def channel_axis(model, weight, operator):
    """The axis of `weight` whose scales can stand behind `operator`, or None."""
    name, inputs = model.operator_name(operator), list(operator.inputs)
    layer, options = LAYERS.get(name), operator.builtinOptions
    if layer is None or inputs.count(weight.index) > 1 or inputs[layer.weights] != weight.index:
        return None
    if name == "GATHER":
        is_plain = options is None or (options.axis == 0 and options.batchDims == 0)
        return layer.axis if is_plain and weight.values.ndim == 2 else None
    is_cut = options.fusedActivationFunction in ACTIVATIONS
    return layer.axis if is_cut and _has_plain_bias(model, weight, operator) else None


def _has_plain_bias(model, weight, operator):
    place = LAYERS[model.operator_name(operator)].bias
    if place is None or len(operator.inputs) <= place or operator.inputs[place] < 0:
        return True
    bias = model.subgraphs[weight.graph].tensors[operator.inputs[place]]
    return model.constant(bias) is not None and bias.type == TensorType.FLOAT32


def replace(model, weight, form):
    """Stores the codes of a `Scaled` form as floats k, and multiplies behind each reader.

    Returns: list of (subgraph, tensor index, values of the codes).
    """
    graph, found = model.subgraphs[weight.graph], form.codes
    decoder = Decoder(model, graph, weight.index, weight.name)
    stored = decoder.integers(found.codes, [1.0], 8)
    decoder.finish_integers(stored, 8, 1)
    readers = weights.find_readers(graph)[weight.index]
    decoder.insert_before(readers[0])
    for operator in readers:
        if model.operator_name(operator) == "GATHER":
            _scale_rows(model, graph, operator, found.scales)
        else:
            _divide_bias(model, graph, operator, found.scales)
            rows.flatten(model, graph, operator, weight.values.shape)
            factors = Writer(model, graph).constant(found.scales)
            _multiply(model, graph, operator, [], factors)
    return [(weight.graph, weight.index, found.codes.astype(np.float32))]


def _scale_rows(model, graph, operator, scales):
    """Picks the scales of the rows that were picked."""
    writer = Writer(model, graph)
    if scales.size == 1:
        _multiply(model, graph, operator, [], writer.constant(scales))
        return
    places = int(operator.inputs[1])
    shape = (*flatbuffer.tensor_shape(graph.tensors[places]), 1)
    table = writer.constant(scales[:, None])
    factors = writer.apply(BuiltinOperator.GATHER, [table, places], shape, GatherOptionsT())
    _open_like(graph, factors, graph.tensors[places], (1,))
    _multiply(model, graph, operator, writer.operators, factors)


def _multiply(model, graph, operator, before, factors):
    """Multiplies the output of an operator by `factors`, then applies its activation."""
    output = int(operator.outputs[0])
    inner = model.add_tensor(
        graph, flatbuffer.tensor_shape(graph.tensors[output]), TensorType.FLOAT32
    )
    graph.tensors[inner].shapeSignature = graph.tensors[output].shapeSignature
    operator.outputs[0] = inner
    options = MulOptionsT()
    if hasattr(operator.builtinOptions, "fusedActivationFunction"):
        options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
        operator.builtinOptions.fusedActivationFunction = ActivationFunctionType.NONE
    writer = Writer(model, graph)
    writer.operators += before
    writer.apply(BuiltinOperator.MUL, [inner, factors], None, options, output=output)
    writer.insert_after(operator)


def _open_like(graph, index, source, rest):
    if source.shapeSignature is not None:
        graph.tensors[index].shapeSignature = np.array([*source.shapeSignature, *rest], np.int32)


def _divide_bias(model, graph, operator, scales):
    place = LAYERS[model.operator_name(operator)].bias
    if place is None or len(operator.inputs) <= place or operator.inputs[place] < 0:
        return
    bias = model.array(graph.tensors[operator.inputs[place]])
    divided = (bias.astype(np.float64) / scales).astype(np.float32)
    operator.inputs[place] = Writer(model, graph).constant(divided)
