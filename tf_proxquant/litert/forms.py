"""Lossless low-bit forms of a weight tensor: what is stored, and the operators that decode it.

A form looks at a float32 tensor and answers with an `Encoding`, or None where it cannot hold the
tensor exactly. The encoding then writes its constants and decoding operators into a model.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

from tf_proxquant.litert import flatbuffer, levels

# Bytes of a tensor, an operator and their vectors in a stripped file, measured on such files.
OPERATOR_BYTES = 120


@dataclasses.dataclass(frozen=True)
class Encoding:
    """A form applied to one tensor.

    Attributes:
      form: name of the form, as the report shows it.
      bits: stored bits per weight, without scales and tables.
      num_bytes: stored bytes, scales, tables and operators included.
      write: function (`Decoder`) -> None that writes constants and operators.
    """

    form: str
    bits: float
    num_bytes: int
    write: Callable


class Decoder:
    """Collects the operators that decode one weight tensor of a graph.

    Args:
      model: `flatbuffer.Model`.
      graph: the subgraph of the tensor.
      index: index of the tensor; the last operator writes it, so that its readers stay as they are.
    """

    def __init__(self, model, graph, index):
        self.model, self.graph, self.index = model, graph, index
        self.operators = []

    @property
    def shape(self):
        return flatbuffer.tensor_shape(self.graph.tensors[self.index])

    def constant(self, data, type_, shape=None, quantization=None):
        """Adds a constant tensor and returns its index."""
        shape = data.shape if shape is None else shape
        return self.model.add_tensor(
            self.graph, shape, type_, data, self._name(), quantization=quantization
        )

    def apply(self, builtin, version, inputs, options=None, shape=None, type_=TensorType.FLOAT32):
        """Adds an operator; `shape` and `type_` describe its result, which is returned.

        shape=None makes it the last operator: its result is the weight tensor itself.
        """
        if shape is None:
            output = self.index
            self.graph.tensors[output].buffer = 0
        else:
            output = self.model.add_tensor(self.graph, shape, type_, name=self._name())
        operator = self.model.make_operator(builtin, version, inputs, [output], options)
        self.operators.append(operator)
        return output

    def _name(self):
        return flatbuffer.layer_name(self.graph.tensors[self.index]).encode()


def encode_integer(weights, bits, axis=None):
    """Codes k of `bits` bits with weight = float32(scale * k), behind one DEQUANTIZE.

    int8 keeps to -127 .. 127; int4 and int2 use their whole range. Returns None where the levels
    of some channel are not integer multiples of one scale.
    """
    largest = (1 << (bits - 1)) - 1
    found = levels.read_levels(weights, axis, max_levels=min(1 << bits, levels.MAX_LEVELS))
    grid = found and levels.integer_grid(found.values, largest, None if bits == 8 else -largest - 1)
    if not grid:
        return None
    scales, level_codes = grid
    codes = np.take_along_axis(level_codes, levels.index_levels(weights, found), axis=1)
    codes = levels.from_rows(codes.astype(np.int8), weights.shape, axis)
    num_bytes = -(-codes.size * bits // 8) + 4 * scales.size + OPERATOR_BYTES
    return Encoding(
        f"int{bits}",
        bits,
        num_bytes,
        lambda decoder: _write_integer(decoder, codes, scales, bits, axis),
    )


INTEGER_TYPES = {8: TensorType.INT8, 4: TensorType.INT4, 2: TensorType.INT2}


def add_integer(decoder, codes, scales, bits, axis):
    """Adds a constant of signed `bits`-bit codes with its scales."""
    data = codes if bits == 8 else flatbuffer.pack_bits(codes, bits)
    parameters = flatbuffer.quantization(scales, axis or 0)
    return decoder.constant(data, INTEGER_TYPES[bits], codes.shape, parameters)


def dequantize_version(bits, num_scales):
    """The operator version that reads `bits`-bit codes with `num_scales` scales."""
    return {8: 2 if num_scales == 1 else 5, 4: 6, 2: 7}[bits]


def _write_integer(decoder, codes, scales, bits, axis):
    stored = add_integer(decoder, codes, scales, bits, axis)
    version = dequantize_version(bits, scales.size)
    decoder.apply(BuiltinOperator.DEQUANTIZE, version, [stored])
