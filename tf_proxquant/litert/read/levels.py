"""Reads the levels of a weight tensor by its distinct values, with no tolerance."""

import dataclasses

import numpy as np

MAX_LEVELS = 256  # what a byte can tell apart
SAMPLE = 4096  # weights of a row that are looked at first
BLOCK = 2**16  # values that are fitted at once


@dataclasses.dataclass(frozen=True)
class ChannelLevels:
    """Distinct values of a tensor, channel by channel.

    Attributes:
      axis: the channel axis, or None for one set of levels for the whole tensor.
      values: float32 (channels, L), ascending; rows with fewer than L levels repeat their last.
      counts: int (channels,), distinct values per channel.
    """

    axis: int | None
    values: np.ndarray
    counts: np.ndarray

    @property
    def num_levels(self):
        """The largest number of levels of any channel."""
        return int(self.counts.max())


def to_rows(weights, axis):
    """`weights` as (channels, n): one row per index of `axis`, one row in all for axis=None."""
    if axis is None:
        return weights.reshape(1, -1)
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)


def from_rows(rows, shape, axis):
    """Inverse of `to_rows`."""
    if axis is None:
        return rows.reshape(shape)
    rest = [n for i, n in enumerate(shape) if i != axis]
    return np.moveaxis(rows.reshape(shape[axis], *rest), 0, axis)


def read_levels(weights, axis=None, max_levels=MAX_LEVELS):
    """Distinct values per channel, or None where one has more than `max_levels`, or none has any.

    BatchNorm folded by the converter scales every output channel by its own factor, so a tensor on
    a grid of a few levels shows as many levels per channel, but hundreds as a whole. -0.0 counts
    as 0.0.

    Args:
      weights: float32 array without NaN.
      axis: int or None.
      max_levels: the largest count worth reading.
    """
    if not weights.size:
        return None
    rows = to_rows(weights, axis)
    # A part with too many levels says enough, and most float tensors have one.
    if rows.size > SAMPLE and _sorted(rows[:16, :SAMPLE], max_levels) is None:
        return None
    found = _sorted(rows, max_levels)
    if found is None:
        return None
    rows, is_new, counts = found
    values = np.repeat(rows[:, -1:], counts.max(), axis=1)
    channel, position = np.nonzero(is_new)
    first = np.cumsum(counts) - counts  # among the new ones, of each channel
    values[channel, np.arange(channel.size) - np.repeat(first, counts)] = rows[channel, position]
    return ChannelLevels(axis, values, counts)


def _sorted(rows, max_levels):
    """The rows sorted, where an entry differs from the one before, how often; None if too often."""
    rows = np.ascontiguousarray(rows) + np.float32(0)  # -0.0 + 0.0 is 0.0
    rows.sort(axis=1)
    is_new = np.ones(rows.shape, bool)
    is_new[:, 1:] = rows[:, 1:] != rows[:, :-1]
    counts = is_new.sum(axis=1)
    return None if counts.max() > max_levels else (rows, is_new, counts)


def index_levels(weights, levels):
    """Index of each weight among the levels of its channel, shape of `to_rows(weights)`."""
    rows = to_rows(weights, levels.axis)
    indices = np.zeros(rows.shape, np.uint8)
    for column in range(1, levels.values.shape[1]):
        indices += (rows >= levels.values[:, column : column + 1]) & (
            levels.counts[:, None] > column
        )
    return indices


