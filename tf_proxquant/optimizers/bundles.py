"""Bundles: small variables whose levels are fitted together, side by side in one tensor.

A network has many small kernels. One operation on all of them costs less than one on each, and
takes much less time to trace and to compile.
"""

import copy
import math

import numpy as np
from keras import backend, ops

from tf_proxquant.optimizers import graphs
from tf_proxquant.quantizers import Binary, groups, programs

# Weights of the largest variable that is worth the copy into a bundle and back: where an update is
# compiled, an operation costs next to nothing; where it is not, and at the first step, it does.
LARGEST_FUSED, LARGEST = 2**16, 2**19


class Bundle:
    """Variables whose groups share a length and a quantizer, side by side in one tensor.

    Where the groups of every variable are its last axis, as in kernels of layers, they are the
    columns of that tensor, else its rows: what is moved to the other axis takes longer than what
    is done with it there. A single variable keeps its shape, unless the bundle has a `kind`.

    Args:
      variables: list of `keras.Variable`s.
      quantizer: their quantizer.
      kind: hashable, equal for bundles whose groups may differ in number and length alone, so that
        one function of a graph serves them all; None for others.

    Attributes:
      variables, kind: as given.
      quantizer: the quantizer of the joined tensor.
    """

    def __init__(self, variables, quantizer, kind=None):
        self.variables = variables
        self.quantizer = quantizer
        self.kind = kind
        self._given_axis = quantizer.axis
        self._shapes = [tuple(v.shape) for v in variables]
        self._counts = [groups.count(shape, quantizer.axis) for shape in self._shapes]
        self._axis = None  # that of the groups in the joined tensor
        if len(variables) > 1 or kind is not None:
            self._axis = _axis_of_groups(self._shapes[0], quantizer)
            # A copy: a quantizer of the user's own may not say what it is made from.
            self.quantizer = copy.copy(quantizer)
            self.quantizer.axis = self._axis

    def join(self, tensors):
        """Returns one tensor of `tensors`, a list in the order and shapes of the variables."""
        if self._axis is None:
            return ops.convert_to_tensor(tensors[0])
        if self._axis == 0:
            return _concatenate([groups.as_rows(t, self._given_axis) for t in tensors], 0)
        reshape = groups.namespace(tensors[0]).reshape
        parts = zip(tensors, self._counts, strict=True)
        return _concatenate([reshape(t, (-1, count)) for t, count in parts], 1)

    def read(self, tensors=None):
        """Returns `join` of copies: of the variables, or of as many others.

        Copies, for on TensorFlow and PyTorch a variable is a tensor that changes when it is
        assigned.
        """
        return self.join([ops.copy(t) for t in (self.variables if tensors is None else tensors)])

    def split(self, joined):
        """Returns what `join` was given; of an array, arrays."""
        if self._axis is None:
            return [joined]
        parts = zip(_split(joined, self._counts, self._axis), self._shapes, strict=True)
        if self._axis == 0:
            return [groups.from_rows(part, shape, self._given_axis) for part, shape in parts]
        return [groups.namespace(part).reshape(part, shape) for part, shape in parts]

    def total(self, joined):
        """Returns the sum of each variable, shape (variables,), of a tensor like that of `join`."""
        if self._axis is None:
            return ops.reshape(ops.sum(joined), (1,))
        sums = ops.sum(joined, axis=1 - self._axis)
        return ops.segment_sum(sums, self._owners(), len(self._counts))

    def spread(self, values):
        """Returns a value of each variable, shape (variables,), in a shape that fits `join`."""
        if self._axis is None:
            return values[0]
        return ops.expand_dims(ops.take(values, self._owners()), 1 - self._axis)

    def _owners(self):
        """The number of the variable that each group belongs to."""
        return np.repeat(np.arange(len(self._counts)), self._counts)

    def join_levels(self, levels):
        """Returns the levels of the joined tensor from those of each variable."""
        levels = [ops.copy(x) for x in levels]
        if self._axis is None:
            return levels[0]
        return _concatenate([ops.reshape(x, (-1, x.shape[-1])) for x in levels], 0)

    def split_levels(self, joined):
        """Returns what `join_levels` was given."""
        if self._axis is None:
            return [joined]
        parts = _split(joined, self._counts, 0)
        return [p[0] for p in parts] if self._given_axis is None else parts


def make_bundles(pairs, is_fused=False):
    """Puts variables together where it pays.

    Args:
      pairs: list of (variable, quantizer).
      is_fused: whether the update is compiled.

    Returns: list of `Bundle`s, which hold each variable once.
    """
    bundled = {}
    for variable, quantizer in pairs:
        bundled.setdefault(_key(variable, quantizer, is_fused), []).append((variable, quantizer))
    return [
        Bundle([v for v, _ in members], members[0][1], None if is_fused else _kind(*members[0]))
        for members in bundled.values()
    ]


def levels_shapes(pairs):
    """Returns the shape of the levels of each (variable, quantizer)."""
    shapes, found = [], {}
    for variable, quantizer in pairs:
        shape = tuple(variable.shape)
        key = _kind(variable, quantizer) or _key(variable, quantizer, False)
        if key not in found:
            found[key] = quantizer.levels(ops.ones(shape, variable.dtype)).shape[-1]
        rows = () if quantizer.axis is None else (groups.count(shape, quantizer.axis),)
        shapes.append((*rows, found[key]))
    return shapes


def _key(variable, quantizer, is_fused):
    """What variables must share to be joined: state, dtype and length of row; an int for none."""
    if not _is_joinable(variable, quantizer):
        return id(variable)
    if is_fused and isinstance(quantizer, Binary):  # one mean, which is not worth a copy
        return id(variable)
    size = math.prod(variable.shape)
    if size > (LARGEST_FUSED if is_fused else LARGEST):
        return id(variable)
    length = size // groups.count(variable.shape, quantizer.axis)
    axis = _axis_of_groups(tuple(variable.shape), quantizer)
    return (*_made_from(variable, quantizer), length, axis)


def _axis_of_groups(shape, quantizer):
    """1 where the groups are what a reshape to two axes has in the last one, else 0."""
    return 1 if groups.are_last(shape, quantizer.axis) else 0


def _kind(variable, quantizer):
    """What bundles must share to be computed by one function of a graph; None for never."""
    is_ours = programs.is_ours(quantizer)
    if not is_ours or quantizer.needs_shape or not _is_joinable(variable, quantizer):
        return None
    axis = _axis_of_groups(tuple(variable.shape), quantizer)
    return (*_made_from(variable, quantizer, but="axis"), axis)


def _made_from(variable, quantizer, but=None):
    dtype = backend.standardize_dtype(variable.dtype)
    return type(quantizer), programs.state(quantizer, but), dtype


def _is_joinable(variable, quantizer):
    is_fitted = quantizer.fixed_level is None and _fits_rows(quantizer)
    return is_fitted and math.prod(variable.shape) > 0


def _fits_rows(quantizer):
    """Whether the quantizer is known to treat each row by itself: its own is nothing but `fit`."""
    names = ("levels", "nearest", "spread", "spread_levels")
    return all(
        getattr(type(quantizer), name).__module__.startswith("tf_proxquant.") for name in names
    )


def _concatenate(tensors, axis):
    if len(tensors) == 1:
        return tensors[0]
    return groups.namespace(tensors[0]).concatenate(tensors, axis=axis)


def _split(tensor, sizes, axis):
    return [tensor] if len(sizes) == 1 else graphs.split(tensor, sizes, axis)
