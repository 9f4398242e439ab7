"""The smallest lossless archive of a .tflite file, `.pqz`; see docs/archive.md for the format.

A file with int8 weights of few levels spends 8 bits where a weight carries 1 or 1.6. The archive
cuts the weight codes out and packs them as digits, takes the float constants apart into byte
planes, and deflates the rest. Expanding needs NumPy and zlib only.
"""

import dataclasses
import os
import struct
import zlib

import numpy as np

from tf_proxquant import packing
from tf_proxquant.litert.archive import constants
from tf_proxquant.typing import PathLike

SUFFIX = ".pqz"
MAGIC = b"PQZ"
VERSION = 1
HEADER = struct.Struct("<3sBII8I")  # magic, version, size, CRC-32, 4 x (inflated, deflated) bytes
SEGMENT = struct.Struct("<BI")  # kind, bytes of the file
MAX_RATIO = 128  # no archive expands to more than this many times its size
MAX_BYTES = 2**31 - 1  # flatbuffers end here

PLAIN, FLOATS = 0, 1  # kinds of segment; a kind of 2 or more is the base of its digits,
WORDS = 128  # plus this where a digit stands for four bytes
MAX_BASE = 16  # above 16 values a byte holds one digit and packing saves nothing
MIN_BYTES = 64  # of a constant that is described on its own; digits below it are refused
OWN_BLOCK = 1024  # a piece of so many bytes may pay for Huffman tables of its own
PATIENCE_BYTES = 1 << 20  # beyond, level 9 takes minutes on two values and wins little
SEGMENT_COST = 12  # bytes that one more segment costs, about


def compress(tflite):
    """Makes the archive of a .tflite file.

    Any bytes can be archived; what is not recognised as a constant of few values or of floats is
    deflated as it is.

    Args:
      tflite: bytes of the file.

    Returns: bytes of the archive, from which `expand` makes `tflite` again.
    Raises: ValueError: if `tflite` is not bytes or larger than 2 GiB.
    """
    if not isinstance(tflite, bytes | bytearray | memoryview):
        raise ValueError(f"`tflite` must be the bytes of a file. Received: {type(tflite).__name__}")
    tflite = bytes(tflite)
    if len(tflite) > MAX_BYTES:
        raise ValueError(f"A .tflite file ends at 2 GiB. Received: {len(tflite)} bytes")
    streams = _cut(tflite, _plan(tflite))
    archive = _assemble(tflite, streams, level=9 if len(tflite) <= PATIENCE_BYTES else 6)
    if max(len(tflite), *map(_total, streams)) > MAX_RATIO * len(archive):
        archive = _assemble(tflite, streams, level=0)
    if expand(archive) != tflite:
        raise ValueError("The archive does not give the file back. Please report this file.")
    return archive


