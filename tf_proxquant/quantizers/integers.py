"""Levels that are whole multiples of one scale: what an int8 tensor stores."""

from keras import ops

from tf_proxquant.quantizers.base import constant

LARGEST = 127  # of a signed byte, whose -128 has no opposite
SIGNIFICAND = 24  # bits of a float32, which a file stores
SAME_RATIO = 1e-6  # two ratios of codes up to 127 differ by at least 1 / (127 * 126)


def integer_multiples(levels, counts):
    """Moves levels to k * s with whole k, 0 <= k <= 127, at nearly the least extra squared error.

    For each K = 1..127 the codes are k_c = round(K level_c / largest level). The first K with
    the smallest, to a thousandth,
        sum_c count_c (level_c / largest level - k_c / K)^2
    wins, and s is the least-squares scale for its codes. With s in place of largest level / K
    that sum is the extra squared error of the weights, if each level is the mean of the weights
    that round to it and they stay with it.

    Args:
      levels: (groups, L), >= 0, the largest last.
      counts: (groups, L), the weights nearest to each level, or any multiple of that.

    Returns: (groups, L); every product k * s is exact in float32, see `short_scale`.
    """
    if levels.shape[1] == 1:
        return levels
    top = levels[:, -1:]
    top = ops.where(top > 0, top, constant(1, levels))
    total = ops.sum(counts, axis=1, keepdims=True)
    shares = counts / ops.where(total > 0, total, constant(1, total))
    largest = _best_largest_code(levels / top, shares)
    codes = ops.round(largest * levels / top)
    norm = ops.sum(shares * codes * codes, axis=1, keepdims=True)
    fitted = ops.sum(shares * codes * levels, axis=1, keepdims=True)
    # No weight near a level that is not 0: the scale is free, and the largest level stays.
    scale = ops.where(
        norm > 0, fitted / ops.where(norm > 0, norm, constant(1, norm)), top / largest
    )
    return short_scale(scale, largest) * codes


def _best_largest_code(ratios, shares):
    """K for `integer_multiples`: (groups, 1)."""
    error = constant(0, ratios)
    candidates = constant([list(range(1, LARGEST + 1))], ratios)
    for column in range(ratios.shape[1] - 1):  # the last one is 1, which every K has
        ratio = ratios[:, column : column + 1]
        distance = ops.round(candidates * ratio) / candidates - ratio
        error = error + shares[:, column : column + 1] * ops.square(distance)
    # Multiples of the best K are as good but for rounding: always the smallest of them.
    best = ops.min(error, axis=1, keepdims=True, initial=1)
    is_best = error <= constant(1.001, error) * best + constant(SAME_RATIO**2, error)
    none = constant(LARGEST + 1, error)
    return ops.min(ops.where(is_best, candidates, none), axis=1, keepdims=True, initial=LARGEST + 1)


def short_scale(scale, largest):
    """Rounds a scale to as many bits as leave its products with codes up to `largest` exact.

    The products are then the same in float32 and float64, and however a compiler fuses them;
    the scale can be read back from any level. The bits are counted with a margin of one part in
    a thousand, as logarithms may round up or down.

    Args:
      scale: (...), >= 0. Below 1e-33 it stays as it is.
      largest: number >= 1, or tensor that broadcasts against `scale`.

    Returns: (...), relative error at most 2^-18 for codes up to 127.
    """
    two, margin = constant(2, scale), constant(1.001, scale)
    largest = ops.convert_to_tensor(largest, dtype=scale.dtype)
    code_bits = ops.floor(ops.log2(margin * largest)) + 1
    usable = scale > constant(1e-33, scale)
    exponent = ops.floor(ops.log2(margin * ops.where(usable, scale, constant(1, scale))))
    unit = ops.power(two, exponent + code_bits + 1 - SIGNIFICAND)
    return ops.where(usable, ops.round(scale / unit) * unit, scale)
