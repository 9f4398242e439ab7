"""Lookups of rows of integer tables: the rows that are asked for are decoded, never the table.

GATHER over a float table becomes EMBEDDING_LOOKUP over integer codes, which is exact and keeps no
float copy, or for one bit GATHER over bytes. See `forms.tables`.
"""

import numpy as np
from ai_edge_litert.schema_py_generated import (
    AddOptionsT,
    BuiltinOperator,
    CastOptionsT,
    GatherOptionsT,
    MulOptionsT,
    StridedSliceOptionsT,
    TensorType,
)

from tf_proxquant import packing
from tf_proxquant.litert.read import flatbuffer, weights
from tf_proxquant.litert.write.writer import Writer

LOOKUP_VERSIONS = {8: 4, 4: 4, 2: 5}


def replace(model, weight, form):
    """Turns the lookups of `weight` over to the `Rows` form.

    Returns: list of (subgraph, index of the rows that were looked up, values of the table).
    """
    graph = model.subgraphs[weight.graph]
    stored = _store(Writer(model, graph, weight.name), form.table)
    return [
        (weight.graph, _replace(Writer(model, graph), operator, form.table, stored), weight.values)
        for operator in find_lookups(model, weight)
    ]


def find_lookups(model, weight):
    """The operators that pick whole rows of `weight`."""
    graph = model.subgraphs[weight.graph]
    readers = weights.find_readers(graph).get(weight.index, ())
    return [operator for operator in readers if _is_lookup(model, graph, weight, operator)]


def _is_lookup(model, graph, weight, operator):
    """Whether an operator is a GATHER of whole rows of a table."""
    if model.operator_name(operator) != "GATHER" or weight.values.ndim != 2:
        return False
    options = operator.builtinOptions
    places = graph.tensors[operator.inputs[1]]
    output = graph.tensors[operator.outputs[0]]
    signature = output.shape if output.shapeSignature is None else output.shapeSignature
    is_plain = options is None or (options.axis == 0 and options.batchDims == 0)
    # RESHAPE can leave one dimension open.
    can_reshape = sum(int(n) < 0 for n in signature) <= 1
    return is_plain and places.type == TensorType.INT32 and can_reshape


def _store(writer, table):
    """Adds the codes of a table; one-bit rows begin with a byte of their own."""
    if table.bits > 1:
        return writer.integers(table.codes, table.scales, table.bits, 0)
    rows, columns = table.codes.shape
    padded = np.pad(table.codes, ((0, 0), (0, -columns % 8)))
    packed = packing.pack_codes(padded.reshape(-1), 1)
    return writer.constant(packed.reshape(rows, -1), TensorType.UINT8, name=writer.name)


def _replace(writer, operator, table, stored):
    """GATHER becomes RESHAPE to a list -> lookup of integers -> RESHAPE back.

    Returns: index of the tensor of the rows, (places, columns).
    """
    graph = writer.graph
    places, output = int(operator.inputs[1]), int(operator.outputs[0])
    shape = flatbuffer.tensor_shape(graph.tensors[output])
    count = int(np.prod(shape[:-1]))
    size = (count, shape[-1])
    flat = writer.reshape(places, (count,), [-1], TensorType.INT32)
    if table.bits == 1:
        rows = _pick_signs(writer, table, flat, stored, writer.signs(), size)
    else:
        version = LOOKUP_VERSIONS[table.bits]
        rows = writer.apply(BuiltinOperator.EMBEDDING_LOOKUP, [flat, stored], size, version=version)
    if table.levels is not None:
        rows = _pick_levels(writer, table, flat, rows, size)
    signature = graph.tensors[output].shapeSignature
    target = shape if signature is None else signature
    writer.reshape(rows, shape, target, TensorType.FLOAT32, output)
    writer.replace(operator)
    return rows


def _pick_signs(writer, table, flat, stored, signs, size):
    """Rows of bytes, then of signs, then of weights; what pads the last byte is cut off."""
    count, columns = size
    width = -(-columns // 8)
    gather = BuiltinOperator.GATHER
    picked = writer.apply(
        gather, [stored, flat], (count, width), GatherOptionsT(), type_=TensorType.UINT8
    )
    picked = writer.apply(
        BuiltinOperator.CAST, [picked], (count, width), CastOptionsT(), type_=TensorType.INT32
    )
    rows = writer.apply(gather, [signs, picked], (count, width, 8), GatherOptionsT())
    rows = writer.reshape(rows, (count, 8 * width), [-1, 8 * width], TensorType.FLOAT32)
    if columns % 8:
        vectors = np.array([[0, 0], size, [1, 1]], np.int32)
        cut = [writer.constant(vector, TensorType.INT32) for vector in vectors]
        options = StridedSliceOptionsT()
        options.endMask = 1  # all places, however many there are
        rows = writer.apply(BuiltinOperator.STRIDED_SLICE, [rows, *cut], size, options)
    scales = writer.constant(table.scales)
    if len(table.scales) > 1:
        places = writer.reshape(flat, (count, 1), [-1, 1], TensorType.INT32)
        scales = writer.apply(gather, [scales, places], (count, 1), GatherOptionsT())
    return writer.apply(BuiltinOperator.MUL, [rows, scales], size, MulOptionsT())


def _pick_levels(writer, table, flat, codes, size):
    """Rows of codes to rows of levels: GATHER at row * width + code in the list of all levels."""
    width = np.float32(table.levels.shape[1])
    starts = writer.apply(
        BuiltinOperator.CAST, [writer.reshape(flat, (size[0], 1), [-1, 1], TensorType.INT32)],
        (size[0], 1), CastOptionsT(),
    )  # fmt: skip
    for builtin, number, options in (
        (BuiltinOperator.MUL, width, MulOptionsT()),
        (BuiltinOperator.ADD, np.float32(1 << (table.bits - 1)), AddOptionsT()),
    ):
        starts = writer.apply(builtin, [starts, writer.constant(number)], (size[0], 1), options)
    places = writer.apply(BuiltinOperator.ADD, [codes, starts], size, AddOptionsT())
    places = writer.apply(
        BuiltinOperator.CAST, [places], size, CastOptionsT(), type_=TensorType.INT32
    )
    listed = writer.constant(table.levels.reshape(-1))
    return writer.apply(BuiltinOperator.GATHER, [listed, places], size, GatherOptionsT())