def expand(archive: PathLike | bytes, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Gives back the .tflite file that an archive was made from, byte for byte.

    Args:
      archive: path of a `.pqz` file, or its bytes.
      max_bytes: int, refuse archives that declare a larger file. Apart from it no archive may
        expand to more than 128 times its own size, so a small one never takes much memory.

    Returns: bytes of the .tflite file.
    Raises: ValueError: if the archive is damaged, truncated, not an archive, of an unknown version,
      or declares a file that is too large. OSError: if the path cannot be read.
    """
    if isinstance(archive, str | os.PathLike):
        with open(archive, "rb") as file:
            archive = file.read()
    elif not isinstance(archive, bytes | bytearray | memoryview):
        raise ValueError(f"`archive` must be a path or bytes. Received: {type(archive).__name__}")
    archive = memoryview(archive)
    size, checksum, lengths = _read_header(archive, max_bytes)
    streams, at = [], HEADER.size
    for inflated, deflated in lengths:
        streams.append(_inflate(archive[at : at + deflated], inflated))
        at += deflated
    tflite = _join(size, *streams)
    if zlib.crc32(tflite) != checksum:
        raise _damaged("the checksum of the expanded file differs")
    return tflite.tobytes()


def _damaged(what):
    return ValueError(f"Not a usable .pqz archive: {what}. Write it again from the .tflite file.")


@dataclasses.dataclass(frozen=True)
class _Segment:
    """A stretch of the file of `size` bytes, as integers of `width` bytes each.

    `palette` is the set of their values, or None if there are more than MAX_BASE.
    """

    size: int
    width: int = 1
    palette: frozenset | None = None

    @property
    def base(self):
        return max(2, len(self.palette or ()))

    @property
    def kind(self):
        if self.palette is None:
            return PLAIN if self.width == 1 else FLOATS
        return self.base if self.width == 1 else self.base + WORDS

    @property
    def values(self):
        """What the digits stand for, in ascending order, as many as the base."""
        values = sorted(self.palette or ())
        return np.array(values + values[-1:] * (self.base - len(values)), f"<u{self.width}")

    @property
    def cost(self):
        """Estimated bytes in the archive."""
        if self.palette is None:
            return SEGMENT_COST + self.size
        count = self.size / self.width
        return SEGMENT_COST + self.values.nbytes + count / packing.digits_per_byte(self.base)

    def join(self, other):
        """The two as one segment."""
        palette = None
        if self.palette is not None and other.palette is not None:
            palette = self.palette | other.palette
        return _cheapest(self.size + other.size, self.width, palette)


def _plan(tflite):
    """Divides the file into segments that cover it in order."""
    segments, at = [], 0
    for constant in constants.find_constants(tflite):
        if constant.size >= MIN_BYTES:
            segments.append(_Segment(constant.start - at))
            at = constant.start + constant.size
            segments += _plan_constant(tflite[constant.start : at], constant)
    segments.append(_Segment(len(tflite) - at))
    return [segment for segment in segments if segment.size]


def _plan_constant(data, constant):
    """Joins rows while one palette for all is cheaper than one for each."""
    values = np.frombuffer(data, "<u4" if constant.is_float else "u1")
    rows = constant.rows
    if values.size % rows or constant.size < MIN_BYTES * rows:
        rows = 1
    segments = []
    for row in values.reshape(rows, -1):
        segment = _cheapest(row.nbytes, row.itemsize, _palette(row))
        while segments:
            joined = segments[-1].join(segment)
            if joined.cost > segments[-1].cost + segment.cost:
                break
            segment = joined
            segments.pop()
        segments.append(segment)
    return segments


def _cheapest(size, width, palette):
    """The segment as digits if they are few enough and smaller, else as it is."""
    whole = _Segment(size, width)
    if palette is None or len(palette) > MAX_BASE:
        return whole
    return min(whole, _Segment(size, width, palette), key=lambda segment: segment.cost)


def _palette(row):
    """The set of values of a row, or None if there are more than MAX_BASE."""
    for part in (row[:MIN_BYTES], row):
        found = np.unique(part)
        if found.size > MAX_BASE:
            return None
    return frozenset(found.tolist())


def _cut(tflite, segments):
    """Returns the four streams, each a list of pieces: plan, plain bytes, float planes, digits."""
    plan, plain, floats, digits = [], [], [], []
    at = 0
    for segment in segments:
        data = tflite[at : at + segment.size]
        at += segment.size
        plan.append(SEGMENT.pack(segment.kind, segment.size))
        if segment.kind == PLAIN:
            plain.append(data)
        elif segment.kind == FLOATS:
            floats.append(data)
        else:
            values = segment.values
            plan.append(values.tobytes())
            indices = np.searchsorted(values, np.frombuffer(data, values.dtype))
            digits.append(packing.pack_digits(indices, segment.base).tobytes())
    planes = np.frombuffer(b"".join(floats), np.uint8).reshape(-1, 4).T
    return plan, plain, [plane.tobytes() for plane in planes], digits


def _assemble(tflite, streams, level):
    packed = [_deflate(pieces, level) for pieces in streams]
    lengths = [
        length
        for pieces, data in zip(streams, packed, strict=True)
        for length in (_total(pieces), len(data))
    ]
    header = HEADER.pack(MAGIC, VERSION, len(tflite), zlib.crc32(tflite), *lengths)
    return b"".join([header, *packed])


def _total(pieces):
    return sum(map(len, pieces))


def _deflate(pieces, level):
    """Deflates the pieces with the best strategy, large ones in blocks of their own if it pays."""
    candidates = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        for own_block in (OWN_BLOCK, MAX_BYTES):
            compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
            parts = []
            for piece in pieces:
                parts.append(compressor.compress(piece))
                if len(piece) >= own_block:
                    parts.append(compressor.flush(zlib.Z_BLOCK))
            candidates.append(b"".join(parts) + compressor.flush())
    return min(candidates, key=len)


def _read_header(archive, max_bytes):
    if len(archive) < HEADER.size:
        raise _damaged(f"{len(archive)} bytes are shorter than its header")
    magic, version, size, checksum, *lengths = HEADER.unpack_from(archive)
    if magic != MAGIC:
        raise _damaged(f"it starts with {bytes(magic)!r}, not with {MAGIC!r}")
    if version != VERSION:
        raise _damaged(f"format version {version} is unknown, this release reads {VERSION}")
    lengths = list(zip(lengths[::2], lengths[1::2], strict=True))
    if HEADER.size + sum(deflated for _, deflated in lengths) != len(archive):
        raise _damaged(f"its streams do not add up to its {len(archive)} bytes")
    largest = max(size, *(inflated for inflated, _ in lengths))
    if largest > min(max_bytes, MAX_RATIO * len(archive)):
        raise _damaged(
            f"it declares {largest} bytes, more than `max_bytes` = {max_bytes} or "
            f"{MAX_RATIO} times its own {len(archive)}"
        )
    return size, checksum, lengths


def _inflate(data, size):
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = decompressor.decompress(data, size + 1)
    except zlib.error as error:
        raise _damaged(f"a stream does not inflate ({error})") from None
    if len(inflated) != size or not decompressor.eof or decompressor.unused_data:
        raise _damaged("a stream does not inflate to its declared length")
    return inflated


class _Reader:
    """Takes bytes from the front of a stream and refuses to read past its end."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        if self.at > len(self.data):
            raise _damaged("its segments read past the end of a stream")
        return self.data[self.at - count : self.at]

    @property
    def left(self):
        """Bytes not taken yet."""
        return len(self.data) - self.at


def _join(size, plan, plain, floats, digits):
    """Puts the file together again; the segments must use every stream up."""
    if len(floats) % 4:
        raise _damaged("the float planes differ in length")
    floats = np.frombuffer(floats, np.uint8).reshape(4, -1).T.reshape(-1)
    plan, plain, floats, digits = readers = [*map(_Reader, (plan, plain, floats, digits))]
    tflite, at = np.empty(size, np.uint8), 0
    while plan.left:
        kind, count = SEGMENT.unpack(plan.take(SEGMENT.size))
        if not (1 if kind <= FLOATS else MIN_BYTES) <= count <= size - at:
            raise _damaged("its segments are too short or longer than the file")
        if kind == PLAIN:
            data = np.frombuffer(plain.take(count), np.uint8)
        elif kind == FLOATS:
            data = floats.take(count)
        else:
            data = _take_digits(kind, count, plan, digits)
        tflite[at : at + count] = data
        at += count
    if at != size or any(reader.left for reader in readers):
        raise _damaged("its segments leave bytes over")
    return tflite


def _take_digits(kind, count, plan, digits):
    """Returns `count` bytes of values that digits stand for."""
    base, width = kind % WORDS, 4 if kind >= WORDS else 1
    if base < 2 or count % width:
        raise _damaged(f"it holds {count} bytes in digits of base {base}, {width} bytes each")
    values = np.frombuffer(plan.take(base * width), f"<u{width}")
    packed = digits.take(-(-count // (width * packing.digits_per_byte(base))))
    return packing.unpack_digits(packed, base, count // width, values=values).view(np.uint8)
