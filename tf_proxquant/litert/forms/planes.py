"""One bit per weight: bytes that pick rows of eight signs from a table."""

import numpy as np
from ai_edge_litert.schema_py_generated import (
    BuiltinOperator,
    CastOptionsT,
    GatherOptionsT,
    MulOptionsT,
    ReshapeOptionsT,
    TensorType,
)

from tf_proxquant import packing
from tf_proxquant.litert.forms import encodings as forms
from tf_proxquant.litert.read import levels

# Row i holds the bits of i as signs, the lowest first.
SIGN_ROWS = 2 * packing.unpack_codes(bytes(range(256)), 1, 2048).astype(np.int8).reshape(256, 8) - 1
TABLE_NAME = b"tf_proxquant/signs"


def encode_planes(weights, axis=None):
    """Levels {-s, s}: one bit per weight, decoded at every call (CAST, GATHER, RESHAPE, MUL).

    The table of 256 rows is stored once for each graph, as int2.

    Args:
      weights: float32 array.
      axis: the axis that keeps its own s, or None.

    Returns: `forms.Encoding`, or None for other levels or a size that eight does not divide.
    """
    found = levels.read_levels(weights, axis, 2)
    if found is None or weights.size % 8:
        return None
    low, high = found.values[:, 0], found.values[:, -1]
    if (np.abs(low) != np.abs(high)).any():
        return None
    bits = packing.pack_codes((weights > 0).astype(np.uint8), 1)
    scales = forms.broadcastable(np.abs(high), weights.ndim, axis)
    num_bytes = bits.nbytes + scales.nbytes + 4 * forms.OPERATOR_BYTES

    def write(decoder):
        table, size = sign_table(decoder), (bits.size,)
        index = decoder.constant(bits, TensorType.UINT8)
        index = decoder.apply(
            BuiltinOperator.CAST, [index], size, CastOptionsT(), type_=TensorType.INT32
        )
        rows = decoder.apply(BuiltinOperator.GATHER, [table, index], (*size, 8), GatherOptionsT())
        shape = decoder.constant(np.array(decoder.shape, np.int32), TensorType.INT32)
        signs = decoder.apply(
            BuiltinOperator.RESHAPE, [rows, shape], decoder.shape, ReshapeOptionsT()
        )
        decoder.finish(BuiltinOperator.MUL, [signs, decoder.constant(scales)], MulOptionsT())

    return forms.Encoding("1 bit", 1, num_bytes, write, decode_cost=1.0)


def sign_table(decoder):
    """Index of the graph's table; its DEQUANTIZE goes first, whoever reads it then."""
    model, graph = decoder.model, decoder.graph
    for index, tensor in enumerate(graph.tensors):
        if tensor.name == TABLE_NAME:
            return index
    stored = decoder.integers(SIGN_ROWS, 1.0, 2)
    table = model.add_tensor(graph, SIGN_ROWS.shape, TensorType.FLOAT32, name=TABLE_NAME)
    version = forms.DEQUANTIZE_VERSIONS[2]
    operator = model.make_operator(BuiltinOperator.DEQUANTIZE, version, [stored], [table])
    graph.operators.insert(0, operator)
    return table
