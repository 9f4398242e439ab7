"""The grid that weights are held on after the freeze, and how far weights are from a grid."""

import warnings

import numpy as np
from keras import ops

from tf_proxquant.quantizers import groups, programs

# Relative distance from their levels from which weights are no longer those that were frozen, for
# layers such as SpectralNormalization scale them a little, and of a snap that changes what the
# network computes.
HELD, FAR = 0.05, 0.1
_PROGRAMS: dict = {}


def is_far(quantizer, weights, levels):
    """Which groups of `weights` are farther than HELD from their levels, relative to their norm.

    Args:
      quantizer: the quantizer of the weights.
      weights: float tensor.
      levels: levels of them, or of what they were, shape (L,) or (groups, L).

    Returns: bool tensor of shape () or (groups,). True where a weight is NaN.
    """
    axis = quantizer.axis
    rows = groups.to_rows(weights, axis)
    distances = groups.to_rows(weights - quantizer.nearest(weights, levels), axis)
    near = ops.sum(ops.square(distances), axis=1) <= HELD**2 * ops.sum(ops.square(rows), axis=1)
    far = ops.logical_not(near)
    return far[0] if axis is None else far


def choose(far, fitted, kept):
    """Returns the fitted levels of the groups that are far, and the kept ones of the others."""
    return ops.where(ops.expand_dims(far, -1), fitted, kept)


def levels_now(quantizer, weights, kept):
    """Returns the levels of weights with values: kept ones, of groups that are near them.

    Args:
      quantizer: the quantizer of the weights.
      weights: float tensor.
      kept: the levels that the weights were frozen on, or None.

    Raises: ValueError: for NaN or inf.
    """
    if kept is None:
        return quantizer.levels(weights)
    weights, kept = ops.convert_to_tensor(weights), ops.convert_to_tensor(kept)
    far = programs.run(_PROGRAMS, is_far, quantizer, weights, kept)
    if not bool(ops.any(far)):
        return kept
    return choose(far, quantizer.levels(weights), kept)


def read_levels(quantizer, weights, like):
    """Reads the levels off weights that are on a grid, whatever fitted it.

    Args:
      quantizer: the quantizer of the weights.
      weights: float tensor with values.
      like: levels of the shape to return.

    Returns: array: the different values of each group, the largest repeated; None if a group has
      more of them than levels.
    """
    num_levels = like.shape[-1]
    rows = ops.convert_to_numpy(groups.as_rows(weights, quantizer.axis))
    levels = []
    for row in rows:
        values = np.unique(row)
        if not 0 < len(values) <= num_levels:
            return None
        levels.append(np.pad(values, (0, num_levels - len(values)), mode="edge"))
    return levels[0] if quantizer.axis is None else np.stack(levels)


def relative_distance(pairs):
    """Returns ||a - b|| / ||a|| over a list of pairs of tensors (a, b), a float32 scalar."""

    def norm(tensors):
        return ops.sqrt(sum(ops.sum(ops.square(ops.cast(t, "float32"))) for t in tensors))

    return norm([a - b for a, b in pairs]) / ops.maximum(norm([a for a, _ in pairs]), 1e-30)


def warn_if_far(distance):
    """Warns if a snap moved the weights by more than FAR of their norm; returns whether it did."""
    if distance <= FAR:
        return False
    if np.isnan(distance):
        warnings.warn(
            "Weights were NaN or infinite when they were frozen, and stay so. Lower the learning "
            "rate, or look into the data: the callback `pq.callbacks.StopOnNonFinite()` ends "
            "training at the first such value and names its variables.",
            stacklevel=3,
        )
        return True
    warnings.warn(
        f"The snap moved the weights by {distance:.2f} of their norm: the network computes "
        f"something else now. Expected at most {FAR}. Bring the weights to the grid before it, by "
        'strength="auto" or a larger strength, lower the learning rate towards `freeze_step`, or '
        "take a quantizer with more levels.",
        stacklevel=3,
    )
    return True
