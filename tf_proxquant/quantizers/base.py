"""The interface of a quantizer, and the nearest level."""

import inspect
import itertools
import math
from typing import Literal

import keras
from keras import backend, ops

from tf_proxquant.quantizers import programs
from tf_proxquant.quantizers.groups import (
    as_weights,
    broadcast_shape,
    check_axis,
    check_finite,
    to_rows,
)
from tf_proxquant.typing import Axis, Tensor, TensorLike

_PROGRAMS: dict = {}


class Quantizer:
    """Maps weights to the nearest of a few levels that are fitted to them.

    A subclass writes `fit`. Everything is a pure function of the weights, in `keras.ops`: the
    same object serves every layer, eagerly and in compiled graphs.

    Args:
      axis: None for one set of levels per tensor; an int or a tuple of ints for the axes that
        keep their own levels. Groups are in row-major order of the kept axes. Where a quantizer
        is applied to the variables of Keras layers (an optimizer, `pq.snap`, `pq.sensitivity`),
        -1 means the output channel of the layer, whichever axes that is in its kernel; see
        `selection.channel_axis`. Called on a tensor, every axis is meant literally.

    Attributes:
      regularizer: "l1" or "l2", the penalty that ProxQuant uses by default.
      fixed_level: a > 0 where the levels are -a and +a whatever the weights, else None.
      sorts: whether `fit` sorts the weights, which XLA does slowly on a CPU.
      needs_shape: whether `fit` must know the shape of the rows while a graph is traced.
    """

    regularizer: Literal["l1", "l2"] = "l2"
    fixed_level: float | None = None
    sorts: bool = False
    needs_shape: bool = False

    def __init__(self, axis: Axis = None):
        self.axis = check_axis(axis)

    def fit(self, rows: Tensor) -> Tensor:
        """Returns levels `(groups, L)` for `rows` `(groups, n)`, float32 or float64.

        A row with a NaN or inf must get at least one level that is not finite.
        """
        raise NotImplementedError

    def levels(self, weights: TensorLike) -> Tensor:
        """Fits the levels.

        Args:
          weights: float tensor of any shape. A NaN or inf spoils the levels of its own group
            only.

        Returns: ascending levels in the dtype of `weights`, shape `(L,)` for `axis=None`, else
          `(groups, L)`.
        Raises: ValueError: for integer or complex weights, an axis out of range and, eagerly, NaN
          or inf. In a graph, where values are not known, the levels of that group are NaN.
        """
        weights = as_weights(weights)
        check_finite(weights, self.axis)
        return programs.run(_PROGRAMS, _levels, self, weights)

    def nearest(self, weights: TensorLike, levels: TensorLike) -> Tensor:
        """Moves each weight to the nearest level; a midpoint goes up.

        Args:
          weights: float tensor of any shape.
          levels: as `self.levels` returns them, of these weights or of earlier ones.

        Returns: tensor with the shape and dtype of `weights`, whose values are bit for bit those
          of `levels`; NaN where the weight, or a level of its group, is NaN.
        """
        weights = as_weights(weights)
        levels = ops.convert_to_tensor(levels, dtype=weights.dtype)
        return programs.run(_PROGRAMS, _nearest, self, weights, levels)

    def spread(self, weights: Tensor, values: Tensor) -> Tensor:
        """Reshapes one value per group, as a column of `levels`, to broadcast against `weights`."""
        if self.axis is None:
            return values
        return ops.reshape(values, broadcast_shape(weights, self.axis))

    def spread_levels(self, weights: Tensor, levels: Tensor) -> Tensor:
        """Reshapes `levels` to (..., L), whose leading dimensions broadcast against `weights`."""
        if self.axis is None:
            return levels
        return ops.reshape(levels, (*broadcast_shape(weights, self.axis), levels.shape[-1]))

    def __call__(self, weights: TensorLike) -> Tensor:
        """Returns the nearest point of the fitted grid: `nearest(weights, levels(weights))`."""
        weights = as_weights(weights)
        return self.nearest(weights, self.levels(weights))

    def get_config(self):
        check_is_complete(self)
        return {"axis": list(self.axis) if isinstance(self.axis, tuple) else self.axis}

    @classmethod
    def from_config(cls, config):
        try:
            return cls(**config)
        except TypeError as error:
            raise ValueError(
                f"{cls.__name__} cannot be made from its config: {error}. Either its `get_config` "
                "does not return what `__init__` takes, or another version of tf_proxquant wrote "
                f"it: load it with that one. Received: config={config!r}."
            ) from error

    def __repr__(self):
        try:
            config = self.get_config()
        except ValueError:  # a class of the user's own that does not say what it is made from
            config = {name: value for name, value in vars(self).items() if name[0] != "_"}
        config = ", ".join(f"{name}={value!r}" for name, value in config.items())
        return f"{type(self).__name__}({config})"


