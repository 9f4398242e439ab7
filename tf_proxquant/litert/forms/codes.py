"""Integer codes of a tensor, and whether the runtime's integer kernels compute them rightly."""

import numpy as np

from tf_proxquant.litert.forms.form import Codes
from tf_proxquant.litert.read import levels


def find_codes(weights, bits, axis=None, *, narrow=False):
    """`Codes` with weight = float32(scale * code), or None off the grid.

    Args:
      weights: float32 array.
      bits: 8, 4 or 2.
      axis: of the channels that keep their own scale; None for one scale.
      narrow: whether to leave out the most negative code, -2^(bits-1).
    """
    largest = (1 << (bits - 1)) - 1
    smallest = -largest if narrow else -largest - 1
    found = levels.read_levels(weights, axis, largest - smallest + 1)
    grid = found and levels.integer_grid(found.values, largest, smallest)
    if not grid:
        return None
    scales, level_codes = grid
    codes = np.take_along_axis(level_codes, levels.index_levels(weights, found), axis=1)
    return Codes(bits, scales, levels.from_rows(codes.astype(np.int8), weights.shape, axis), axis)


def widened(codes, bits=8):
    """The same weights with codes doubled as often as the bits allow, bit for bit.

    A power of two leaves scale * code as it is, and gives the bias of an integer layer, whose unit
    is input scale * weight scale, the finest steps.
    """
    largest = levels.to_rows(np.abs(codes.codes.astype(np.int16)), codes.axis).max(axis=1)
    limit = (1 << (bits - 1)) - 1
    factors = 2 ** np.floor(np.log2(limit / np.maximum(largest, 1)))
    factors = np.maximum(factors, 1)
    wide = codes.codes * broadcastable(factors, codes.codes.ndim, codes.axis)
    return Codes(bits, codes.scales / factors.astype(np.float32), wide.astype(np.int8), codes.axis)


def broadcastable(values, ndim, axis):
    """`values` (channels,) with dimensions of 1 around, to broadcast along `axis`."""
    shape = [1] * ndim
    if axis is not None:
        shape[axis] = -1
    return np.ascontiguousarray(values).reshape(shape)
