"""Groups: which weights share one set of levels.

A group is a slice of the weight tensor at fixed indices of the kept axes. Fitting works on
rows, one row per group, whatever the rank of the tensor; the levels of the groups then
broadcast back against the tensor.
"""

import functools
import math
import operator

import numpy as np
from keras import backend, ops

# Rows of this length are folded into this many parts; see `_folded`.
TERMS_OF_PARTS = backend.backend() == "jax"
LONG, FOLDS = 2**16, 16 if TERMS_OF_PARTS else 8

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")


def check_axis(axis):
    """Returns `axis` as None, an int or a tuple of distinct ints.

    Raises: ValueError: for anything else.
    """
    if axis is None or (isinstance(axis, int) and not isinstance(axis, bool)):
        return axis
    if isinstance(axis, (tuple, list)) and axis:
        integers = all(isinstance(a, int) and not isinstance(a, bool) for a in axis)
        if integers and len(set(axis)) == len(axis):
            return tuple(axis)
    raise ValueError(
        "`axis` must be None (one set of levels per tensor), an int, or a non-empty tuple of "
        f"distinct ints (axes that keep their own levels). Received: axis={axis!r}"
    )


def kept_axes(rank, axis):
    """The kept axes of a tensor of `rank` dimensions: ascending, counted from 0.

    Raises: ValueError: if an axis is out of range or named twice.
    """
    if axis is None:
        return ()
    axes = (axis,) if isinstance(axis, int) else axis
    for a in axes:
        if not -rank <= a < rank:
            raise ValueError(
                f"`axis` is out of range: a tensor of rank {rank} has axes "
                f"{-rank} to {rank - 1}. Received: axis={axis!r}"
            )
    kept = sorted({a % rank for a in axes})
    if len(kept) != len(axes):
        raise ValueError(
            f"`axis` names the same axis of a tensor of rank {rank} twice. Received: axis={axis!r}"
        )
    return tuple(kept)


def as_weights(weights):
    """Returns `weights` (tensor, variable, array) as a tensor.

    Raises: ValueError: if its dtype is not a real floating-point type.
    """
    weights = ops.convert_to_tensor(weights)
    dtype = backend.standardize_dtype(weights.dtype)
    if dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"Weights must be real floating-point numbers, one of {FLOAT_DTYPES}; "
            f"cast them first. Received: dtype={dtype}"
        )
    return weights


def at_least_float32(dtype):
    """float64 for float64, float32 for every shorter float."""
    return "float64" if backend.standardize_dtype(dtype) == "float64" else "float32"


def to_rows(weights, axis):
    """Returns the groups as rows: shape `(groups, weights per group)`.

    Half-precision weights come back as float32, so that sums over them are accurate, and empty
    rows as one weight of 0, so that a fit has something to fit.
    """
    rows = as_rows(ops.cast(weights, at_least_float32(weights.dtype)), axis)
    if rows.shape[1] == 0:
        return ops.zeros((rows.shape[0], 1), dtype=rows.dtype)
    return rows


def as_rows(weights, axis):
    """The groups of `weights` as rows, each in row-major order of the axes that are not kept.

    Of an array of NumPy an array, in a hundredth of the time that eager operations take.
    """
    xp = namespace(weights)
    shape = weights.shape if xp is np else ops.shape(weights)
    order, kept = _order(len(shape), axis)
    if order != tuple(range(len(shape))):
        weights = xp.transpose(weights, order)
    num_groups = math.prod(shape[a] for a in kept)
    per_group = math.prod(shape[a] for a in order[len(kept) :])
    return xp.reshape(weights, (num_groups, per_group))


def from_rows(rows, shape, axis):
    """The weights of a given shape whose `as_rows` are `rows`."""
    xp, (order, _) = namespace(rows), _order(len(shape), axis)
    weights = xp.reshape(rows, [shape[a] for a in order])
    if order == tuple(range(len(shape))):
        return weights
    return xp.transpose(weights, [order.index(a) for a in range(len(shape))])


def are_last(shape, axis):
    """Whether `reshape(weights, (-1, groups))` has the groups as columns; False for one group."""
    kept = [a for a in kept_axes(len(shape), axis) if shape[a] != 1]
    others = [a for a in range(len(shape)) if shape[a] != 1 and a not in kept]
    return bool(kept) and all(a < kept[0] for a in others)


def namespace(tensor):
    """NumPy for its arrays, else `keras.ops`: what they have in common has one signature."""
    return np if isinstance(tensor, np.ndarray) else ops


def count(shape, axis):
    """The number of groups of a tensor of this shape."""
    return math.prod(shape[a] for a in kept_axes(len(shape), axis))


def _order(rank, axis):
    """The axes with the kept ones first, and the kept ones."""
    kept = kept_axes(rank, axis)
    return (*kept, *(a for a in range(rank) if a not in kept)), kept


def itself(entries):
    """The term of a sum of the entries as they are."""
    return entries


def row_mean(rows, term=itself):
    """Mean of each row, or of `term` of its entries, shape (groups, 1); see `row_sum`."""
    return row_sum(rows, term) / ops.cast(ops.shape(rows)[1], rows.dtype)


def row_sum(rows, term=itself):
    """Sum of each row, or of `term` of its entries, shape (groups, 1).

    Args:
      rows: (groups, n).
      term: function of entries that returns one value for each.
    """
    return _folded(rows, term, ops.sum, operator.add)


def row_max(rows):
    """Largest entry of each row, shape (groups, 1)."""
    return _folded(rows, itself, ops.max, ops.maximum)


def _folded(rows, term, reduce, join):
    """`reduce` of the terms of each row; those of long rows are joined part onto part first.

    In float32 the rounding error of a sum grows with the number of terms that go into one
    accumulator, and XLA merges what makes the terms into the additions, on all cores, but not into
    a reduction. That of JAX merges only what is made of the parts; it would store the terms of
    whole rows, which takes longer than all else.
    """
    length = rows.shape[1]
    if length is None or length < LONG:
        return reduce(term(rows), axis=1, keepdims=True)
    if not TERMS_OF_PARTS:
        rows, term = term(rows), itself
    size, left_over = divmod(length, FOLDS)
    parts = [term(rows[:, i * size : (i + 1) * size]) for i in range(FOLDS)]
    found = _folded(functools.reduce(join, parts), itself, reduce, join)
    if not left_over:
        return found
    rest = reduce(term(rows[:, length - left_over :]), axis=1, keepdims=True)
    return join(found, rest)


def broadcast_shape(weights, axis):
    """The shape in which one number per group broadcasts against `weights`."""
    shape = ops.shape(weights)
    kept = kept_axes(len(shape), axis)
    return tuple(shape[a] if a in kept else 1 for a in range(len(shape)))


class NotFiniteError(ValueError):
    """Weights are NaN or infinite."""


def check_finite(weights, axis):
    """Raises NotFiniteError naming the groups of `weights` with NaN or inf, when values are known.

    While a graph is traced the values are not known, and nothing is checked or computed.
    """
    try:
        weights = ops.convert_to_numpy(weights)
    except (NotImplementedError, TypeError):  # a symbolic tensor of TensorFlow, of JAX
        return
    finite = np.isfinite(as_rows(weights, axis)).all(axis=1)
    bad = [i for i, is_finite in enumerate(finite) if not is_finite]
    if bad:
        where = "the tensor" if axis is None else f"{len(bad)} of {len(finite)} groups: {bad[:16]}"
        raise NotFiniteError(
            "Weights must be finite; a NaN or inf has no nearest level. Look for a diverged loss "
            f"or a bad checkpoint. Received: NaN or inf in {where} (axis={axis!r})"
        )
