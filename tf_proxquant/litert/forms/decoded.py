"""Forms behind operators that make the float tensor of constants, for whoever reads it.

Each looks at a float32 tensor and answers with a `Decoded` form, or None where it cannot hold the
tensor exactly.
"""

import numpy as np
from ai_edge_litert.schema_py_generated import (
    AddOptionsT,
    BuiltinOperator,
    CastOptionsT,
    GatherOptionsT,
    MulOptionsT,
    TensorType,
)

from tf_proxquant.litert.forms.codes import broadcastable, find_codes
from tf_proxquant.litert.forms.form import OPERATOR_BYTES, Codes, Decoded, Offset
from tf_proxquant.litert.read import levels

ELEMENT_COST = 0.1  # ns per weight of one element-wise operator
TABLE_COST = 6.0
# The version of DEQUANTIZE that first reads float16.
HALF_DEQUANTIZE = 3


def encode_integer(weights, bits, axis=None):
    """Codes of 8, 4 or 2 bits behind one DEQUANTIZE; see `find_codes`."""
    found = find_codes(weights, bits, axis)
    if found is None:
        return None

    def write(decoder):
        stored = decoder.integers(found.codes, found.scales, bits, axis)
        decoder.finish_integers(stored, bits, found.scales.size)

    num_bytes = found.num_bytes + OPERATOR_BYTES
    return Decoded(
        f"int{bits}",
        bits,
        num_bytes,
        keeps_xnnpack=bits == 8,
        write=write,
        num_scales=found.scales.size,
    )


def encode_half(weights):
    """float16, the nearest of each value, behind DEQUANTIZE; beyond 65,504 that is infinite."""
    with np.errstate(over="ignore"):
        halves = weights.astype("<f2")

    def write(decoder):
        stored = decoder.constant(halves, TensorType.FLOAT16, name=decoder.name)
        decoder.finish(BuiltinOperator.DEQUANTIZE, [stored], version=HALF_DEQUANTIZE)

    return Decoded(
        "float16",
        16,
        halves.nbytes + OPERATOR_BYTES,
        keeps_xnnpack=True,
        write=write,
        values=halves.astype(np.float32),
    )


def encode_odd(weights, axis=None):
    """Levels {-3s, -s, s, 3s}: one int2 tensor c, and (2 c + 1) s by DEQUANTIZE, ADD, MUL."""
    found = _odd_codes(weights, axis)
    if found is None:
        return None
    scales = broadcastable(found.scales, weights.ndim, axis)

    def write(decoder):
        stored = decoder.integers(found.codes, [2.0], 2)
        even = decoder.dequantize(stored, 2, 1, weights.shape)
        one = decoder.constant(np.float32(1))
        odd = decoder.apply(BuiltinOperator.ADD, [even, one], weights.shape, AddOptionsT())
        decoder.finish(BuiltinOperator.MUL, [odd, decoder.constant(scales)], MulOptionsT())

    num_bytes = found.num_bytes + 3 * OPERATOR_BYTES
    return Decoded("int2 odd", 2, num_bytes, decode_cost=2 * ELEMENT_COST, write=write)


def encode_offset(weights):
    """Rows of levels {-3s, -s, s, 3s} as 2 s c + s, with the s behind the dense layer."""
    for axis in (None, 0):
        found = _odd_codes(weights, axis)
        if found is not None:
            doubled = Codes(2, 2 * found.scales, found.codes, 0)
            num_bytes = doubled.num_bytes + found.scales.nbytes + 5 * OPERATOR_BYTES
            return Offset("int2 odd", 2, num_bytes, codes=doubled, offsets=found.scales)
    return None


