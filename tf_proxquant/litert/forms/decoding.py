"""Decodes weights in NumPy, operator by operator, without running anything from the file."""

import dataclasses

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType

from tf_proxquant.litert.forms import indexed
from tf_proxquant.litert.read import flatbuffer

# A file of n bytes decodes to at most this many weights per byte, whatever its shapes claim.
MAX_EXPANSION = 64


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor that depends on constants only.

    Attributes:
      values: array, float32 where the file says so.
      constants: indices of the constants that it is made of.
      operators: names of the operators that make it, in order.
    """

    values: np.ndarray
    constants: tuple[int, ...]
    operators: tuple[str, ...]


def decode_graph(model, graph, max_elements):
    """Every tensor of a graph that can be computed from constants alone.

    Args:
      model: `flatbuffer.Model`.
      graph: one of its subgraphs.
      max_elements: of any tensor.

    Returns: dict {tensor index: Stored}.
    Raises: ValueError: if a constant does not fit its shape or an operator its inputs.
    """
    known = {}
    for index, tensor in enumerate(graph.tensors):
        if model.constant(tensor) is not None and _is_readable(tensor):
            _check_size(model, tensor, max_elements)
            known[index] = Stored(model.array(tensor), (index,), ())
    for operator in graph.operators:
        name = model.operator_name(operator)
        inputs = [] if operator.inputs is None else [int(i) for i in operator.inputs]
        if name in _OPERATORS and inputs and known.keys() >= set(inputs):
            output = int(operator.outputs[0])
            sources = [known[i] for i in inputs]
            try:
                values = _OPERATORS[name](model, graph, operator, *(s.values for s in sources))
            except (IndexError, ValueError, TypeError) as error:
                raise ValueError(f"{name} does not fit its constants: {error}") from error
            if values.size > max_elements:
                raise ValueError(f"{name} expands to {values.size} values")
            known[output] = Stored(
                values,
                tuple(dict.fromkeys(c for s in sources for c in s.constants)),
                (*(n for s in sources for n in s.operators), name),
            )
    return known


def _is_readable(tensor):
    return tensor.type in flatbuffer.BITS or tensor.type in flatbuffer.NUMPY_TYPES


def _check_size(model, tensor, max_elements):
    shape, size = flatbuffer.tensor_shape(tensor), model.constant(tensor).size
    count = int(np.prod([float(n) for n in shape]))
    bits = flatbuffer.BITS.get(tensor.type)
    bits = bits or 8 * flatbuffer.NUMPY_TYPES[tensor.type].itemsize
    if count > max_elements or size != -(-count * bits // 8):
        raise ValueError(f"a constant of shape {shape} with {bits} bits has {size} bytes")


def _dequantize(model, graph, operator, codes):
    tensor = graph.tensors[operator.inputs[0]]
    if codes.dtype.kind == "f":
        return codes.astype(np.float32)
    parameters = tensor.quantization
    scale = np.asarray(parameters.scale, np.float32)
    zero = np.zeros(1) if parameters.zeroPoint is None else parameters.zeroPoint
    shape = [1] * codes.ndim
    if scale.size > 1:
        shape[parameters.quantizedDimension] = -1
    zero = np.asarray(zero, np.float32).reshape(shape if np.size(zero) > 1 else [1] * codes.ndim)
    return scale.reshape(shape) * (codes.astype(np.float32) - zero)


def _cast(model, graph, operator, values):
    dtype = flatbuffer.NUMPY_TYPES.get(graph.tensors[operator.outputs[0]].type)
    if dtype is None:
        raise ValueError("unknown output type")
    with np.errstate(invalid="ignore"):  # a NaN, which only a damaged file casts
        return values.astype(dtype)


def _gather(model, graph, operator, table, places):
    axis = operator.builtinOptions.axis if operator.builtinOptions else 0
    if table.ndim == 0 or axis != 0:
        raise ValueError(f"axis {axis} of {table.ndim} dimensions")
    if places.size * table[:1].size > MAX_EXPANSION * max(places.size + table.size, 1 << 10):
        raise ValueError("more values than the file has room for")
    return table[places]


def _reshape(model, graph, operator, values, shape=None):
    return values.reshape(flatbuffer.tensor_shape(graph.tensors[operator.outputs[0]]))


def _pairwise(function):
    def apply(model, graph, operator, first, second):
        shape = np.broadcast_shapes(first.shape, second.shape)
        if np.prod([float(n) for n in shape]) > MAX_EXPANSION * (first.size + second.size):
            raise ValueError("more values than the file has room for")
        return function(first, second)

    return apply


def _decode_tables(model, graph, operator, packed, tables):
    shape = flatbuffer.tensor_shape(graph.tensors[operator.outputs[0]])
    return indexed.decode(packed, tables, shape)


_OPERATORS = {
    "DEQUANTIZE": _dequantize,
    "CAST": _cast,
    "GATHER": _gather,
    "RESHAPE": _reshape,
    "ADD": _pairwise(np.add),
    "MUL": _pairwise(np.multiply),
    "MAXIMUM": _pairwise(np.maximum),
    "MINIMUM": _pairwise(np.minimum),
    flatbuffer.DECODE: _decode_tables,
}


def form_name(stored, model, graph):
    """How the report calls the form that `stored` was decoded from."""
    if stored.operators == (flatbuffer.DECODE,):
        return f"{indexed.index_bits(model.array(graph.tensors[stored.constants[1]]))} bit table"
    types = [graph.tensors[i].type for i in stored.constants]
    packed = [flatbuffer.TYPE_NAMES[t].lower() for t in types if t in PACKED]
    operators = set(stored.operators)
    if not packed:
        return flatbuffer.TYPE_NAMES[types[0]].lower()
    if "uint8" in packed and "GATHER" in operators:
        return "1 bit"
    if "GATHER" in operators:
        return f"{packed[0]} table"
    if operators & {"MAXIMUM", "MINIMUM"}:
        return f"{packed[0]} clamp"
    if "ADD" in operators and len(packed) == 1:
        return f"{packed[0]} odd"
    return " + ".join(packed)


PACKED = (TensorType.INT8, TensorType.INT4, TensorType.INT2, TensorType.UINT8, TensorType.FLOAT16)