def integer_grid(values, max_code, min_code=None, max_ulps=0):
    """Per channel a scale and integer codes with `float32(scale * code) == value`.

    Args:
      values: float32 (channels, L), ascending.
      max_code: largest code allowed.
      min_code: smallest code allowed, -max_code by default.
      max_ulps: units in the last place by which a product may miss its value; 0 is exact.

    Returns: (scales float32 (channels,), codes int (channels, L)), with the smallest codes that do
      it, or None if some channel is on no such grid.
    """
    min_code = -max_code if min_code is None else min_code
    values = np.asarray(values, np.float32)
    # One block on no grid says enough, and needs little memory.
    step = max(1, BLOCK // max(1, values.shape[1]))
    grids = []
    for start in range(0, max(1, len(values)), step):
        grids.append(_integer_grid(values[start : start + step], max_code, min_code, max_ulps))
        if grids[-1] is None:
            return None
    return tuple(np.concatenate(parts) for parts in zip(*grids, strict=True))


def _integer_grid(values, max_code, min_code, max_ulps):
    """As `integer_grid`, for the channels of one block."""
    scales = np.ones(len(values), np.float32)
    codes = np.zeros(values.shape, np.int64)
    magnitude = np.abs(values).astype(np.float64)
    smallest = np.where(magnitude > 0, magnitude, np.inf).min(axis=1)
    open_rows = np.flatnonzero(np.isfinite(smallest))  # a channel of zeros is done: codes 0
    for divisor in range(1, max(max_code, -min_code) + 1):
        ratio = np.rint(values[open_rows] * (divisor / smallest[open_rows, None]))
        # Larger divisors only make larger codes: a row that no longer fits never will.
        if not ((ratio <= max_code) & (ratio >= min_code)).all():
            return None
        scale, is_done = _fit_scale(values[open_rows], ratio, max_ulps)
        done = open_rows[is_done]
        scales[done], codes[done] = scale[is_done], ratio[is_done]
        open_rows = open_rows[~is_done]
        if not open_rows.size:
            return scales, codes
    return None


def _fit_scale(values, codes, max_ulps):
    """Scales with float32(scale * code) within `max_ulps` of the value, and where they exist.

    The product rounds to the value when it lies within half an ulp of it, so each code bounds the
    scale to an interval; the float32 numbers around the middle of the intersection are tried.
    """
    ulp = np.spacing(np.abs(values)).astype(np.float64)
    magnitude, count = np.abs(values).astype(np.float64), np.abs(codes)
    nonzero = count > 0
    divided = np.where(nonzero, count, 1)
    low = np.where(nonzero, (magnitude - ulp / 2) / divided, -np.inf).max(axis=1)
    high = np.where(nonzero, (magnitude + ulp / 2) / divided, np.inf).min(axis=1)
    middle = ((low + high) / 2).astype(np.float32)
    found, fewest = middle.copy(), np.full(len(values), np.inf)
    for candidate in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.inf)):
        product = candidate[:, None].astype(np.float32) * codes.astype(np.float32)
        missed = (np.abs(product.astype(np.float64) - values) / ulp).max(axis=1)
        found = np.where(missed < fewest, candidate, found).astype(np.float32)
        fewest = np.minimum(missed, fewest)
    return found, fewest <= max_ulps


def channel_axes(ndim):
    """Axes that may keep their own levels, the likeliest first; None is one set for all.

    The last but one is the output channel of Conv3DTranspose, whose kernel no file turns.
    """
    last = [ndim - 1, ndim - 2] if ndim == 5 else [ndim - 1]
    return list(dict.fromkeys([None, 0, *last])) if ndim > 1 else [None]


def count_levels(weights, axes=None):
    """(axis, levels per channel) of the way to divide a tensor that shows the fewest levels.

    Returns (None, None) where more than half of the values of the largest channel are distinct:
    they are not levels.
    """
    best = None, None
    for axis in channel_axes(weights.ndim) if axes is None else axes:
        found = read_levels(weights, axis)
        channel_size = weights.size // (1 if axis is None else weights.shape[axis] or 1)
        if found is None or 2 * found.num_levels > channel_size:
            continue
        if best[1] is None or found.num_levels < best[1]:
            best = axis, found.num_levels
    return best


def count_codes(weights):
    """As `count_levels`, of channels that are too short to show their levels: the distinct codes
    of all channels together, on the integer grid of each. Of fewer than four weights any are.
    """
    found = None, None
    for axis in channel_axes(weights.ndim):
        if axis is not None and weights.size < 4 * weights.shape[axis]:
            continue
        channels = read_levels(weights, axis)
        grid = None if channels is None else integer_grid(channels.values, 127, -128)
        num_codes = None if grid is None else len(np.unique(grid[1]))
        if num_codes is not None and (found[1] is None or num_codes < found[1]):
            found = axis, num_codes
    return found


def is_on_grid(weights, axis=None):
    """Whether the levels of every channel are exact multiples of one scale, by -128 .. 127."""
    found = read_levels(weights, axis)
    return found is not None and integer_grid(found.values, 127, -128) is not None


def undo_blur(weights, axis, max_ulps):
    """Moves weights back onto an integer grid that a product with a factor rounded them off.

    Folding BatchNorm rounds factor * (scale * k) for every k by itself, so that the levels of a
    channel are no longer float32(scale * k) for one scale: 40 % of the channels with levels
    -7 .. 7. Two levels {-s, s}, or three with 0 between, stay exact. What is blurred may still be
    exact with codes that are several times as large, which would cost bits: the smallest codes
    within `max_ulps` are taken.

    Args:
      weights: float32 array.
      axis: channel axis, or None.
      max_ulps: the most units in the last place that a weight may move.

    Returns: the weights on the grid, moved or not, with as many distinct values per channel as
      before, or None if they lie on no grid of codes -128 .. 127.
    """
    found = read_levels(weights, axis)
    if found is None:
        return None
    grid = integer_grid(found.values, 127, -128, max_ulps)
    if grid is None:
        return None
    scales, codes = grid
    if (np.diff(codes, axis=1) == 0).sum() > (found.counts.max() - found.counts).sum():
        return None  # two values with one code: noise around a level, not a rounded grid
    moved = scales[:, None] * codes.astype(np.float32)
    rows = np.take_along_axis(moved, index_levels(weights, found).astype(np.int64), axis=1)
    return from_rows(rows, weights.shape, axis)
