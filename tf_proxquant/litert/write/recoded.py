"""Layers of an integer file with the codes of the trained grid in place of the converter's."""

from typing import NamedTuple

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator

from tf_proxquant import packing
from tf_proxquant.litert.read import flatbuffer, weights
from tf_proxquant.litert.write.writer import INTEGER_TYPES

# Of convolutions over 4-bit weights.
PACKED_VERSION = 7


class Layer(NamedTuple):
    """Where an operator with weights at input 1 has its channels, its data and its bias."""

    axis: int
    data: int = 0
    bias: int = 2


LAYERS = {
    "CONV_2D": Layer(0),
    "DEPTHWISE_CONV_2D": Layer(3),
    "FULLY_CONNECTED": Layer(0),
    "TRANSPOSE_CONV": Layer(0, data=2, bias=3),
}


def replace(model, weight, form):
    """Writes the codes of a `Recoded` form over those of `weight`, and the bias in the new unit.

    Returns: list of (subgraph, tensor index, values).
    """
    graph, found = model.subgraphs[weight.graph], form.codes
    tensor = graph.tensors[weight.index]
    old_scales = np.asarray(tensor.quantization.scale, np.float32)
    # A channel of zeros has any scale: the converter's suits the bias.
    rest = tuple(i for i in range(found.codes.ndim) if i != found.axis)
    is_zero = (found.codes == 0).all(axis=rest)
    scales = np.where(is_zero, old_scales, found.scales).astype(np.float32)
    readers = weights.find_readers(graph)[weight.index]
    codes, values = found.codes, weight.values
    least = _least_scales(model, graph, readers, old_scales)
    is_tiny = scales < least
    if is_tiny.any():
        wide = [len(scales) if axis == found.axis else 1 for axis in range(codes.ndim)]
        share = np.divide(scales, least, out=np.ones_like(scales), where=is_tiny)
        rounded = np.rint(codes * share.reshape(wide)).astype(codes.dtype)
        codes = np.where(is_tiny.reshape(wide), rounded, codes)
        scales = np.where(is_tiny, least, scales)
        tiny = codes.astype(np.float32) * scales.reshape(wide)
        values = np.where(is_tiny.reshape(wide), tiny, values)
    is_packed = found.bits < 8
    data = packing.pack_codes(codes, found.bits) if is_packed else codes
    tensor.buffer, tensor.type = model.add_buffer(data), INTEGER_TYPES[found.bits]
    tensor.quantization = flatbuffer.quantization(scales, found.axis)
    for operator in readers:
        name = model.operator_name(operator)
        layer = LAYERS[name]
        if is_packed:
            builtin = getattr(BuiltinOperator, name)
            operator.opcodeIndex = model.opcode_index(builtin, PACKED_VERSION)
        if len(operator.inputs) <= layer.bias or operator.inputs[layer.bias] < 0:
            continue
        bias = graph.tensors[operator.inputs[layer.bias]]
        factors = old_scales.astype(np.float64) / scales
        rounded = np.rint(model.array(bias) * factors)
        input_scale = graph.tensors[operator.inputs[layer.data]].quantization.scale
        bias.buffer = model.add_buffer(rounded.astype(np.int32))
        bias.quantization = flatbuffer.quantization(input_scale * scales)
    return [(weight.graph, weight.index, values)]


def _least_scales(model, graph, readers, scales):
    """The scale of each channel below which its bias, in that unit, is beyond 30 bits.

    So small are weights of 1e-9 beside a bias of 1, as training leaves a channel that is not used.

    Args:
      model, graph: where the weights are.
      readers: the operators that read them.
      scales: the converter's, in whose unit the biases are.
    """
    least = np.zeros_like(scales)
    for operator in readers:
        index = LAYERS[model.operator_name(operator)].bias
        if len(operator.inputs) > index and operator.inputs[index] >= 0:
            bias = np.abs(model.array(graph.tensors[operator.inputs[index]]).astype(np.float64))
            least = np.maximum(least, (bias * scales / 2**30).astype(np.float32))
    return least
