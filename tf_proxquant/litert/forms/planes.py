"""One bit per weight: bytes that pick rows of eight signs from a table."""

import numpy as np
from ai_edge_litert.schema_py_generated import (
    BuiltinOperator,
    CastOptionsT,
    GatherOptionsT,
    MulOptionsT,
    TensorType,
)

from tf_proxquant import packing
from tf_proxquant.litert.forms.codes import broadcastable
from tf_proxquant.litert.forms.form import OPERATOR_BYTES, Decoded
from tf_proxquant.litert.read import levels

BIT_COST = 0.6  # ns per weight: CAST, GATHER, RESHAPE, MUL


def encode_planes(weights, axis=None):
    """Levels {-s, s}: one bit per weight, decoded at every call (CAST, GATHER, RESHAPE, MUL).

    The table of 256 rows is stored once for each graph, as int2.

    Args:
      weights: float32 array.
      axis: the axis that keeps its own s, or None.

    Returns: `Decoded`, or None for other levels or a size that eight does not divide.
    """
    found = levels.read_levels(weights, axis, 2)
    if found is None or weights.size % 8:
        return None
    low, high = found.values[:, 0], found.values[:, -1]
    if (np.abs(low) != np.abs(high)).any():
        return None
    bits = packing.pack_codes((weights > 0).astype(np.uint8), 1)
    scales = broadcastable(np.abs(high), weights.ndim, axis)
    num_bytes = bits.nbytes + scales.nbytes + 4 * OPERATOR_BYTES

    def write(decoder):
        size = (bits.size,)
        index = decoder.constant(bits, TensorType.UINT8, name=decoder.name)
        index = decoder.apply(
            BuiltinOperator.CAST, [index], size, CastOptionsT(), type_=TensorType.INT32
        )
        inputs = [decoder.signs(), index]
        rows = decoder.apply(BuiltinOperator.GATHER, inputs, (*size, 8), GatherOptionsT())
        signs = decoder.reshape(rows, decoder.shape, decoder.shape)
        decoder.finish(BuiltinOperator.MUL, [signs, decoder.constant(scales)], MulOptionsT())

    return Decoded("1 bit", 1, num_bytes, decode_cost=BIT_COST, write=write)
