"""Where the constants lie in the bytes of a .tflite file: a bounds-checked reader of four tables.

It reads only what the archive needs (buffers, the type and first dimension of their tensors, the
scale vectors) and needs neither TensorFlow nor generated schema code. Field numbers are those of
LiteRT's schema.fbs, version 3.
"""

import dataclasses
import struct

MODEL_SUBGRAPHS, MODEL_BUFFERS = 2, 4
SUBGRAPH_TENSORS = 0
TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_QUANTIZATION = 0, 1, 2, 4
QUANTIZATION_SCALE = 2
BUFFER_DATA = 0
FLOAT32 = 0


@dataclasses.dataclass(frozen=True, order=True)
class Constant:
    """Bytes `start` to `start + size` of a file: the data of one buffer or one scale vector.

    Attributes:
      start: int, offset in the file.
      size: int, bytes.
      is_float: whether the bytes are float32 values.
      rows: int >= 1, equal slices along the first dimension; 1 where the data do not divide so.
    """

    start: int
    size: int
    is_float: bool
    rows: int


def find_constants(tflite):
    """Finds the buffers and scale vectors of a .tflite file.

    Args:
      tflite: bytes of the file.

    Returns: list of `Constant` in file order, without overlaps. Empty for bytes that are no
      .tflite file or that a reader would run out of.
    """
    if tflite[4:8] != b"TFL3":
        return []
    try:
        found = _read_model(tflite)
    except struct.error:
        return []
    return _without_overlaps(sorted(found), len(tflite))


def _read_model(data):
    model = _follow(data, 0)
    uses, found = {}, []
    for subgraph in _tables(data, model, MODEL_SUBGRAPHS):
        for tensor in _tables(data, subgraph, SUBGRAPH_TENSORS):
            buffer = _scalar(data, tensor, TENSOR_BUFFER, "<I")
            uses[buffer] = (
                _scalar(data, tensor, TENSOR_TYPE, "<b") == FLOAT32,
                _first_dimension(data, tensor),
            )
            found += _scales(data, tensor)
    for index, buffer in enumerate(_tables(data, model, MODEL_BUFFERS)):
        start, size = _vector(data, buffer, BUFFER_DATA)
        is_float, rows = uses.get(index, (False, 1))
        found.append(Constant(start, size, is_float and size % 4 == 0, _divisor(rows, size)))
    return found


def _scales(data, tensor):
    at = _field(data, tensor, TENSOR_QUANTIZATION)
    if not at:
        return []
    start, count = _vector(data, _follow(data, at), QUANTIZATION_SCALE)
    return [Constant(start, 4 * count, True, 1)]


def _first_dimension(data, tensor):
    start, count = _vector(data, tensor, TENSOR_SHAPE)
    return struct.unpack_from("<i", data, start)[0] if count else 1


def _divisor(rows, size):
    return rows if 0 < rows <= size and size % rows == 0 else 1


def _without_overlaps(constants, length):
    kept, end = [], 0
    for constant in constants:
        if constant.size and constant.start >= end and constant.start + constant.size <= length:
            kept.append(constant)
            end = constant.start + constant.size
    return kept


def _follow(data, at):
    return at + struct.unpack_from("<I", data, at)[0]


def _field(data, table, number):
    """Returns the offset of a table's field in the file, or 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise struct.error("vtable before the file")
    slot = 4 + 2 * number
    if slot + 2 > struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", data, vtable + slot)[0]
    return table + offset if offset else 0


def _scalar(data, table, number, form):
    at = _field(data, table, number)
    return struct.unpack_from(form, data, at)[0] if at else 0


def _vector(data, table, number):
    """Returns the offset of a vector's first element and its number of elements."""
    at = _field(data, table, number)
    if not at:
        return 0, 0
    start = _follow(data, at)
    return start + 4, struct.unpack_from("<I", data, start)[0]


def _tables(data, table, number):
    start, count = _vector(data, table, number)
    for index in range(count):
        yield _follow(data, start + 4 * index)
