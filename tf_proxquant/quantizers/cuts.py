"""The best cut of the sizes of a row in two cells, by counting and without a sort.

A cut leaves N sizes with the sum S above it and the others below. Their means are the best levels,
and lower the squared error, against levels of 0, by
    gain(N, S) = S^2 / N  [+ (T - S)^2 / (n - N), where the lower level is not held at 0]
with T the sum of all n sizes. One pass over the weights counts the sizes in up to 8192 bins and
sums them in each. That gives the gain of every cut between two bins, exactly, and an upper bound
for every cut within one: no cut gains more than the best one of as many sizes with the same sum
that all lie at the two ends of the bin, because the sum of what exceeds t, as a function of t, is
convex and lies below its chord. Where no bound exceeds the best gain by more than a millionth of
the squared error, the best cut is found. Elsewhere the bins from the first to the last one whose
bound does are counted in bins of their own, and so on; what is then still open must be sorted.

Sizes are counted as whole numbers, of 24 bits for the largest of the row and sign, so that counts
and sums within bins are exact, whatever the order and the device that adds them.
"""

from typing import NamedTuple

from keras import ops
from keras.backend import standardize_dtype

from tf_proxquant.quantizers.base import constant
from tf_proxquant.quantizers.groups import row_max
from tf_proxquant.quantizers.prefix import prefix_sums
from tf_proxquant.typing import Tensor

BITS = 24  # of the largest size, those of a float32
BINS = 2**6, 2**13  # the least and the most
LONG = 2**18  # sizes counted at once: 2^11 times as much, the sum of depths in a bin, is an int32
# Weights of a row from which on counting it is faster than a sort: of one of few rows, of any.
MANY, MANY_OF_ANY, FEW_ROWS = 2**11, 2**17, 16
NORMAL = 1.2e-38  # TensorFlow takes smaller float32 for 0
ROUNDS = 4
WITHIN = 1e-6  # of the squared error
ROUNDING = {"float32": 4e-7, "float64": 1e-15}  # of the sum of squares


class Search(NamedTuple):
    """What is known of each row; all (rows, 1).

    Attributes:
      top, shift: the bins to count in, int32. Bin j holds top - size = j 2^shift .. and up to
        below (j + 1) 2^shift.
      number, total: N and S of the sizes above `top`.
      all_number, all_total, squares: n, T, and a lower bound of the sum of squares.
      lower, upper: the levels.
      proved: whether they are the best.
    """

    top: Tensor
    shift: Tensor
    number: Tensor
    total: Tensor
    all_number: Tensor
    all_total: Tensor
    squares: Tensor
    lower: Tensor
    upper: Tensor
    proved: Tensor


def best_cuts(rows, by_sign=False, lower="zero"):
    """The two levels of least squared error for the sizes of each row.

    Args:
      rows: (groups, n), finite.
      by_sign: whether the weights below 0 have levels of their own, in the first column.
      lower: "zero" holds the lower level at 0, "mean" fits both.

    Returns: the lower and the upper levels, and whether they are proved to be within 1e-6 of the
      least squared error, and 4e-7 (float64: 1e-15) of the sum of squares, (groups, 1 or 2) each.
    """
    groups, length = rows.shape
    sides = 2 if by_sign else 1
    bins = min(max(2 ** (length - 1).bit_length(), BINS[0]), BINS[1])
    # By sign: one large weight must not make the sizes of the other sign coarse.
    signed = [-rows, rows] if by_sign else [ops.abs(rows)]
    largest = ops.concatenate([row_max(x) for x in signed], axis=1)
    unit = ops.where(largest > 0, largest, constant(1, largest)) / (2**BITS - 4)
    unit = ops.maximum(unit, constant(NORMAL, unit))
    whole = ops.zeros((groups * sides, 1), "int32")
    zero = ops.zeros((groups * sides, 1), rows.dtype)
    top, shift = whole + (2**BITS - 1), whole + (BITS + 1 - bins.bit_length())
    start = Search._make((top, shift, whole, *[zero] * 6, ops.zeros_like(whole, "bool")))

    def one_round(index, *search):
        search = Search(*search)
        counted = count(rows, unit, search.top, search.shift, bins)
        return index + 1, *_searched(search, counted, ops.equal(index, 0), lower == "mean")

    def goes_on(index, *search):
        return ops.logical_and(index < ROUNDS, ops.logical_not(ops.all(search[-1])))

    search = Search(*ops.while_loop(goes_on, one_round, (0, *start))[1:])
    lower, upper, proved = (ops.reshape(x, (groups, sides)) for x in search[-3:])
    return lower * unit, upper * unit, proved


