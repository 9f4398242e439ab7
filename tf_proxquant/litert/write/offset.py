"""Dense layers over codes whose offset is added behind the layer, for a whole row at once.

    W x = (s code + offset) x = (s code) x + offset sum(x)

so that nothing is done to each weight at each call but what DEQUANTIZE does once.
"""

import numpy as np
from ai_edge_litert.schema_py_generated import (
    ActivationFunctionType,
    AddOptionsT,
    BuiltinOperator,
    MulOptionsT,
    ReducerOptionsT,
    TensorType,
)

from tf_proxquant.litert.forms.codes import broadcastable
from tf_proxquant.litert.read import flatbuffer, weights
from tf_proxquant.litert.write.writer import Decoder, Writer

# Of a longer row the sum is so much larger than the output that its rounding shows.
MAX_INPUTS = 2048


def can_offset(model, weight):
    """Whether every reader is a dense layer that keeps the number of dimensions of its input."""
    if weight.values.ndim != 2 or weight.values.shape[1] > MAX_INPUTS:
        return False
    graph = model.subgraphs[weight.graph]
    for operator in weights.find_readers(graph)[weight.index]:
        if model.operator_name(operator) != "FULLY_CONNECTED" or operator.inputs[0] == weight.index:
            return False
        shapes = [
            flatbuffer.tensor_shape(graph.tensors[i])
            for i in (operator.inputs[0], operator.outputs[0])
        ]
        if len(shapes[0]) != len(shapes[1]) or shapes[0][-1] != weight.values.shape[1]:
            return False
    return True


def replace(model, weight, form):
    """Stores the codes of an `Offset` form, and adds offsets behind each reader.

    Returns: list of (subgraph, tensor index, values of the scaled codes).
    """
    graph, found = model.subgraphs[weight.graph], form.codes
    decoder = Decoder(model, graph, weight.index, weight.name)
    stored = decoder.integers(found.codes, found.scales, found.bits, found.axis)
    decoder.finish_integers(stored, found.bits, found.scales.size)
    readers = weights.find_readers(graph)[weight.index]
    decoder.insert_before(readers[0])
    for operator in readers:
        _add_behind(model, graph, operator, form.offsets)
    scales = broadcastable(found.scales, 2, 0 if found.scales.size > 1 else None)
    return [(weight.graph, weight.index, scales * found.codes.astype(np.float32))]


def _add_behind(model, graph, operator, offsets):
    source, output = int(operator.inputs[0]), int(operator.outputs[0])
    shape = flatbuffer.tensor_shape(graph.tensors[output])
    sums = _like(model, graph, source, (*shape[:-1], 1))
    inner, products = _like(model, graph, output, shape), _like(model, graph, output, shape)
    writer = Writer(model, graph)
    options = ReducerOptionsT()
    options.keepDims = True
    inputs = [source, writer.shared([len(shape) - 1])]
    writer.apply(BuiltinOperator.SUM, inputs, None, options, output=sums)
    inputs = [sums, writer.constant(offsets)]
    writer.apply(BuiltinOperator.MUL, inputs, None, MulOptionsT(), output=products)
    options = AddOptionsT()
    options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
    operator.builtinOptions.fusedActivationFunction = ActivationFunctionType.NONE
    operator.outputs[0] = inner
    writer.apply(BuiltinOperator.ADD, [inner, products], None, options, output=output)
    writer.insert_after(operator)


def _like(model, graph, index, shape):
    """A new float tensor of a shape, open in its leading dimensions where tensor `index` is."""
    new = model.add_tensor(graph, shape, TensorType.FLOAT32)
    signature = graph.tensors[index].shapeSignature
    if signature is not None:
        graph.tensors[new].shapeSignature = np.array([*signature[:-1], shape[-1]], np.int32)
    return new
