"""Levels that are whole multiples of one scale."""

from keras import ops

from tf_proxquant.quantizers.base import constant

LARGEST = 127  # of a signed byte, whose -128 has no opposite


def integer_multiples(levels, counts):
    """Moves levels to k * s with whole k, 0 <= k <= 127, at the least extra squared error.

    For each K = 1..127 the codes are k_c = round(K level_c / largest level) and s is the
    least-squares scale for them; the K with the smallest
        sum_c count_c (level_c - s k_c)^2
    wins. That sum is the extra squared error of the weights, if each level is the mean of the
    weights that round to it and they stay with it. The scale keeps 16 significant bits, so that
    in float32 every product k * s is exact, and s = level / k can be read back from the weights.

    Args:
      levels: (groups, L), >= 0.
      counts: (groups, L), the weights nearest to each level, or any multiple of that.

    Returns: (groups, L).
    """
    top = ops.max(levels, axis=1, keepdims=True)
    top = ops.where(top > 0, top, constant(1, levels))
    ratios = ops.expand_dims(levels / top, 1)
    tops = constant([[[k] for k in range(1, LARGEST + 1)]], levels)
    codes = ops.round(tops * ratios)
    counts = ops.expand_dims(counts, 1)
    norms = ops.sum(counts * codes * codes, axis=2, keepdims=True)
    scales = ops.sum(counts * codes * ratios, axis=2, keepdims=True)
    # No weight near a level that is not 0: the levels are free, and stay where they are.
    scales = ops.where(norms > 0, scales / ops.where(norms > 0, norms, 1), 1 / tops)
    scales = sixteen_bits(scales * ops.expand_dims(top, 1))
    errors = ops.sum(counts * ops.square(ratios - scales * codes / ops.expand_dims(top, 1)), axis=2)
    best = ops.expand_dims(ops.expand_dims(ops.argmin(errors, axis=1), 1), 2)
    scale = ops.take_along_axis(scales, best, axis=1)
    codes = ops.take_along_axis(codes, ops.repeat(best, codes.shape[2], axis=2), axis=1)
    return (scale * codes)[:, 0]


def sixteen_bits(values):
    """Rounds to 16 significant bits (Dekker's splitting); float64 keeps 45."""
    spread = values * constant(2.0**8 + 1, values)
    return spread - (spread - values)
