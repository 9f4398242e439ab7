"""A deterministic global search for the scales of 3 and 4 bits."""

import numpy as np
from keras import ops

from tf_proxquant.quantizers.alternating import fit_cells, signed_sums
from tf_proxquant.quantizers.base import constant, midpoint
from tf_proxquant.quantizers.groups import row_mean
from tf_proxquant.quantizers.prefix import counts_below, prefix_sums, take_prefix

# Shapes of scales to start from, largest first: where 400 random restarts ended best on normal,
# Laplace, Student-t, gamma, log-normal, uniform, bimodal and sparse weights.
SHAPES = {
    3: (
        (4, 2, 1),
        (3, 2, 1),
        (2, 1, 1),
        (1, 0.76, 0.45),
        (1, 0.53, 0.26),
        (1, 0.82, 0.31),
        (1, 0.71, 0.2),
        (1, 0.2, 0.1),
    ),
    4: (
        (8, 4, 2, 1),
        (7, 4, 2, 1),
        (1, 0.86, 0.7, 0.45),
        (1, 0.63, 0.5, 0.27),
        (1, 0.88, 0.45, 0.24),
        (1, 0.86, 0.32, 0.24),
        (1, 0.84, 0.69, 0.54),
        (1, 0.78, 0.29, 0.13),
        (1, 0.2, 0.15, 0.09),
        (1, 0.72, 0.24, 0.11),
        (1, 0.57, 0.28, 0.14),
        (1, 0.91, 0.74, 0.6),
    ),
}
MOVES = (0.6, 0.8, 1.25, 1.6)
ROUNDS = 30
HOPS = 2


def searched_scales(sizes, first):
    """The best scales found from fixed starts, from `first`, and from moves of the best of them.

    Sizes are sorted once. A round of alternation then needs, for each candidate, only the counts
    and sums between the midpoints of its levels: binary searches and differences of prefix sums,
    O(2^bits log n), whatever the number of weights.

    Args:
      sizes: (groups, n), finite, >= 0.
      first: (groups, bits), scales to start from besides the fixed ones.

    Returns: (groups, bits).
    """
    largest = ops.max(sizes, axis=1, keepdims=True)
    unit = ops.where(largest > 0, largest, constant(1, largest))
    ascending = ops.sort(sizes / unit, axis=1)
    table = ascending, prefix_sums(ascending)
    starts = ops.concatenate([_starts(ascending, first.shape[1]), (first / unit)[:, None]], axis=1)
    best = _best(table, _alternate(table, starts, ROUNDS), 4)
    for _ in range(HOPS):
        moved = ops.concatenate([_moves(best[:, :1]), best], axis=1)
        best = _best(table, _alternate(table, moved, ROUNDS), 4)
    return _best(table, _alternate(table, best, 4 * ROUNDS), 1)[:, 0] * largest


def _starts(ascending, bits):
    """Each shape at three sizes of its largest level; `ascending` has maximum 1."""
    shapes = np.array(SHAPES[bits])
    shapes = constant(shapes / shapes.sum(axis=1, keepdims=True), ascending)[None]
    spread = ops.sqrt(row_mean(ops.square(ascending)))[:, :, None]
    tops = (ops.ones_like(spread), 1.2 * ops.sqrt(spread), 2.2 * spread)
    return ops.concatenate([shapes * top for top in tops], axis=1)


def _moves(best):
    """One scale at a time, made smaller or larger: (groups, 4 * bits, bits)."""
    bits = best.shape[2]
    factors = [[f if i == j else 1.0 for j in range(bits)] for i in range(bits) for f in MOVES]
    return best * constant([factors], best)


def _alternate(table, scales, rounds):
    """Up to `rounds` rounds from each candidate of `scales` (groups, candidates, bits).

    They end when no scale moves by more than a millionth of the largest weight.
    """
    shape = tuple(scales.shape)

    def one_round(index, flat, change):
        levels, signs = signed_sums(flat)
        moved = fit_cells(flat, signs, *_cells(table, levels))
        return index + 1, moved, ops.max(ops.abs(moved - flat))

    def goes_on(index, flat, change):
        return ops.logical_and(index < rounds, change > 1e-6)

    flat = ops.reshape(scales, (-1, shape[2]))
    start = (0, flat, ops.ones_like(flat[0, 0]))
    return ops.reshape(ops.while_loop(goes_on, one_round, start)[1], shape)


def _cells(table, levels):
    """As `nearest_share`, for several candidates per row: `levels` (groups * candidates, L)."""
    ascending, sums = table
    groups, length = ascending.shape
    bounds = midpoint(levels[:, :-1], levels[:, 1:])
    positions = counts_below(ascending, ops.reshape(bounds, (groups, -1)))
    below = ops.reshape(take_prefix(sums, positions), ops.shape(bounds)) / length
    total = ops.repeat(sums[:, -1:] / length, levels.shape[0] // groups, axis=0)
    counts = ops.cast(ops.reshape(positions, ops.shape(bounds)), levels.dtype) / length
    return _between(counts, ops.ones_like(total)), _between(below, total)


def _between(below, total):
    return ops.concatenate([below, total], axis=1) - ops.pad(below, ((0, 0), (1, 0)))


def _best(table, scales, count):
    """Keeps the `count` candidates of least squared error: (groups, count, bits)."""
    groups, candidates, bits = scales.shape
    levels = signed_sums(ops.reshape(scales, (-1, bits)))[0]
    counts, sums = _cells(table, levels)
    errors = ops.sum(levels * (counts * levels - 2 * sums), axis=1)
    best = ops.argsort(ops.reshape(errors, (groups, candidates)), axis=1)[:, :count]
    best = ops.repeat(ops.expand_dims(best, 2), bits, axis=2)
    return ops.take_along_axis(scales, best, axis=1)
