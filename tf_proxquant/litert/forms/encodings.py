"""Lossless low-bit forms of a weight tensor: what is stored, and the operators that decode it.

A form looks at a float32 tensor and answers with an `Encoding`, or None where it cannot hold the
tensor exactly. The encoding then writes its constants and decoding operators into a model.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from ai_edge_litert.schema_py_generated import (
    AddOptionsT,
    BuiltinOperator,
    CastOptionsT,
    GatherOptionsT,
    TensorType,
)

from tf_proxquant import packing
from tf_proxquant.litert.read import flatbuffer, levels

# Bytes of a tensor, an operator and their vectors in a file without names, measured on such files.
OPERATOR_BYTES = 90
INTEGER_TYPES = {8: TensorType.INT8, 4: TensorType.INT4, 2: TensorType.INT2}
# The operator versions that read these types: an older runtime refuses the file.
DEQUANTIZE_VERSIONS = {8: 5, 4: 6, 2: 7}


@dataclasses.dataclass(frozen=True)
class Encoding:
    """A form applied to one tensor.

    Attributes:
      form: name of the form, as the report shows it.
      bits: stored bits per weight, without scales and tables.
      num_bytes: stored bytes, scales, tables and operators included (estimate).
      write: function (`Decoder`) -> None that writes constants and operators.
      decode_cost: nanoseconds per weight and run that decoding takes, measured on x86; 0 for what
        the runtime decodes once.
      keeps_xnnpack: whether XNNPACK still computes the operator that reads the weights.
    """

    form: str
    bits: float
    num_bytes: int
    write: Callable
    decode_cost: float = 0.0
    keeps_xnnpack: bool = False


class Decoder:
    """Collects the operators that decode one weight tensor of a graph.

    Args:
      model: `flatbuffer.Model`.
      graph: the subgraph of the tensor.
      index: of the tensor; the last operator writes it, so that its readers stay as they are.

    Attributes:
      operators: to go before the first reader of the tensor, in order.
    """

    def __init__(self, model, graph, index):
        self.model, self.graph, self.index = model, graph, index
        self.operators = []
        self.shape = flatbuffer.tensor_shape(graph.tensors[index])
        self._name = flatbuffer.layer_name(graph.tensors[index]).encode()

    def constant(self, data, type_=TensorType.FLOAT32, shape=None, quantization=None):
        """Adds a constant tensor and returns its index."""
        shape = data.shape if shape is None else shape
        return self.model.add_tensor(self.graph, shape, type_, data, self._name, quantization)

    def integers(self, codes, scales, bits, axis=None):
        """Adds a constant of signed `bits`-bit codes with its scales and returns its index."""
        data = codes if bits == 8 else packing.pack_codes(codes, bits)
        parameters = flatbuffer.quantization(scales, axis or 0)
        return self.constant(data, INTEGER_TYPES[bits], codes.shape, parameters)

    def apply(self, builtin, inputs, shape, options=None, *, version=1, type_=TensorType.FLOAT32):
        """Adds an operator and returns its new output tensor of the given shape and type."""
        output = self.model.add_tensor(self.graph, shape, type_)
        self.operators.append(self.model.make_operator(builtin, version, inputs, [output], options))
        return output

    def finish(self, builtin, inputs, options=None, *, version=1):
        """Adds the last operator, whose output is the weight tensor itself."""
        self.graph.tensors[self.index].buffer = 0
        operator = self.model.make_operator(builtin, version, inputs, [self.index], options)
        self.operators.append(operator)


def find_codes(weights, bits, axis=None):
    """(scales, int8 codes) with weight = float32(scale * code), or None off the grid.

    int8 keeps to -127 .. 127; int4 and int2 use their whole range.
    """
    largest = (1 << (bits - 1)) - 1
    smallest = -largest if bits == 8 else -largest - 1
    found = levels.read_levels(weights, axis, min(1 << bits, levels.MAX_LEVELS))
    grid = found and levels.integer_grid(found.values, largest, smallest)
    if not grid:
        return None
    scales, level_codes = grid
    codes = np.take_along_axis(level_codes, levels.index_levels(weights, found), axis=1)
    return scales, levels.from_rows(codes.astype(np.int8), weights.shape, axis)


def encode_integer(weights, bits, axis=None):
    """Codes of 8, 4 or 2 bits behind one DEQUANTIZE; see `find_codes`."""
    grid = find_codes(weights, bits, axis)
    if grid is None:
        return None
    scales, codes = grid
    version = 2 if bits == 8 and scales.size == 1 else DEQUANTIZE_VERSIONS[bits]

    def write(decoder):
        stored = decoder.integers(codes, scales, bits, axis)
        decoder.finish(BuiltinOperator.DEQUANTIZE, [stored], version=version)

    num_bytes = -(-codes.size * bits // 8) + 4 * scales.size + OPERATOR_BYTES
    return Encoding(f"int{bits}", bits, num_bytes, write, keeps_xnnpack=bits == 8)


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

    def write(decoder):
        value = decoder.integers(codes, scales, 2, axis)
        steps = [(BuiltinOperator.DEQUANTIZE, (), DEQUANTIZE_VERSIONS[2])]
        steps += [(builtin, (decoder.constant(bound),), 1) for builtin, bound in cuts]
        for builtin, bound, version in steps[:-1]:
            value = decoder.apply(builtin, [value, *bound], codes.shape, version=version)
        builtin, bound, version = steps[-1]
        decoder.finish(builtin, [value, *bound], version=version)

    num_bytes = -(-codes.size // 4) + (4 * scales.size + OPERATOR_BYTES) * (1 + len(cuts))
    return Encoding("int2 clamp", 2, num_bytes, write, decode_cost=0.2 * len(cuts))


def broadcastable(values, ndim, axis):
    """`values` (channels,) with dimensions of 1 around, to broadcast along `axis`."""
    shape = [1] * ndim
    if axis is not None:
        shape[axis] = -1
    return np.ascontiguousarray(values).reshape(shape)


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
        place = decoder.integers(codes, [1.0], bits)
        version = 2 if bits == 8 else DEQUANTIZE_VERSIONS[bits]
        place = decoder.apply(BuiltinOperator.DEQUANTIZE, [place], codes.shape, version=version)
        start = decoder.constant(starts)
        place = decoder.apply(BuiltinOperator.ADD, [place, start], codes.shape, AddOptionsT())
        place = decoder.apply(
            BuiltinOperator.CAST, [place], codes.shape, CastOptionsT(), type_=TensorType.INT32
        )
        table = decoder.constant(found.values.reshape(-1))
        decoder.finish(BuiltinOperator.GATHER, [table, place], GatherOptionsT())

    num_bytes = -(-codes.size * bits // 8) + found.values.nbytes + starts.nbytes
    num_bytes += 4 * OPERATOR_BYTES
    return Encoding(f"int{bits} table", bits, num_bytes, write, decode_cost=6.0)


def encode_sum(weights, axis=None):
    """Up to four levels as the sum of two int2 tensors, each zero where the other is not."""
    found = levels.read_levels(weights, axis, 4)
    if found is None:
        return None
    indices, rows = levels.index_levels(weights, found), levels.to_rows(weights, axis)
    is_outer = (indices == 0) | (indices == found.counts[:, None] - 1)
    parts = []
    for mask in (is_outer, ~is_outer):
        part = levels.from_rows(np.where(mask, rows, 0), weights.shape, axis)
        part_levels = levels.read_levels(part, axis, 4)
        grid = levels.integer_grid(part_levels.values, 1, -2)
        if not grid:
            return None
        codes = np.take_along_axis(grid[1], levels.index_levels(part, part_levels), axis=1)
        parts.append((grid[0], levels.from_rows(codes.astype(np.int8), weights.shape, axis)))

    def write(decoder):
        halves = [
            decoder.apply(
                BuiltinOperator.DEQUANTIZE,
                [decoder.integers(codes, scales, 2, axis)],
                codes.shape,
                version=DEQUANTIZE_VERSIONS[2],
            )
            for scales, codes in parts
        ]
        decoder.finish(BuiltinOperator.ADD, halves, AddOptionsT())

    num_bytes = -(-weights.size // 2) + 8 * len(found.values) + 3 * OPERATOR_BYTES
    return Encoding("int2 + int2", 4, num_bytes, write, decode_cost=0.2)
