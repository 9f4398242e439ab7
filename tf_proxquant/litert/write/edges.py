"""Inputs and outputs of an integer file as integers: no QUANTIZE and DEQUANTIZE at its edges."""

import numpy as np
from ai_edge_litert.schema_py_generated import (
    BuiltinOperator,
    QuantizationParametersT,
    TensorType,
)

from tf_proxquant.litert.read import flatbuffer
from tf_proxquant.litert.read.weights import find_readers

FLOAT = "float32"
TYPES = {"int8": TensorType.INT8, "uint8": TensorType.UINT8}
# From the codes of int8 to those of uint8.
OFFSET = 128


def set_type(content, io):
    """Makes the float inputs and outputs of an integer file integers of 8 bits.

    The codes of "int8" are those that the file computes with; for "uint8" an operator QUANTIZE
    moves them by 128. Inputs that are integers, such as word numbers, stay.

    Args:
      content: bytes of a file of the static profile.
      io: "float32", which changes nothing, "int8" or "uint8".

    Returns: bytes of the file.
    Raises: ValueError: if an operator that computes with floats reads an input or makes an output.
    """
    if io == FLOAT:
        return content
    model = flatbuffer.Model(content)
    graph = model.subgraphs[0]
    for index in map(int, graph.inputs):
        if graph.tensors[index].type == TensorType.FLOAT32:
            _set_input(model, graph, index, io)
    for index in map(int, graph.outputs):
        if graph.tensors[index].type == TensorType.FLOAT32:
            _set_output(model, graph, index, io)
    model.prune()
    return model.to_bytes()


def _set_input(model, graph, index, io):
    readers = find_readers(graph).get(index, [])
    names = {model.operator_name(operator) for operator in readers}
    if names - {"QUANTIZE"} or index in graph.outputs:
        _refuse(graph.tensors[index], "input", io, names)
    if not readers:
        return
    inner = int(readers[0].outputs[0])
    _set_codes(graph.tensors[index], graph.tensors[inner], io)
    if io == "int8":  # other scales are made of this one
        graph.operators = [operator for operator in graph.operators if operator is not readers[0]]
        _redirect(graph, inner, index)


def _set_output(model, graph, index, io):
    (maker,) = [operator for operator in graph.operators if index in operator.outputs]
    inner = int(maker.inputs[0])
    readers = {model.operator_name(operator) for operator in find_readers(graph).get(index, [])}
    is_edge = inner in graph.inputs or inner in graph.outputs
    if model.operator_name(maker) != "DEQUANTIZE" or readers or is_edge:
        _refuse(graph.tensors[index], "output", io, readers or {model.operator_name(maker)})
    _set_codes(graph.tensors[index], graph.tensors[inner], io)
    if io == "int8":
        graph.operators = [operator for operator in graph.operators if operator is not maker]
        _redirect(graph, inner, index)
    else:
        maker.opcodeIndex = model.opcode_index(BuiltinOperator.QUANTIZE, 1)
        maker.builtinOptionsType, maker.builtinOptions = 0, None


def _set_codes(tensor, inner, io):
    """Gives a float tensor the type `io`, and the codes of `inner`."""
    if inner.type != TensorType.INT8:
        kind = flatbuffer.TYPE_NAMES[inner.type]
        _refuse(tensor, "tensor", io, {kind})
    scale, zero = inner.quantization.scale, np.asarray(inner.quantization.zeroPoint)
    tensor.type, tensor.quantization = TYPES[io], QuantizationParametersT()
    tensor.quantization.scale = scale
    tensor.quantization.zeroPoint = zero + (OFFSET if io == "uint8" else 0)


def _redirect(graph, old, new):
    """Lets every operator read and write `new` in place of `old`."""
    for operator in graph.operators:
        for indices in (operator.inputs, operator.outputs):
            if indices is not None:
                indices[indices == old] = new


def _refuse(tensor, side, io, found):
    raise ValueError(
        f"io={io!r} needs integers behind every input and before every output; the {side} "
        f"{flatbuffer.layer_name(tensor)!r} of this file meets {', '.join(sorted(found))} of "
        "floats. Take io='float32'."
    )
