"""Bundles: small variables whose levels are fitted together, as the rows of one tensor.

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
    """Variables whose groups share a length and a quantizer, stacked as the rows of one tensor.

    A single variable keeps its shape, unless the bundle has a `kind`.

    Args:
      variables: list of `keras.Variable`s.
      quantizer: their quantizer.
      kind: hashable, equal for bundles whose rows may differ in number and length alone, so that
        one function of a graph serves them all; None for others.

    Attributes:
      variables, kind: as given.
      quantizer: the quantizer of the joined tensor.
    """

    def __init__(self, variables, quantizer, kind=None):
        self.variables = variables
        self.quantizer = quantizer
        self.kind = kind
        self._axis = quantizer.axis
        self._shapes = [tuple(v.shape) for v in variables]
        self._is_rows = len(variables) > 1 or kind is not None
        if self._is_rows:
            # A copy: a quantizer of the user's own may not say what it is made from.
            self.quantizer = copy.copy(quantizer)
            self.quantizer.axis = 0

    def join(self, tensors):
        """Returns one tensor of `tensors`, a list in the order and shapes of the variables."""
        if not self._is_rows:
            return ops.convert_to_tensor(tensors[0])
        return _concatenate([groups.as_rows(t, self._axis) for t in tensors])

    def read(self, tensors=None):
        """Returns `join` of copies: of the variables, or of as many others.

        Copies, for on TensorFlow and PyTorch a variable is a tensor that changes when it is
        assigned.
        """
        return self.join([ops.copy(t) for t in (self.variables if tensors is None else tensors)])

    def split(self, joined):
        """Returns what `join` was given; of an array, arrays."""
        if not self._is_rows:
            return [joined]
        counts = [groups.count(shape, self._axis) for shape in self._shapes]
        return [
            groups.from_rows(part, shape, self._axis)
            for part, shape in zip(_split(joined, counts), self._shapes, strict=True)
        ]

    def total(self, joined):
        """Returns the sum of each variable, shape (variables,), of a tensor like that of `join`."""
        if not self._is_rows:
            return ops.reshape(ops.sum(joined), (1,))
        counts = [groups.count(shape, self._axis) for shape in self._shapes]
        owners = np.repeat(np.arange(len(counts)), counts)
        return ops.segment_sum(ops.sum(joined, axis=1), owners, len(counts))

    def spread(self, values):
        """Returns a value of each variable, shape (variables,), in a shape that fits `join`."""
        if not self._is_rows:
            return values[0]
        counts = [groups.count(shape, self._axis) for shape in self._shapes]
        return ops.expand_dims(ops.take(values, np.repeat(np.arange(len(counts)), counts)), 1)

    def join_levels(self, levels):
        """Returns the levels of the joined tensor from those of each variable."""
        levels = [ops.copy(x) for x in levels]
        if not self._is_rows:
            return levels[0]
        return _concatenate([ops.reshape(x, (-1, x.shape[-1])) for x in levels])

    def split_levels(self, joined):
        """Returns what `join_levels` was given."""
        if not self._is_rows:
            return [joined]
        counts = [groups.count(shape, self._axis) for shape in self._shapes]
        parts = _split(joined, counts)
        return [p[0] for p in parts] if self._axis is None else parts


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
    return (*_made_from(variable, quantizer), length)


def _kind(variable, quantizer):
    """What bundles must share to be computed by one function of a graph; None for never."""
    is_ours = programs.is_ours(quantizer)
    if not is_ours or quantizer.needs_shape or not _is_joinable(variable, quantizer):
        return None
    return _made_from(variable, quantizer, but="axis")  # of rows it is 0


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


def _concatenate(tensors):
    return tensors[0] if len(tensors) == 1 else groups.namespace(tensors[0]).concatenate(tensors)


def _split(tensor, sizes):
    return [tensor] if len(sizes) == 1 else graphs.split(tensor, sizes)