def _odd_codes(weights, axis):
    """`Codes` c with weight = float32((2 c + 1) * scale), or None for other levels."""
    found = levels.read_levels(weights, axis, 4)
    grid = found and levels.integer_grid(found.values, 3)
    if not grid or (grid[1] % 2 == 0).any():
        return None
    scales, odd = grid
    codes = np.take_along_axis((odd - 1) // 2, levels.index_levels(weights, found), axis=1)
    return Codes(2, scales, levels.from_rows(codes.astype(np.int8), weights.shape, axis), axis)


def encode_clamp(weights, axis=None):
    """Levels {-n, 0, p} with n != p: one int2 tensor, cut to [-n, p] after DEQUANTIZE."""
    found = levels.read_levels(weights, axis, 3)
    if found is None:
        return None
    low, high = np.minimum(found.values[:, 0], 0), np.maximum(found.values[:, -1], 0)
    is_inner = (found.values != low[:, None]) & (found.values != high[:, None])
    if (found.values[is_inner] != 0).any():
        return None
    rows = levels.to_rows(weights, axis)
    codes = (rows > 0).astype(np.int8) - (rows < 0).astype(np.int8)
    codes = levels.from_rows(codes, weights.shape, axis)
    scales = np.maximum(high, -low)
    scales[scales == 0] = 1
    cuts = [
        (builtin, broadcastable(bound, weights.ndim, axis))
        for builtin, bound in ((BuiltinOperator.MAXIMUM, low), (BuiltinOperator.MINIMUM, high))
        if (np.abs(bound) != scales).any()
    ]
    if not cuts:
        return None  # int2

    def write(decoder):
        stored = decoder.integers(codes, scales, 2, axis)
        value = decoder.dequantize(stored, 2, scales.size, codes.shape)
        for builtin, bound in cuts[:-1]:
            value = decoder.apply(builtin, [value, decoder.constant(bound)], codes.shape)
        builtin, bound = cuts[-1]
        decoder.finish(builtin, [value, decoder.constant(bound)])

    num_bytes = -(-codes.size // 4) + (4 * scales.size + OPERATOR_BYTES) * (1 + len(cuts))
    cost = ELEMENT_COST * len(cuts)
    return Decoded("int2 clamp", 2, num_bytes, decode_cost=cost, write=write)


def encode_table(weights, bits, axis=None):
    """Up to 2^bits levels of any kind per channel: codes that pick from a table of levels."""
    found = levels.read_levels(weights, axis, min(1 << bits, levels.MAX_LEVELS))
    if found is None or found.values.size >= 1 << 24:  # places are computed in float32
        return None
    half = 1 << (bits - 1)
    codes = levels.index_levels(weights, found).astype(np.int16) - half
    codes = levels.from_rows(codes.astype(np.int8), weights.shape, axis)
    starts = found.values.shape[1] * np.arange(len(found.values), dtype=np.float32) + half
    starts = broadcastable(starts.astype(np.float32), weights.ndim, axis)

    def write(decoder):
        stored = decoder.integers(codes, [1.0], bits)
        place = decoder.dequantize(stored, bits, 1, codes.shape)
        inputs = [place, decoder.constant(starts)]
        place = decoder.apply(BuiltinOperator.ADD, inputs, codes.shape, AddOptionsT())
        place = decoder.apply(
            BuiltinOperator.CAST, [place], codes.shape, CastOptionsT(), type_=TensorType.INT32
        )
        table = decoder.constant(found.values.reshape(-1))
        decoder.finish(BuiltinOperator.GATHER, [table, place], GatherOptionsT())

    num_bytes = -(-codes.size * bits // 8) + found.values.nbytes + starts.nbytes
    num_bytes += 4 * OPERATOR_BYTES
    return Decoded(f"int{bits} table", bits, num_bytes, decode_cost=TABLE_COST, write=write)


def encode_sum(weights, axis=None):
    """Up to four levels as the sum of two int2 tensors, each zero where the other is not."""
    found = levels.read_levels(weights, axis, 4)
    if found is None:
        return None
    indices, rows = levels.index_levels(weights, found), levels.to_rows(weights, axis)
    is_outer = (indices == 0) | (indices == found.counts[:, None] - 1)
    parts = []
    for mask in (is_outer, ~is_outer):
        part = find_codes(levels.from_rows(np.where(mask, rows, 0), weights.shape, axis), 2, axis)
        if part is None:
            return None
        parts.append(part)

    def write(decoder):
        halves = [
            decoder.dequantize(
                decoder.integers(part.codes, part.scales, 2, axis),
                2,
                part.scales.size,
                weights.shape,
            )
            for part in parts
        ]
        decoder.finish(BuiltinOperator.ADD, halves, AddOptionsT())

    num_bytes = sum(part.num_bytes for part in parts) + 3 * OPERATOR_BYTES
    return Decoded("int2 + int2", 4, num_bytes, decode_cost=ELEMENT_COST, write=write)