def _levels(quantizer, weights):
    """`Quantizer.levels` of a tensor, unchecked."""
    rows = to_rows(weights, quantizer.axis)
    levels = quantizer.fit(rows)
    if not programs.is_ours(quantizer):
        levels = _in_order(quantizer, rows, levels)
    usable = ops.all(ops.isfinite(levels), axis=1, keepdims=True)
    levels = ops.cast(ops.where(usable, levels, constant(math.nan, levels)), weights.dtype)
    return levels[0] if quantizer.axis is None else levels


def _in_order(quantizer, rows, levels):
    """What the `fit` of a user's class gave, ascending, if it has the shape that it must have."""
    shape = getattr(levels, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] not in (None, rows.shape[0]):
        found = type(levels).__name__ if shape is None else f"levels of shape {tuple(shape)}"
        raise ValueError(
            f"{type(quantizer).__name__}.fit must return levels of shape (groups, L) for rows of "
            f"shape (groups, n). Received: {found} for rows of shape {tuple(rows.shape)}."
        )
    return ops.sort(levels, axis=1)


def _nearest(quantizer, weights, levels):
    """`Quantizer.nearest` of tensors."""
    columns = [quantizer.spread(weights, levels[..., k]) for k in range(levels.shape[-1])]
    nearest = columns[0]
    for lower, upper in itertools.pairwise(columns):
        nearest = ops.where(weights >= midpoint(lower, upper), upper, nearest)
    return ops.where(ops.isnan(weights), weights, nearest)


def check_is_complete(quantizer):
    """Raises ValueError if a class takes other arguments than its inherited `get_config` writes.

    Such an object trains, but rebuilt from its config it would have other values.
    """
    made_by, described_by = (
        next(c for c in type(quantizer).__mro__ if name in vars(c))
        for name in ("__init__", "get_config")
    )
    if issubclass(described_by, made_by):
        return
    parameters = inspect.signature(vars(made_by)["__init__"]).parameters.values()
    taken = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    takes_more = any(p.kind == p.VAR_KEYWORD for p in parameters)
    written = set(inspect.signature(described_by.__init__).parameters)
    if taken - written or (written - taken and not takes_more):
        raise ValueError(
            f"{made_by.__name__} cannot be saved: it takes {sorted(taken - {'self'})}, and the "
            f"`get_config` of {described_by.__name__}, which it inherits, writes "
            f"{sorted(written - {'self'})}. Give it a `get_config` that returns a dict of its "
            "arguments. Training and exporting need none."
        )


def midpoint(lower, upper):
    """The smallest weight that goes to `upper` rather than `lower`.

    Between two adjacent floats the rounded mean can be the lower one, which must stay a fixed
    point; the upper one is then the threshold. Halving first cannot overflow.
    """
    mean = upper * 0.5 - lower * -0.5  # of lower / 2 + upper / 2 XLA makes half of a sum
    return ops.where(mean > lower, mean, upper)


def register(quantizer_class):
    """Registers a quantizer for saving, as `tf_proxquant>Name`."""
    return keras.saving.register_keras_serializable("tf_proxquant")(quantizer_class)


def constant(value, like):
    """Python number(s) as a tensor in the dtype of `like`, without a detour over float32."""
    return ops.convert_to_tensor(value, dtype=backend.standardize_dtype(like.dtype))
