"""Reads the levels of a weight tensor by its distinct values, with no tolerance."""

import dataclasses

import numpy as np

MAX_LEVELS = 255  # what int8 codes -127 .. 127 can tell apart


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
    """Distinct values per channel, or None where a channel has more than `max_levels`.

    BatchNorm folded by the converter scales every output channel by its own factor, so a tensor on
    a grid of a few levels shows as many levels per channel, but hundreds as a whole. -0.0 counts
    as 0.0.

    Args:
      weights: float32 array without NaN.
      axis: int or None.
      max_levels: the largest count worth reading.
    """
    rows = np.sort(to_rows(weights, axis) + np.float32(0), axis=1)  # -0.0 + 0.0 is 0.0
    is_new = np.ones(rows.shape, bool)
    is_new[:, 1:] = rows[:, 1:] != rows[:, :-1]
    counts = is_new.sum(axis=1)
    if counts.max() > max_levels:
        return None
    values = np.repeat(rows[:, -1:], counts.max(), axis=1)
    channel, position = np.nonzero(is_new)
    rank = np.cumsum(is_new, axis=1) - 1
    values[channel, rank[is_new]] = rows[channel, position]
    return ChannelLevels(axis, values, counts)


def index_levels(weights, levels):
    """Index of each weight among the levels of its channel, shape of `to_rows(weights)`."""
    rows = to_rows(weights, levels.axis)
    indices = np.zeros(rows.shape, np.uint8)
    for column in range(1, levels.values.shape[1]):
        indices += (rows >= levels.values[:, column : column + 1]) & (
            levels.counts[:, None] > column
        )
    return indices


def integer_grid(values, max_code, min_code=None):
    """Per channel a scale and integer codes with `float32(scale * code) == value` exactly.

    Args:
      values: float32 (channels, L).
      max_code: largest code allowed.
      min_code: smallest code allowed, -max_code by default.

    Returns: (scales float32 (channels,), codes int (channels, L)), with the smallest codes that do
      it, or None if some channel is on no such grid.
    """
    min_code = -max_code if min_code is None else min_code
    values = np.asarray(values, np.float32)
    scales = np.ones(len(values), np.float32)
    codes = np.zeros(values.shape, np.int64)
    magnitude = np.abs(values).astype(np.float64)
    smallest = np.where(magnitude > 0, magnitude, np.inf).min(axis=1)
    open_rows = np.flatnonzero(np.isfinite(smallest))  # a channel of zeros is done: codes 0
    for divisor in range(1, max(max_code, -min_code) + 1):
        if not open_rows.size:
            break
        ratio = np.rint(values[open_rows] * (divisor / smallest[open_rows, None]))
        fits = ((ratio <= max_code) & (ratio >= min_code)).all(axis=1)
        candidates = open_rows[fits]
        scale, exact = _exact_scale(values[candidates], ratio[fits])
        done = candidates[exact]
        scales[done], codes[done] = scale[exact], ratio[fits][exact]
        # Larger divisors only make larger codes: a row that no longer fits never will.
        open_rows = np.setdiff1d(candidates, done)
        if len(candidates) < len(fits):
            return None
    return None if open_rows.size else (scales, codes)


def _exact_scale(values, codes):
    """Scales with float32(scale * code) == value, and where they exist.

    The product rounds to the value when it lies within half an ulp of it, so each code bounds the
    scale to an interval; the float32 numbers around the middle of the intersection are tried.
    """
    half_ulp = np.spacing(np.abs(values)).astype(np.float64) / 2
    magnitude, count = np.abs(values).astype(np.float64), np.abs(codes)
    nonzero = count > 0
    divided = np.where(nonzero, count, 1)
    low = np.where(nonzero, (magnitude - half_ulp) / divided, -np.inf).max(axis=1)
    high = np.where(nonzero, (magnitude + half_ulp) / divided, np.inf).min(axis=1)
    middle = ((low + high) / 2).astype(np.float32)
    found, exact = middle.copy(), np.zeros(len(values), bool)
    for candidate in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.inf)):
        product = candidate[:, None].astype(np.float32) * codes.astype(np.float32)
        works = (product == values).all(axis=1) & ~exact
        found[works], exact = candidate[works], exact | works
    return found, exact
