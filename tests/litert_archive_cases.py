"""Archives for the tests: files of every kind of segment, taken apart, damaged, expanded."""

import os
import struct
import subprocess
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flatbuffers
import numpy as np

from tf_proxquant.litert.archive import constants
from tf_proxquant.litert.archive import pqz as archive

INT8 = 9


def flatbuffer(tensors):
    """Writes a .tflite file that holds `tensors` as constants and no operators.

    Args:
      tensors: list of int8 or float32 arrays; int8 ones get a scale for every row.
    """
    builder = flatbuffers.Builder(1 << 16)
    buffers, records = [table(builder, {})], []
    for index, tensor in enumerate(tensors):
        builder.StartVector(1, tensor.nbytes, 16)
        builder.head -= tensor.nbytes
        builder.Bytes[builder.head : builder.head + tensor.nbytes] = tensor.tobytes()
        buffers.append(table(builder, {constants.BUFFER_DATA: builder.EndVector()}))
        fields = {
            constants.TENSOR_SHAPE: builder.CreateNumpyVector(np.array(tensor.shape, np.int32)),
            constants.TENSOR_TYPE: np.int8(INT8 if tensor.dtype == np.int8 else 0),
            constants.TENSOR_BUFFER: np.uint32(index + 1),
        }
        if tensor.dtype == np.int8:
            scales = np.random.default_rng(index).random(len(tensor), np.float32)
            scales = builder.CreateNumpyVector(scales)
            fields[constants.TENSOR_QUANTIZATION] = table(
                builder, {constants.QUANTIZATION_SCALE: scales}
            )
        records.append(table(builder, fields))
    subgraph = table(builder, {constants.SUBGRAPH_TENSORS: vector(builder, records)})
    model = {
        constants.MODEL_SUBGRAPHS: vector(builder, [subgraph]),
        constants.MODEL_BUFFERS: vector(builder, buffers),
    }
    builder.Finish(table(builder, model), file_identifier=b"TFL3")
    return bytes(builder.Output())


def table(builder, fields):
    """Writes a table; a field is an offset (int) or a NumPy scalar."""
    builder.StartObject(max(fields, default=0) + 1)
    for number, value in fields.items():
        if isinstance(value, np.int8):
            builder.PrependInt8Slot(number, value, 0)
        elif isinstance(value, np.uint32):
            builder.PrependUint32Slot(number, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(number, value, 0)
    return builder.EndObject()


def vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def draw(levels, shape, shares=None, seed=0):
    generator = np.random.default_rng(seed)
    return np.array(levels, np.int8)[generator.choice(len(levels), shape, p=shares)]


def small_model():
    """A file with every kind of segment: binary, ternary, rows of their own levels, floats."""
    rows = np.concatenate([draw([-9 * r, -r, r, 9 * r], (1, 600), seed=r) for r in range(1, 7)])
    floats = np.random.default_rng(0).normal(size=(7, 33)).astype(np.float32)
    wide = draw(range(-100, 100), (5, 41))
    scales = np.random.default_rng(1).random((5, 1), np.float32)
    words = scales * draw([-1, 0, 1], (5, 99))
    codes = [draw([-1, 1], (7, 99)), draw([-1, 0, 1], (5, 77)), rows]
    return flatbuffer([*codes, floats, wide, words])


def streams_of(data):
    """Takes an archive apart into its header fields and inflated streams."""
    lengths = archive.HEADER.unpack_from(data)[4:]
    streams, at = [], archive.HEADER.size
    for deflated in lengths[1::2]:
        streams.append(bytearray(zlib.decompress(data[at : at + deflated], -15)))
        at += deflated
    return streams


def rebuild(data, streams, size=None):
    """Puts an archive together from streams with lengths that agree."""
    magic, version, old_size, checksum, *_ = archive.HEADER.unpack_from(data)
    packed = [archive._deflate([bytes(stream)], 9) for stream in streams]
    lengths = [n for pair in zip(streams, packed, strict=True) for n in map(len, pair)]
    size = old_size if size is None else size
    return b"".join([archive.HEADER.pack(magic, version, size, checksum, *lengths), *packed])


def mutate(data, generator):
    """Damages an archive: its bytes, its length, its header, or a stream behind right lengths."""
    damaged = bytearray(data)
    choice = generator.integers(6)
    if choice == 0:
        return data[: generator.integers(len(data))]
    if choice == 1:
        damaged[generator.integers(len(data))] ^= 1 << generator.integers(8)
    elif choice == 2:
        at = 4 * generator.integers(archive.HEADER.size // 4)
        struct.pack_into("<I", damaged, at, interesting(generator))
    elif choice == 3:
        at, size = generator.integers(len(data)), generator.integers(1, 40)
        damaged[at : at + size] = generator.bytes(generator.integers(40))
    else:
        streams = streams_of(data)
        stream = streams[0 if choice == 4 else generator.integers(4)]
        at = generator.integers(len(stream))
        if generator.random() < 0.3:
            del stream[at:]
        else:
            stream[at] = generator.integers(256)
        return rebuild(data, streams, None if generator.random() < 0.7 else interesting(generator))
    return bytes(damaged)


def interesting(generator):
    return int(
        generator.choice([0, 1, 43, 44, 1 << 10, 1 << 20, 1 << 31, (1 << 32) - 1])
        + generator.integers(2) * generator.integers(-1, 2)
    ) % (1 << 32)


def answer(data):
    """What the harnesses print of one archive."""
    try:
        expanded = archive.expand(data)
    except ValueError:
        return "refused"
    return f"{len(expanded)} {zlib.crc32(expanded):08x}"


def ask(command, archives):
    """Sends archives to a harness and returns its lines."""
    message = b"".join(struct.pack("<I", len(data)) + data for data in archives)
    run = subprocess.run(command, input=message, capture_output=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout.decode().split("\n")[:-1]
