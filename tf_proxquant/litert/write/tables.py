"""Weights of a static file as indices into tables of their levels, which tflite-micro decodes.

One operator TFLM_DECODE before each layer makes its int8 weights again, in the arena, while the
layer runs. tflite-micro alone has the operator. Where the weights have a scale for each channel it
takes a table for each channel, on the axis of the scales, and reads past the end of a single one.
"""

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator, OperatorCodeT, OperatorT, TensorType

from tf_proxquant.litert.forms import indexed
from tf_proxquant.litert.read import flatbuffer, weights
from tf_proxquant.litert.write.recoded import LAYERS


def apply(content, names, numbered=True):
    """The file with tables in place of those int8 weights that gain by it.

    Args:
      content: bytes of a static file.
      names: set of the names of weights.
      numbered: see `flatbuffer.Model.name_tensors`.

    Returns: bytes, of a file for tflite-micro alone; `content` where no tensor gains.
    """
    model, gained = flatbuffer.Model(content), False
    for graph in model.subgraphs:
        for index, readers in weights.find_readers(graph).items():
            tensor = graph.tensors[index]
            is_codes = tensor.type == TensorType.INT8 and model.constant(tensor) is not None
            # What is decoded lives until the next operator has run, so that two need two.
            if not is_codes or len(readers) != 1 or model.operator_name(readers[0]) not in LAYERS:
                continue
            axis = LAYERS[model.operator_name(readers[0])].axis
            codes = model.array(tensor)
            if indexed.bits_of(codes, axis) < 8:
                _decode_before(model, graph, index, readers[0], *indexed.encode(codes, axis))
                _drop_scales_of_bias(model, graph, readers[0])
                gained = True
    if not gained:
        return content
    model.drop_notes(keeps_others=numbered)
    model.prune()
    model.name_tensors(names, numbered)
    return model.to_bytes()


def _decode_before(model, graph, index, reader, packed, tables):
    tensor = graph.tensors[index]
    inputs = [
        model.add_tensor(graph, data.shape, TensorType.UINT8, data, name)
        for data, name in ((packed, tensor.name), (tables, b""))
    ]
    tensor.buffer, tensor.name = 0, b""
    operator = OperatorT()
    operator.opcodeIndex = _opcode_index(model)
    operator.inputs = np.array(inputs, np.int32)
    operator.outputs = np.array([index], np.int32)
    place = next(i for i, other in enumerate(graph.operators) if other is reader)
    graph.operators.insert(place, operator)


def _drop_scales_of_bias(model, graph, operator):
    """Beside weights with many scales, products of which they are, nobody reads those of a bias."""
    place = LAYERS[model.operator_name(operator)].bias
    has_bias = len(operator.inputs) > place and operator.inputs[place] >= 0
    if has_bias and graph.tensors[operator.inputs[1]].quantization.scale.size > 1:
        graph.tensors[operator.inputs[place]].quantization = None


def _opcode_index(model):
    codes = model.model.operatorCodes
    for index, entry in enumerate(codes):
        if entry.customCode == flatbuffer.DECODE.encode():
            return index
    entry = OperatorCodeT()
    entry.builtinCode = entry.deprecatedBuiltinCode = BuiltinOperator.CUSTOM
    entry.customCode, entry.version = flatbuffer.DECODE.encode(), 1
    codes.append(entry)
    return len(codes) - 1
