"""Sorted rows and their prefix sums: what the exact fits are made of."""

import math

from keras import ops

from tf_proxquant.quantizers.base import constant

BLOCK = 512


def finite_rows(rows):
    """Zeroes the rows with a NaN or inf, which do not sort.

    Returns: the rows, and a factor (groups, 1) for what is fitted to them: NaN for those rows,
      1 for the others.
    Raises: ValueError: if the shape is not known, as prefix sums need it.
    """
    if not all(isinstance(size, int) for size in rows.shape):
        raise ValueError(
            "Fits that sort (`optimal=True`, 'median') need weights of a known shape. Received: "
            f"groups and weights per group {tuple(rows.shape)}, None where a graph leaves it open"
        )
    finite = ops.all(ops.isfinite(rows), axis=1, keepdims=True)
    factor = ops.where(finite, constant(1, rows), constant(math.nan, rows))
    return ops.where(finite, rows, constant(0, rows)), factor


def prefix_sums(rows, block=BLOCK):
    """Sums of the first k entries of each row, k = 0..n: shape (groups, n + 1).

    Summed within blocks and then over blocks: the rounding error of a running sum grows with the
    number of terms, and an exact fit in float32 must not depend on it.
    """
    groups, length = rows.shape
    blocks = -(-length // block)
    padded = ops.pad(rows, ((0, 0), (0, blocks * block - length)))
    within = ops.cumsum(ops.reshape(padded, (groups, blocks, block)), axis=2)
    before = ops.cumsum(within[:, :, -1], axis=1) - within[:, :, -1]
    sums = ops.reshape(within + before[:, :, None], (groups, blocks * block))[:, :length]
    return ops.concatenate([ops.zeros_like(rows[:, :1]), sums], axis=1)


def counts_below(ascending, bounds):
    """How many entries of each row are below each bound of that row.

    Args:
      ascending: (groups, n), sorted.
      bounds: (groups, B).

    Returns: int32 (groups, B), by binary search on all bounds at once.
    """
    groups, length = ascending.shape
    flat = ops.reshape(ascending, (-1,))
    start = ops.expand_dims(ops.arange(groups, dtype="int32") * length, 1)
    position = ops.zeros_like(bounds, dtype="int32")
    for bit in reversed(range(length.bit_length())):
        further = position + 2**bit
        entry = ops.take(flat, start + ops.minimum(further, length) - 1)
        reached = ops.logical_and(further <= length, entry < bounds)
        position = ops.where(reached, further, position)
    return position


def take_prefix(sums, positions):
    """`sums[g, positions[g, j]]` for prefix sums (groups, n + 1)."""
    groups, length = sums.shape
    start = ops.expand_dims(ops.arange(groups, dtype="int32") * length, 1)
    return ops.take(ops.reshape(sums, (-1,)), start + positions)
