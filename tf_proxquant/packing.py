"""Codes <-> bytes: fixed-width fields as LiteRT stores them, and digits of any base.

Both directions are exact and refuse what would not come back: a code outside its range, a byte
string of the wrong length, a byte that no digits produce.
"""

import functools

import numpy as np

LANES = 8  # eight codes of b bits fill exactly b bytes, for every b


def packed_size(count, bits):
    """Returns the bytes that `count` codes of `bits` bits occupy, `ceil(count * bits / 8)`."""
    return (count * bits + 7) // 8


def code_range(bits, signed=None):
    """Returns the least and the greatest code of `bits` bits.

    Args:
      bits: int, 1 to 8.
      signed: True for two's complement, False for 0 .. 2^bits - 1. None (the default) is True
        except at one bit, where codes are 0 and 1.

    Raises: ValueError: if `bits` is not an integer from 1 to 8.

    >>> code_range(2), code_range(2, signed=False), code_range(1)
    ((-2, 1), (0, 3), (0, 1))
    """
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or not 1 <= bits <= 8:
        raise ValueError(f"`bits` must be an integer from 1 to 8. Received: bits={bits!r}")
    if signed is None:
        signed = bits > 1
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def pack_codes(codes, bits, *, signed=None):
    """Packs integer codes into a little-endian bit string.

    Code `i` occupies bits `i * bits` to `(i + 1) * bits - 1`, bit 0 being the lowest bit of the
    first byte. So four 2-bit or two 4-bit codes share a byte, the first lowest, in C order of the
    tensor and without row padding: what LiteRT reads as INT2, INT4 and INT8. Unused high bits of
    the last byte are 0.

    Args:
      codes: integer array of any shape.
      bits: int, 1 to 8.
      signed: see `code_range`.

    Returns: 1-D uint8 array of `packed_size(codes.size, bits)` bytes.
    Raises: ValueError: if `codes` are not integers or one does not fit.

    >>> pack_codes([1, -1, 0, -2, 1], 2)
    array([141,   1], dtype=uint8)
    """
    low, high = code_range(bits, signed)
    codes = _flat_integers(codes, low, high, f"{bits}-bit", "a larger `bits` or another `signed`")
    padded = np.zeros(-(-codes.size // LANES) * LANES, np.uint8)
    padded[: codes.size] = codes.astype(np.uint8) & np.uint8((1 << bits) - 1)
    words = np.zeros(padded.size // LANES, "<u8")
    for lane in range(LANES):
        words |= padded[lane::LANES].astype("<u8") << np.uint64(lane * bits)
    packed = words.view(np.uint8).reshape(-1, 8)[:, :bits]
    return packed.reshape(-1)[: packed_size(codes.size, bits)].copy()


def unpack_codes(data, bits, count, *, signed=None):
    """Reads back what `pack_codes` wrote.

    Args:
      data: bytes-like or 1-D uint8 array of exactly `packed_size(count, bits)` bytes.
      bits: int, 1 to 8.
      count: int >= 0, the number of codes.
      signed: see `code_range`; as it was packed.

    Returns: array of shape `(count,)`, int8 if signed, else uint8.
    Raises: ValueError: if the length of `data` does not agree with `count`.

    >>> unpack_codes(bytes([141, 1]), 2, 5)
    array([ 1, -1,  0, -2,  1], dtype=int8)
    """
    low, _ = code_range(bits, signed)
    data = _flat_bytes(data, packed_size(_checked_count(count), bits), f"{count} {bits}-bit codes")
    words = np.zeros((-(-count // LANES), 8), np.uint8)
    padded = np.zeros(words.shape[0] * bits, np.uint8)
    padded[: data.size] = data
    words[:, :bits] = padded.reshape(-1, bits)
    words = words.reshape(-1).view("<u8")
    codes = np.empty((words.size, LANES), np.uint8)
    for lane in range(LANES):
        codes[:, lane] = (words >> np.uint64(lane * bits)).astype(np.uint8)
    codes = codes.reshape(-1)[:count]
    spare = np.uint8(8 - bits)
    codes <<= spare  # the sign bit to the top, so that the shift back extends it
    return codes.view(np.int8) >> np.int8(spare) if low < 0 else codes >> spare


def digits_per_byte(base):
    """Returns how many digits of `base` one byte holds: the largest m with base^m <= 256.

    >>> [digits_per_byte(base) for base in (2, 3, 4, 5, 6, 7, 16, 17, 256)]
    [8, 5, 4, 3, 3, 2, 2, 1, 1]
    """
    if isinstance(base, bool) or not isinstance(base, int | np.integer) or not 2 <= base <= 256:
        raise ValueError(f"`base` must be an integer from 2 to 256. Received: base={base!r}")
    count = 1
    while int(base) ** (count + 1) <= 256:
        count += 1
    return count


def pack_digits(digits, base):
    """Packs digits of `base` into bytes; base 3 puts five trits in a byte, 1.6 bits each.

    Every `m = digits_per_byte(base)` digits d_0 .. d_{m-1} become the byte sum_i d_i base^i. A last
    group that is short is filled with zeros. Bases 2, 4, 16 and 256 agree with `pack_codes`,
    unsigned, at 1, 2, 4 and 8 bits.

    Args:
      digits: integer array of any shape, values 0 to base - 1.
      base: int, 2 to 256.

    Returns: 1-D uint8 array of `ceil(digits.size / m)` bytes.
    Raises: ValueError: if a digit is out of range.

    >>> pack_digits([2, 1, 0, 0, 0, 1], 3)
    array([5, 1], dtype=uint8)
    """
    per_byte = digits_per_byte(base)
    digits = _flat_integers(digits, 0, base - 1, f"base-{base}", "a larger `base`")
    padded = np.zeros(-(-digits.size // per_byte) * per_byte, np.uint8)
    padded[: digits.size] = digits
    packed = np.zeros(padded.size // per_byte, np.uint8)
    for place in reversed(range(per_byte)):
        packed = packed * np.uint8(base % 256) + padded[place::per_byte]
    return packed


def unpack_digits(data, base, count, *, values=None):
    """Reads back what `pack_digits` wrote.

    Args:
      data: bytes-like or 1-D uint8 array of exactly `ceil(count / digits_per_byte(base))` bytes.
      base: int, 2 to 256.
      count: int >= 0, the number of digits.
      values: None, or an array of `base` entries, of which entry d stands for the digit d.

    Returns: array of shape `(count,)`: uint8 digits, or their `values`.
    Raises: ValueError: if the length of `data` does not agree with `count`, or a byte is at least
      base^m and so stands for no digits.
    """
    per_byte = digits_per_byte(base)
    size = -(-_checked_count(count) // per_byte)
    data = _flat_bytes(data, size, f"{count} base-{base} digits")
    if data.size and int(data.max()) >= base**per_byte:
        raise ValueError(
            f"`data` holds the byte {int(data.max())}, but {per_byte} digits of base {base} reach "
            f"only {base**per_byte - 1}: the data is damaged or was packed with another base."
        )
    table = _digit_table(int(base))
    if values is not None:
        table = np.asarray(values)[table]
    return table[data].reshape(-1)[:count]


@functools.cache
def _digit_table(base):
    """Digits of every byte value, (256, digits_per_byte); rows from base^m on stand for none."""
    places = np.asarray([base**place for place in range(digits_per_byte(base))])
    return (np.arange(256)[:, None] // places % base).astype(np.uint8)


def _flat_integers(values, low, high, kind, remedy):
    values = np.asarray(values).reshape(-1)
    if not values.size:
        return values.astype(np.int64)
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"Codes must be integers. Received: dtype={values.dtype}")
    least, greatest = int(values.min()), int(values.max())
    if least < low or greatest > high:
        raise ValueError(
            f"A {kind} code lies in [{low}, {high}]; pass {remedy}. "
            f"Received: codes from {least} to {greatest}"
        )
    return values


def _flat_bytes(data, size, content):
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8:
            raise ValueError(f"Packed data must be bytes or uint8. Received: dtype={data.dtype}")
        data = data.reshape(-1)
    else:
        data = np.frombuffer(data, np.uint8)
    if data.size != size:
        raise ValueError(f"{content} take {size} bytes. Received: {data.size} bytes")
    return data


def _checked_count(count):
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
        raise ValueError(f"`count` must be an integer >= 0. Received: count={count!r}")
    return int(count)
