"""int8 codes as indices into a table of the levels of each channel, as tflite-micro stores them.

Format (tflite-micro, compression/decode.py and lut.py): the indices, highest bit first, without
gaps; beside them 16 bytes, of which 0 is the kind of decoding (0: tables), 1 its version, 4 the
version of tables, 5 the axis in the upper four bits and the bits of an index in the lower ones, 6
the levels of a table; then the tables, channel by channel.
"""

import numpy as np

from tf_proxquant.litert.forms.form import OPERATOR_BYTES
from tf_proxquant.litert.read import levels

HEADER_BYTES = 16
MAX_BITS = 7
_KIND_AND_VERSIONS = {0: 0, 1: 1, 4: 1}
_AXIS_AND_BITS, _STRIDE = 5, 6


def bits_of(codes, axis):
    """Bits of an index for int8 codes; 8 where tables gain nothing."""
    rows = np.sort(levels.to_rows(codes, axis), axis=1)
    count = 1 + int((np.diff(rows, axis=1) != 0).sum(axis=1).max(initial=0))
    bits = max(1, (count - 1).bit_length())
    return bits if bits <= MAX_BITS and num_bytes(codes, axis, bits) < codes.size else 8


def num_bytes(codes, axis, bits):
    """Bytes of indices, tables and operator in the file (estimate)."""
    tables = codes.shape[axis] << bits
    return -(-codes.size * bits // 8) + tables + HEADER_BYTES + OPERATOR_BYTES


def encode(codes, axis):
    """(packed indices, header and tables) of int8 codes, both uint8 arrays."""
    rows = [np.unique(row, return_inverse=True) for row in levels.to_rows(codes, axis)]
    stride = max(len(table) for table, _ in rows)
    bits = max(1, (stride - 1).bit_length())
    tables = np.zeros((len(rows), stride), np.int8)
    for row, (table, _) in zip(tables, rows, strict=True):
        row[: len(table)] = table
    indices = np.stack([inverse.reshape(-1) for _, inverse in rows]).astype(np.uint8)
    indices = levels.from_rows(indices, codes.shape, axis).reshape(-1, 1)
    packed = np.packbits(np.unpackbits(indices, axis=1)[:, 8 - bits :])
    header = np.zeros(HEADER_BYTES, np.uint8)
    for place, value in _KIND_AND_VERSIONS.items():
        header[place] = value
    header[_AXIS_AND_BITS], header[_STRIDE] = axis << 4 | bits, stride
    return packed, np.concatenate([header, tables.reshape(-1).view(np.uint8)])


def decode(packed, tables, shape):
    """The int8 codes, of `shape`, that `encode` was given.

    Raises: ValueError: if these are no such indices and tables, or do not fit the shape.
    """
    header = np.asarray(tables).reshape(-1)[:HEADER_BYTES]
    is_known = len(header) == HEADER_BYTES and all(
        header[place] == value for place, value in _KIND_AND_VERSIONS.items()
    )
    if not is_known:
        raise ValueError("another kind of decoding than tables of version 1")
    axis, bits, stride = header[_AXIS_AND_BITS] >> 4, index_bits(tables), int(header[_STRIDE])
    count = int(np.prod([float(n) for n in shape]))
    rows = np.asarray(tables).reshape(-1)[HEADER_BYTES:].view(np.int8)
    if axis >= len(shape) or packed.size != -(-count * bits // 8):
        raise ValueError(f"{packed.size} bytes of {bits} bits for the shape {shape}")
    rows = rows.reshape(shape[axis], stride)
    digits = np.unpackbits(packed.reshape(-1))[: count * bits].reshape(count, bits)
    indices = levels.to_rows((digits @ (1 << np.arange(bits)[::-1])).reshape(shape), int(axis))
    return levels.from_rows(np.take_along_axis(rows, indices, axis=1), shape, int(axis))


def index_bits(tables):
    """Bits of an index, as the header says."""
    return int(np.asarray(tables).reshape(-1)[_AXIS_AND_BITS]) & 7