def are_long(rows):
    """Whether rows should be counted rather than sorted."""
    groups, length = rows.shape
    return length >= (MANY if groups <= FEW_ROWS else MANY_OF_ANY)


def unless_proved(proved, levels, sort):
    """`levels`, and where they are not proved those of `sort()`, which is called only for them."""
    mixed = lambda: ops.where(proved, levels, sort())  # noqa: E731
    return ops.cond(ops.all(proved), lambda: levels, mixed)


def count(rows, unit, top, shift, bins):
    """Counts the sizes |w| of rows in bins.

    Args:
      rows: (groups, n).
      unit: (groups, 1), or (groups, 2) to count the weights below 0 by themselves; what a size is
        a whole number of, below 2^24.
      top, shift: (groups * sides, 1), see `Search`.
      bins: their number; with more than `BINS[1]` weights it must be that.

    Returns: for each side of each group the number of sizes in each bin, and the sum of their
      distances from its upper end, int32 and the dtype of rows, (groups * sides, bins).
    """
    (groups, length), sides = rows.shape, unit.shape[1]
    width = bins + 2  # one more on each side for all that lies outside
    first = ops.arange(1, groups * sides * width, width, dtype="int32")
    places = [unit, *(ops.reshape(x, (groups, sides)) for x in (top, shift, first))]

    def counted(part):
        place = places
        if sides == 2:
            place = [ops.where(part < 0, x[:, :1], x[:, 1:]) for x in places]
        unit, top, shift, first = place
        depth = top - ops.cast(ops.abs(part) / unit + constant(0.5, part), "int32")
        index = ops.clip(ops.right_shift(depth, shift), -1, bins)
        is_inside = ops.logical_and(index >= 0, index < bins)
        depth = ops.where(is_inside, depth - ops.left_shift(index, shift), ops.zeros_like(depth))
        index = ops.reshape(index + first, (-1,))
        counts, depths = (
            ops.segment_sum(ops.reshape(x, (-1,)), index, groups * sides * width)
            for x in (ops.ones_like(depth), depth)
        )
        return counts, ops.cast(depths, rows.dtype)

    size = max(1, LONG // groups)
    found = counted(rows[:, : (length - 1) % size + 1])
    if length > size:

        def add(index, found):
            start = (length - 1) % size + 1 + index * size
            more = counted(ops.slice(rows, (0, start), (groups, size)))
            return found[0] + more[0], found[1] + more[1]

        found = ops.fori_loop(0, (length - 1) // size, add, found)
    return [ops.reshape(x, (groups * sides, width))[:, 1:-1] for x in found]


def _searched(search, counted, is_first, is_free):
    """One round: the best cut between the bins, and the bins that could have a better one."""
    counts, depths = counted
    bins, dtype = counts.shape[1], standardize_dtype(depths.dtype)
    width = ops.left_shift(ops.ones_like(search.shift), search.shift)
    span = ops.cast(width, dtype)
    ends = ops.cast(search.top, dtype) - span * ops.arange(bins, dtype=dtype)
    inside = ops.cast(counts, dtype)
    sums = inside * ends - depths
    exact = search.number + ops.pad(ops.cumsum(counts, axis=1), ((0, 0), (1, 0)))
    number, total = ops.cast(exact, dtype), search.total + prefix_sums(sums, block=2**6)
    if_first = (number[:, -1:], total[:, -1:], _sum(_over(sums * sums, inside)))
    known = search.all_number, search.all_total, search.squares
    known = [ops.where(is_first, a, b) for a, b in zip(if_first, known, strict=True)]
    all_number, all_total, squares = known

    def gain(number, total):
        above = _over(total * total, number)
        rest = all_total - total
        return above + _over(rest * rest, all_number - number) if is_free else above

    # As many with the same sum, at the two ends of their bin.
    at_end = inside - depths / ops.maximum(span - 1, ops.ones_like(span))
    bounds = gain(number[:, :-1] + at_end, total[:, :-1] + at_end * ends)
    gains = gain(number, total)
    most = ops.max(gains, axis=1, keepdims=True)
    error = squares - ops.maximum(most, ops.max(bounds, axis=1, keepdims=True))
    allowed = constant(WITHIN / 2, error) * ops.maximum(error, ops.zeros_like(error))
    is_open = bounds > most + allowed + constant(ROUNDING[dtype], squares) * squares

    edge = _first(ops.equal(gains, most))
    cuts = ops.cast(search.top, dtype) + 0.5 - span * ops.arange(bins + 1, dtype=dtype)
    fitted = _levels((number, total, cuts), edge, (all_number, all_total), allowed, is_free)
    levels = [
        ops.where(search.proved, old, new)
        for old, new in zip((search.lower, search.upper), fitted, strict=True)
    ]
    begin, end = _first(is_open), bins - _first(ops.flip(is_open, axis=1))
    finer = sum(ops.cast((end - begin) * 2**k <= bins, "int32") for k in range(1, 14))
    proved = ops.logical_not(ops.any(is_open, axis=1, keepdims=True))
    found = (
        search.top - begin * width,
        ops.maximum(search.shift - finer, 0),
        ops.take_along_axis(exact, begin, axis=1),
        ops.take_along_axis(total, begin, axis=1),
        *known,
        *levels,
        ops.logical_or(search.proved, proved),
    )
    return Search._make(found)


def _levels(cells, edge, totals, allowed, is_free):
    """The levels of the cut at an edge between bins, moved on towards the best one near it.

    The best cut lies in the middle of its levels. From the edge to the next one on the side of
    its middle the levels are taken to change in a line; levels that differ by d from the means of
    a cell of N sizes add N d^2 to the squared error, which must not exceed what is allowed.
    """

    def at(edge):
        number, total, cut = (
            ops.take_along_axis(ops.broadcast_to(x, cells[0].shape), edge, axis=1) for x in cells
        )
        rest = totals[0] - number
        upper = _over(total, number)
        lower = ops.zeros_like(upper)
        if is_free:
            lower = ops.where(rest > 0, _over(totals[1] - total, rest), upper)
        return lower, upper, (lower + upper) / 2 - cut, number, rest

    lower, upper, distance, number, rest = at(edge)
    step = ops.where(distance < 0, ops.ones_like(edge), -ops.ones_like(edge))
    next_lower, next_upper, next_distance, *_ = at(ops.clip(edge + step, 0, cells[0].shape[1] - 1))
    share = _over(distance, distance - next_distance)
    lower_step, upper_step = share * (next_lower - lower), share * (next_upper - upper)
    loss = number * upper_step * upper_step + rest * lower_step * lower_step
    moves = ops.logical_and(distance * next_distance < 0, loss <= allowed)
    zero = ops.zeros_like(loss)
    return lower + ops.where(moves, lower_step, zero), upper + ops.where(moves, upper_step, zero)


def _first(flags):
    """The first column that is True in each row, int32 (rows, 1); 0 where none is."""
    flags = ops.cast(flags, "int32")
    return ops.cast(ops.expand_dims(ops.argmax(flags, axis=1), 1), "int32")


def _sum(columns):
    return ops.sum(columns, axis=1, keepdims=True)


def _over(value, divisor):
    """`value / divisor`; `value`, which is 0 then, where the divisor is 0."""
    return value / ops.where(ops.equal(divisor, 0), ops.ones_like(divisor), divisor)
