"""Alternation between codes and scales of a multi-bit quantizer.

Everything works on sizes |w|: the levels are symmetric, so a weight's code is that of its size
with the weight's sign.
"""

import itertools

import numpy as np
from keras import ops

from tf_proxquant.quantizers.base import constant, midpoint
from tf_proxquant.quantizers.groups import row_mean


def alternating_scales(sizes, bits, rounds):
    """Greedy scales, then `rounds - 1` times the least-squares scales for the codes.

    With 3 bits or more the codes after the first fit are taken both as the authors do (greedy,
    scale after scale) and as the nearest level, and the better end is kept: neither way is always
    ahead. With 2 bits both are the same.
    """
    scales = greedy_scales(sizes, bits)
    if rounds == 1:
        return scales
    if bits == 2:
        for _ in range(rounds - 1):
            scales = refine_scales(sizes, scales)
        return scales
    nearest = greedy = refine_greedy(sizes, scales)
    if rounds == 2:
        return nearest
    for _ in range(rounds - 2):
        nearest, greedy = refine_scales(sizes, nearest), refine_greedy(sizes, greedy)
    return pick(squared_error(sizes, nearest), nearest, squared_error(sizes, greedy), greedy)


def greedy_scales(sizes, bits):
    """Scales (groups, bits): each the mean size of what the ones before leave over."""
    scales, rest = [], sizes
    for bit in range(bits):
        scales.append(row_mean(ops.abs(rest)))
        if bit + 1 < bits:
            rest = rest - ops.where(rest >= 0, scales[-1], -scales[-1])
    return ops.concatenate(scales, axis=1)


def sign_patterns(bits):
    """The 2^(bits-1) sign vectors of length `bits` that start with +1."""
    return np.array([(1, *rest) for rest in itertools.product((-1, 1), repeat=bits - 1)])


def signed_sums(scales):
    """The non-negative levels, ascending, and the signs that make them.

    Args:
      scales: (groups, bits).

    Returns: levels (groups, 2^(bits-1)) and signs (groups, 2^(bits-1), bits).
    """
    signs = constant(sign_patterns(scales.shape[1]), scales)
    sums = ops.sum(ops.expand_dims(scales, 1) * signs, axis=2)
    order = ops.argsort(ops.abs(sums), axis=1)
    signs = ops.take(signs, order, axis=0)
    sums = ops.take_along_axis(sums, order, axis=1)
    flip = ops.where(sums < 0, constant(-1, sums), constant(1, sums))
    return ops.abs(sums), signs * ops.expand_dims(flip, -1)


def nearest_share(sizes, levels):
    """The share of the sizes that is nearest to each level, and their sum over the row length."""
    counts, sums = [ops.ones_like(levels[:, :1])], [row_mean(sizes)]
    for k in range(levels.shape[1] - 1):
        above = sizes >= midpoint(levels[:, k : k + 1], levels[:, k + 1 : k + 2])
        above = ops.cast(above, sizes.dtype)
        counts.append(row_mean(above))
        sums.append(row_mean(above * sizes))
    return _differences(counts), _differences(sums)


def _differences(totals):
    """Per cell, from the totals over each cell and all above it."""
    totals = ops.concatenate([*totals, ops.zeros_like(totals[0])], axis=1)
    return totals[:, :-1] - totals[:, 1:]


def refine_scales(sizes, scales):
    """The least-squares scales for the nearest codes."""
    levels, signs = signed_sums(scales)
    return fit_cells(scales, signs, *nearest_share(sizes, levels))


def fit_cells(scales, signs, counts, sums):
    """The least-squares scales for cells with these signs, counts and sums of sizes."""
    weighted = signs * ops.expand_dims(counts, -1)
    gram = ops.matmul(ops.transpose(weighted, (0, 2, 1)), signs)
    moments = ops.sum(signs * ops.expand_dims(sums, -1), axis=1)
    return _solve(gram, moments, scales)


def refine_greedy(sizes, scales):
    """The least-squares scales for the authors' codes: the sign of what is left, 0 for 0."""
    codes, rest = [], sizes
    for bit in range(scales.shape[1]):
        codes.append(ops.sign(rest))
        rest = rest - scales[:, bit : bit + 1] * codes[-1]
    codes = ops.stack(codes, axis=1)
    length = constant(sizes.shape[1], sizes)
    gram = ops.matmul(codes, ops.transpose(codes, (0, 2, 1))) / length
    moments = ops.matmul(codes, ops.expand_dims(sizes, -1))[:, :, 0] / length
    return _solve(gram, moments, scales)


def _solve(gram, moments, scales):
    """Solves gram x = moments, moving from `scales` no further than the equations ask.

    Gaussian elimination, unrolled, for the step x - scales. A pivot of 0 means that the codes of
    a scale repeat those of the scales before it; that scale then stays, whatever its unit.
    """
    size = gram.shape[-1]
    residual = moments - ops.sum(gram * ops.expand_dims(scales, 1), axis=2)
    rows = [[gram[:, i, j] for j in range(size)] + [residual[:, i]] for i in range(size)]
    pivots, usable = [], []
    for i in range(size):
        usable.append(rows[i][i] > constant(1e-6, gram) * gram[:, i, i])
        pivots.append(ops.where(usable[i], rows[i][i], ops.ones_like(rows[i][i])))
        for k in range(i + 1, size):
            factor = ops.where(usable[i], rows[k][i] / pivots[i], constant(0, gram))
            rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    step = [None] * size
    for i in reversed(range(size)):
        value = rows[i][size] - sum(rows[i][j] * step[j] for j in range(i + 1, size))
        step[i] = ops.where(usable[i], value / pivots[i], constant(0, gram))
    return scales + ops.stack(step, axis=1)


def squared_error(sizes, scales):
    """Mean squared distance to the nearest level, in units of the squared mean size: (groups,)."""
    levels = signed_sums(scales)[0]
    nearest = levels[:, :1]
    for k in range(levels.shape[1] - 1):
        lower, upper = levels[:, k : k + 1], levels[:, k + 1 : k + 2]
        nearest = ops.where(sizes >= midpoint(lower, upper), upper, nearest)
    unit = row_mean(sizes)
    unit = ops.where(unit > 0, unit, constant(1, unit))
    return ops.mean(ops.square((sizes - nearest) / unit), axis=1)


def pick(error, scales, other_error, other_scales):
    """Per group, the scales with the smaller error; the first where they are equal or NaN."""
    return ops.where(ops.expand_dims(other_error < error, 1), other_scales, scales)
