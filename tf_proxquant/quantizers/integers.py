"""Levels that are whole multiples of one scale: what an int8 tensor stores."""

import functools

import numpy as np
from keras import ops

from tf_proxquant.quantizers.base import constant

LARGEST = 127  # of a signed byte, whose -128 has no opposite
SIGNIFICAND = 24  # bits of a float32, which a file stores
CELLS = 2**14  # of a table of ratios; 2 / CELLS < 2 / (127 * 126), twice what two ratios differ by


def integer_multiples(levels):
    """Moves levels to k * s with whole k, 0 <= k <= 127, and s = largest level / K.

    The codes are k = round(K level / largest level), and K in 1..127 is the smallest with the
    least squared distance of all k / K from level / largest level; with two levels, of which one
    ratio is left, by a table.

    Args:
      levels: (groups, L), >= 0, the largest last.

    Returns: (groups, L); every product k * s is exact in float32, see `short_scale`.
    """
    if levels.shape[1] == 1:
        return levels
    top = levels[:, -1:]
    ratios = levels / ops.where(top > 0, top, constant(1, levels))
    largest = _tabled(ratios[:, :1]) if levels.shape[1] == 2 else _searched(ratios[:, :-1])
    return short_scale(top / largest, largest) * ops.round(largest * ratios)


def _tabled(ratio):
    """K for one ratio in [0, 1] for each group: (groups, 1)."""
    # NaN as an integer is anything: it must not point outside of the table.
    cell = ops.cast(ops.where(ratio <= 1, ratio, constant(0, ratio)) * CELLS, "int32")
    return ops.cast(ops.take(_denominators(), cell), ratio.dtype)


@functools.cache
def _denominators():
    """Of the fraction up to 127 next to the middle of each cell of [0, 1], the last one for 1.

    Two such fractions differ by at least 1 / (127 * 126): one that lies in a cell is the nearest.
    """
    numerators, denominators = np.indices((LARGEST + 1, LARGEST + 1)).reshape(2, -1)
    lowest = (np.gcd(numerators, denominators) == 1) & (numerators <= denominators)
    fractions = numerators[lowest] / denominators[lowest]
    order = np.argsort(fractions)
    borders = (fractions[order][1:] + fractions[order][:-1]) / 2
    nearest = np.searchsorted(borders, (np.arange(CELLS + 1) + 0.5) / CELLS)
    return denominators[lowest][order][nearest].astype("uint8")


def _searched(ratios):
    """K for several ratios for each group, (groups, L): (groups, 1)."""
    candidates = constant([[k] for k in range(1, LARGEST + 1)], ratios)
    ratios = ops.expand_dims(ratios, 1)
    error = ops.mean(ops.square(ops.round(candidates * ratios) / candidates - ratios), axis=2)
    # Multiples of the best K are as good but for rounding: always the smallest of them.
    best = ops.min(error, axis=1, keepdims=True, initial=1)
    is_best = error <= constant(1.001, error) * best + constant(1e-12, error)
    candidates = ops.where(is_best, candidates[:, 0], constant(LARGEST, error))
    return ops.min(candidates, axis=1, keepdims=True, initial=LARGEST)


def short_scale(scale, largest):
    """Rounds a scale to as many bits as leave its products with codes up to `largest` exact.

    The products are then the same in float32 and float64, and however a compiler fuses them;
    the scale can be read back from any level. The bits are counted with a margin of one part in
    a thousand, as logarithms may round up or down.

    Args:
      scale: (...), >= 0. Below 1e-30 it becomes a multiple of 2^-122.
      largest: number >= 1, or tensor that broadcasts against `scale`.

    Returns: (...), relative error at most 2^-18 for codes up to 127.
    """
    largest = ops.convert_to_tensor(largest, dtype=scale.dtype)
    code_bits = ops.floor(ops.log2(constant(1.001, scale) * largest)) + 1
    smallest = constant(1e-30, scale)
    exponent = ops.floor(ops.log2(ops.maximum(constant(1.001, scale) * scale, smallest)))
    unit = ops.power(constant(2, scale), exponent + code_bits + (1 - SIGNIFICAND))
    return ops.round(scale / unit) * unit
