"""2^bits levels, the signed sums of `bits` scales."""

import itertools

import numpy as np
from keras import ops

from tf_proxquant.quantizers.base import (
    Quantizer,
    check_flag,
    check_int,
    constant,
    midpoint,
    register,
)
from tf_proxquant.quantizers.binary import row_mean


@register
class MultiBit(Quantizer):
    """Signed sums of `bits` scales, {+-a_1 +-a_2 ... +-a_bits}.

    Args:
      bits: 1 to 4.
      rounds: number of fits >= 1: 1 is greedy, each further one alternates once.
      optimal: whether to search on.
      axis: axes that keep their own levels; see `Quantizer`.
    """

    def __init__(self, bits, rounds=3, optimal=False, axis=None):
        super().__init__(axis)
        self.bits = check_int("bits", bits, 1, 4)
        self.rounds = check_int("rounds", rounds, 1, 1000)
        self.optimal = check_flag("optimal", optimal)

    def fit(self, rows):
        sizes = ops.abs(rows)
        scales = greedy_scales(sizes, self.bits)
        if self.bits > 1:
            for _ in range(self.rounds - 1):
                scales = refine_scales(sizes, scales)
        upper = signed_sums(scales)[0]
        return ops.concatenate([-ops.flip(upper, axis=1), upper], axis=1)

    def get_config(self):
        return {
            "bits": self.bits,
            "rounds": self.rounds,
            "optimal": self.optimal,
            **super().get_config(),
        }


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

    Returns: levels (groups, 2^(bits-1)) and signs (groups, 2^(bits-1), bits).
    """
    signs = constant(sign_patterns(scales.shape[1]), scales)
    sums = ops.matmul(scales, ops.transpose(signs))
    order = ops.argsort(ops.abs(sums), axis=1)
    signs = ops.take(signs, order, axis=0)
    sums = ops.take_along_axis(sums, order, axis=1)
    flip = ops.where(sums < 0, constant(-1, sums), constant(1, sums))
    return ops.abs(sums), signs * ops.expand_dims(flip, -1)


def refine_scales(sizes, scales):
    """One round of alternation: the nearest codes, then the least-squares scales for them."""
    levels, signs = signed_sums(scales)
    counts, sums = cell_statistics(sizes, levels)
    weighted = signs * ops.expand_dims(counts, -1)
    gram = ops.matmul(ops.transpose(weighted, (0, 2, 1)), signs)
    moments = ops.sum(signs * ops.expand_dims(sums, -1), axis=1)
    residual = moments - ops.sum(gram * ops.expand_dims(scales, 1), axis=2)
    return scales + solve_gram(gram, residual)


def cell_statistics(sizes, levels):
    """How many sizes are nearest to each level, as a share of all, and their sum likewise."""
    counts = [ops.ones_like(levels[:, :1])]
    sums = [row_mean(sizes)]
    for k in range(levels.shape[1] - 1):
        above = sizes >= midpoint(levels[:, k : k + 1], levels[:, k + 1 : k + 2])
        above = ops.cast(above, sizes.dtype)
        counts.append(row_mean(above))
        sums.append(row_mean(above * sizes))
    return differences(counts), differences(sums)


def differences(at_least):
    """Per cell, from the list of totals over this cell and all above it."""
    at_least = ops.concatenate([*at_least, ops.zeros_like(at_least[0])], axis=1)
    return at_least[:, :-1] - at_least[:, 1:]


def solve_gram(gram, moments):
    """Solves gram x = moments for symmetric positive semidefinite `gram` with unit diagonal.

    Gaussian elimination, unrolled. A pivot of 0 means that a scale's codes repeat those of the
    scales before it; that scale then does not move.
    """
    size = gram.shape[-1]
    tolerance = constant(1e-6, gram)
    rows = [[gram[:, i, j] for j in range(size)] + [moments[:, i]] for i in range(size)]
    pivots = []
    for i in range(size):
        usable = rows[i][i] > tolerance
        pivots.append((usable, ops.where(usable, rows[i][i], constant(1, gram))))
        for k in range(i + 1, size):
            factor = ops.where(usable, rows[k][i] / pivots[i][1], constant(0, gram))
            rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    solution = [None] * size
    for i in reversed(range(size)):
        value = rows[i][size]
        for j in range(i + 1, size):
            value = value - rows[i][j] * solution[j]
        solution[i] = ops.where(pivots[i][0], value / pivots[i][1], constant(0, gram))
    return ops.stack(solution, axis=1)
