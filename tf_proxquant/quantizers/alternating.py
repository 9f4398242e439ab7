"""Alternation between codes and scales of a multi-bit quantizer.

Everything works on sizes |w|: the levels are symmetric, so a weight's code is that of its size
with the weight's sign.
"""

import itertools

import numpy as np
from keras import ops
from keras.backend import standardize_dtype

from tf_proxquant.quantizers.base import constant, midpoint
from tf_proxquant.quantizers.groups import row_mean


def alternating_scales(sizes, bits, rounds):
    """Greedy scales, then `rounds - 1` times the least-squares scales for the codes; bits >= 3.

    The codes after the first fit are taken both as the authors do (greedy, scale after scale) and
    as the nearest level, for neither way is always ahead, and grids that the largest sizes would
    lie on are tried, so that weights on a grid keep it; the least squared error wins.
    """
    scales = greedy_scales(sizes, bits)
    candidates = [scales]
    if rounds > 1:
        nearest = greedy = refine_greedy(sizes, scales)
        for _ in range(rounds - 2):
            nearest, greedy = refine_scales(sizes, nearest), refine_greedy(sizes, greedy)
        candidates = [nearest] if rounds == 2 else [nearest, greedy]
    return least_error(sizes, [*candidates, *grid_scales(sizes, bits)])


def alternating_pair(sizes, rounds):
    """What alternation gives with 2 bits: the two levels >= 0 themselves, (groups, 2).

    The least-squares scales put each level at the mean of the sizes that are nearest to it. A
    level that is nearest to none moves along with the other one.
    """
    mean = row_mean(sizes)
    deviation = row_mean(sizes, lambda w: ops.abs(w - mean))
    lower, upper = ops.abs(mean - deviation), mean + deviation
    one = constant(1, sizes)
    for _ in range(rounds - 1):
        share, total = share_above(sizes, midpoint(lower, upper))
        some_below, some_above = share < 1, share > 0
        mean_below = (mean - total) / ops.where(some_below, 1 - share, one)
        mean_above = total / ops.where(some_above, share, one)
        lower, upper = (
            ops.where(some_below, mean_below, lower + (mean_above - upper)),
            ops.where(some_above, mean_above, upper + (mean_below - lower)),
        )
    return ops.concatenate([lower, upper], axis=1)


def grid_scales(sizes, bits):
    """Scales that put the largest sizes on the grid, for 3 and 4 bits: a list of candidates.

    The largest level is the sum of the scales, and flipping one of them lowers it by twice that
    scale: the next two levels give the two smallest scales. The third smallest, with 4 bits,
    belongs to the fourth or the fifth level; the other one flips two scales.
    """
    largest = distinct_largest(sizes, 3 if bits == 3 else 5)
    halves = [(largest[0] - size) / 2 for size in largest[1:]]
    choices = [halves] if bits == 3 else [halves[:3], [*halves[:2], halves[3]]]
    return [
        ops.concatenate([largest[0] - sum(chosen), *reversed(chosen)], axis=1) for chosen in choices
    ]


def distinct_largest(sizes, count):
    """The `count` largest distinct entries of each row, (groups, 1) each; then zeros."""
    found = [ops.max(sizes, axis=1, keepdims=True)]
    for _ in range(count - 1):
        smaller = ops.where(sizes < found[-1], sizes, constant(0, sizes))
        found.append(ops.max(smaller, axis=1, keepdims=True))
    return found


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
        middle = midpoint(levels[:, k : k + 1], levels[:, k + 1 : k + 2])
        share, total = share_above(sizes, middle)
        counts.append(share)
        sums.append(total)
    return _differences(counts), _differences(sums)


def share_above(sizes, cutoff):
    """The share of the sizes >= cutoff, and their sum over the row length; (groups, 1) each."""
    share = row_mean(sizes, lambda w: ops.cast(w >= cutoff, w.dtype))
    return share, row_mean(sizes, lambda w: ops.where(w >= cutoff, w, constant(0, w)))


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
    """The least-squares scales for the authors' codes: the sign of what is left, 0 for 0.

    Of several, the shortest, as the authors' conjugate gradients give: two scales whose codes
    have become equal then share their value.
    """
    codes, rest = [], sizes
    for bit in range(scales.shape[1]):
        codes.append(ops.sign(rest))
        rest = rest - scales[:, bit : bit + 1] * codes[-1]
    # Each entry in passes that XLA fuses, rather than as a product of matrices that must be stored.
    products = {
        (i, j): row_mean(codes[i] * codes[j]) for i in range(len(codes)) for j in range(i + 1)
    }
    rows = [[products[max(i, j), min(i, j)] for j in range(len(codes))] for i in range(len(codes))]
    gram = ops.stack([ops.concatenate(row, axis=1) for row in rows], axis=1)
    moments = ops.concatenate([row_mean(code * sizes) for code in codes], axis=1)
    return _minimum_norm(gram, moments)


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


def _minimum_norm(gram, moments):
    """The shortest x with gram x = moments, by conjugate gradients from 0.

    They end, by steps of 0, once the residual is rounding error.
    """
    unit = ops.max(ops.abs(moments), axis=1, keepdims=True)
    unit = ops.where(unit > 0, unit, constant(1, unit))
    smallest = constant(float(100 * np.finfo(standardize_dtype(gram.dtype)).eps ** 2), gram)
    residual = moments / unit
    norm = ops.sum(residual * residual, axis=1, keepdims=True)

    def one_step(_, state):
        solution, residual, direction, norm = state
        image = ops.sum(gram * ops.expand_dims(direction, 1), axis=2)
        curvature = ops.sum(direction * image, axis=1, keepdims=True)
        goes_on = ops.logical_and(norm > smallest, curvature > smallest)
        step = ops.where(goes_on, norm / curvature, ops.zeros_like(norm))
        solution, residual = solution + step * direction, residual - step * image
        last, norm = norm, ops.sum(residual * residual, axis=1, keepdims=True)
        direction = residual + ops.where(goes_on, norm / last, ops.zeros_like(norm)) * direction
        return solution, residual, direction, norm

    start = (ops.zeros_like(residual), residual, residual, norm)
    solution = ops.fori_loop(0, 2 * gram.shape[-1], one_step, start)[0]
    return solution * unit


def squared_error(sizes, scales):
    """Mean squared distance to the nearest level, in units of the squared mean size: (groups,)."""
    levels = signed_sums(scales)[0]
    nearest = levels[:, :1]
    for k in range(levels.shape[1] - 1):
        lower, upper = levels[:, k : k + 1], levels[:, k + 1 : k + 2]
        nearest = ops.where(sizes >= midpoint(lower, upper), upper, nearest)
    unit = row_mean(sizes)
    unit = ops.where(unit > 0, unit, constant(1, unit))
    return row_mean(ops.square((sizes - nearest) / unit))[:, 0]


def least_error(sizes, candidates):
    """Per group, the candidate with the least squared error; the first of equal ones.

    NaN in a row stays NaN: no comparison with its error holds, and the first candidate is kept.
    """
    best, error = candidates[0], squared_error(sizes, candidates[0])
    for scales in candidates[1:]:
        other = squared_error(sizes, scales)
        best = ops.where(ops.expand_dims(other < error, 1), scales, best)
        error = ops.minimum(error, other)
    return best
