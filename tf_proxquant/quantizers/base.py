"""The interface of a quantizer, and the nearest level."""

import itertools
import math

import keras
from keras import backend, ops

from tf_proxquant.quantizers.groups import (
    as_weights,
    broadcast_shape,
    check_axis,
    check_finite,
    to_rows,
)
from tf_proxquant.typing import Axis, Tensor


class Quantizer:
    """Maps weights to the nearest of a few levels that are fitted to them.

    A subclass writes `fit`. Everything is a pure function of the weights, in `keras.ops`: the
    same object serves every layer, eagerly and in compiled graphs.

    Args:
      axis: None for one set of levels per tensor; an int or a tuple of ints for the axes that
        keep their own levels (-1 is the output channel of Dense and Conv2D kernels). Groups
        are in row-major order of the kept axes.

    Attributes:
      regularizer: "l1" or "l2", the penalty that ProxQuant uses by default.
      fixed_level: a > 0 where the levels are -a and +a whatever the weights, else None.
      sorts: whether `fit` sorts the weights, which XLA does slowly on a CPU.
    """

    regularizer = "l2"
    fixed_level = None
    sorts = False

    def __init__(self, axis: Axis = None):
        self.axis = check_axis(axis)

    def fit(self, rows: Tensor) -> Tensor:
        """Returns levels `(groups, L)`, ascending, for `rows` `(groups, n)`, float32 or float64.

        A row with a NaN or inf must get at least one level that is not finite.
        """
        raise NotImplementedError

    def levels(self, weights: Tensor) -> Tensor:
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
        rows = to_rows(weights, self.axis)
        check_finite(rows, self.axis)
        levels = self.fit(rows)
        usable = ops.all(ops.isfinite(levels), axis=1, keepdims=True)
        levels = ops.cast(ops.where(usable, levels, constant(math.nan, levels)), weights.dtype)
        return levels[0] if self.axis is None else levels

    def nearest(self, weights: Tensor, levels: Tensor) -> Tensor:
        """Moves each weight to the nearest level; a midpoint goes up.

        Args:
          weights: float tensor of any shape.
          levels: as `self.levels` returns them, of these weights or of earlier ones.

        Returns: tensor with the shape and dtype of `weights`, whose values are bit for bit those
          of `levels`; NaN where the weight, or a level of its group, is NaN.
        """
        weights = as_weights(weights)
        levels = ops.convert_to_tensor(levels, dtype=weights.dtype)
        columns = [self.spread(weights, levels[..., k]) for k in range(levels.shape[-1])]
        nearest = columns[0]
        for lower, upper in itertools.pairwise(columns):
            nearest = ops.where(weights >= midpoint(lower, upper), upper, nearest)
        return ops.where(ops.isnan(weights), weights, nearest)

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

    def __call__(self, weights: Tensor) -> Tensor:
        """Returns the nearest point of the fitted grid: `nearest(weights, levels(weights))`."""
        weights = as_weights(weights)
        return self.nearest(weights, self.levels(weights))

    def get_config(self):
        return {"axis": list(self.axis) if isinstance(self.axis, tuple) else self.axis}

    @classmethod
    def from_config(cls, config):
        try:
            return cls(**config)
        except TypeError as error:
            raise ValueError(
                f"{cls.__name__} was saved by another version: {error}. Load it with the version "
                f"of tf_proxquant that wrote it. Received: config={config!r}."
            ) from error

    def __repr__(self):
        config = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({config})"


def midpoint(lower, upper):
    """The smallest weight that goes to `upper` rather than `lower`.

    Between two adjacent floats the rounded mean can be the lower one, which must stay a fixed
    point; the upper one is then the threshold. Halving first cannot overflow.
    """
    mean = lower * 0.5 + upper * 0.5
    return ops.where(mean > lower, mean, upper)


def register(quantizer_class):
    """Registers a quantizer for saving, as `tf_proxquant>Name`."""
    return keras.saving.register_keras_serializable("tf_proxquant")(quantizer_class)


def check_flag(name, value):
    """Raises ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return value


def check_int(name, value, low, high):
    """Raises ValueError unless `value` is an int from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(
            f"`{name}` must be an integer from {low} to {high}. Received: {name}={value!r}"
        )
    return value


def constant(value, like):
    """Python number(s) as a tensor in the dtype of `like`, without a detour over float32."""
    return ops.convert_to_tensor(value, dtype=backend.standardize_dtype(like.dtype))
