"""Proximal operators: what pulls weights towards their levels.

Pure functions of tensors. `tau` is the learning rate times the strength.
"""

import math

from keras import backend, ops

from tf_proxquant.typing import Tensor, TensorLike


def prox_l1(weights: TensorLike, quantized: TensorLike, tau: TensorLike) -> Tensor:
    """Moves each weight towards its quantized value by at most `tau`.

    Solves  argmin_y  1/2 (y - w)^2 + tau |y - q|,  entry by entry, so
        y = q                      where |w - q| <= tau
        y = w - tau sign(w - q)    elsewhere
    computed as q clipped to [w - tau, w + tau]. With `q` the nearest level this is also the prox
    of tau min_k |y - level_k|.

    Args:
      weights: `w`, float tensor of any shape.
      quantized: `q`, shape and dtype of `weights`, held fixed.
      tau: >= 0, learning rate times strength, in the unit of the weights; a scalar, or a tensor
        that broadcasts against `weights`. 0 returns `weights` bit for bit; tau >= max |w - q|
        returns `quantized` bit for bit.

    Returns: tensor with the shape and dtype of `weights`.
    Raises: ValueError: if the static shapes differ, or `tau` is a negative Python number.

    Example:
      >>> import numpy as np
      >>> np.array(prox_l1(np.array([-1.5, 0.0, 0.75]), np.array([-1.0, 1.0, 1.0]), 0.25)).tolist()
      [-1.25, 0.25, 1.0]

    Reference: Bai, Wang, Liberty, ICLR 2019, arXiv:1810.00861, section 3. Deviation: the
      authors multiply by sign(w), which leaves 0 at 0 and rounds small weights.
    """
    weights, quantized = _same_shape(weights, quantized)
    tau = _scalar("tau", tau, weights.dtype)
    moved = ops.minimum(ops.maximum(quantized, weights - tau), weights + tau)
    return ops.where(tau > 0, moved, weights)


def prox_l1_box(weights: TensorLike, scale: float, tau: TensorLike) -> Tensor:
    """`prox_l1` towards the nearer of -scale and +scale, then the clip to [-scale, scale].

    Solves  argmin over |y| <= scale of  1/2 (y - w)^2 + tau min(|y - scale|, |y + scale|),
    bit for bit what `prox_l1` followed by the clip gives, in fewer passes over the weights:
        y = clip(w + tau, -scale, scale)    where w >= 0
        y = clip(w - tau, -scale, scale)    elsewhere

    Args:
      weights: `w`, float tensor of any shape.
      scale: positive scalar, the level.
      tau: scalar >= 0, as in `prox_l1`; 0 returns the clipped weights.

    Returns: tensor with the shape and dtype of `weights`.

    Example:
      >>> import numpy as np
      >>> np.array(prox_l1_box(np.array([-1.5, 0.0, 0.875]), 1.0, 0.25)).tolist()
      [-1.0, 0.25, 1.0]

    Reference: as `prox_l1`; the authors' binary prox and clip together.
    """
    weights = ops.convert_to_tensor(weights)
    tau = _scalar("tau", tau, weights.dtype)
    scale = _scalar("scale", scale, weights.dtype)
    # Subtracting +0, not adding it, keeps the sign of -0 where tau is 0.
    minus_tau = ops.where(tau > 0, -tau, tau)
    moved = weights - ops.where(weights >= 0, minus_tau, tau)
    return ops.minimum(ops.maximum(moved, -scale), scale)


def prox_l2(weights: TensorLike, quantized: TensorLike, tau: TensorLike) -> Tensor:
    """Moves each weight the fraction tau / (1 + tau) of the way to its quantized value.

    Solves  argmin_y  1/2 (y - w)^2 + tau/2 (y - q)^2,  entry by entry, so
        y = w + (q - w) tau / (1 + tau)
    With `q` the nearest point of a set of grid tensors this is also the prox of tau/2 times the
    squared distance to that set.

    Args:
      weights: `w`, float tensor of any shape.
      quantized: `q`, shape and dtype of `weights`, held fixed.
      tau: scalar >= 0, learning rate times strength, no unit. 0 returns `weights` bit for bit.

    Returns: tensor with the shape and dtype of `weights`; where w = q it is q bit for bit.
    Raises: ValueError: if the static shapes differ, or `tau` is a negative Python number.

    Example:
      >>> import numpy as np
      >>> np.array(prox_l2(np.array([-1.5, 0.0, 0.75]), np.array([-1.0, 1.0, 1.0]), 1.0)).tolist()
      [-1.25, 0.5, 0.875]

    Reference: Bai, Wang, Liberty, ICLR 2019, arXiv:1810.00861, section 3. Deviation: the
      authors' (w + tau q) / (1 + tau) does not leave w = q alone.
    """
    weights, quantized = _same_shape(weights, quantized)
    tau = _scalar("tau", tau, _at_least_float32(weights.dtype))
    fraction = ops.cast(tau / (1 + tau), weights.dtype)
    return ops.where(tau > 0, weights + (quantized - weights) * fraction, weights)


def relax(weights: TensorLike, quantized: TensorLike, theta: TensorLike) -> Tensor:
    """Moves each weight the share `theta` of the way to its quantized value (BinaryRelax).

    Solves  argmin_y  (1 - theta)/2 (y - w)^2 + theta/2 (y - q)^2,  entry by entry, so
        y = (1 - theta) w + theta q
    It is `prox_l2` with tau = theta / (1 - theta), and reaches q at theta = 1.

    Args:
      weights: `w`, float tensor of any shape.
      quantized: `q`, shape and dtype of `weights`, held fixed.
      theta: scalar in [0, 1]. 0 returns `weights` bit for bit, 1 `quantized`; a tensor above 1
        counts as 1.

    Returns: tensor with the shape and dtype of `weights`; where w = q it is q bit for bit.
    Raises: ValueError: if the static shapes differ, or `theta` is a Python number outside [0, 1].

    Example:
      >>> import numpy as np
      >>> np.array(relax(np.array([-1.5, 0.0, 0.75]), np.array([-1.0, 1.0, 1.0]), 0.5)).tolist()
      [-1.25, 0.5, 0.875]

    Reference: Yin, Zhang, Lyu, Osher, Qi, Xin, SIAM J. Imaging Sci. 11(4), 2018 (BinaryRelax).
      Deviation: they write lambda = theta / (1 - theta), which never arrives.
    """
    weights, quantized = _same_shape(weights, quantized)
    theta = _scalar("theta", theta, weights.dtype, maximum=1)
    relaxed = weights + (quantized - weights) * theta
    return ops.where(theta >= 1, quantized, ops.where(theta > 0, relaxed, weights))


def prox_piecewise_affine(
    weights: TensorLike, levels: TensorLike, inverse_slope: TensorLike
) -> Tensor:
    """Steepens the identity into a staircase between the levels (PARQ).

    Between neighbouring levels a < b with midpoint m,
        y = clip(m + (w - m) / inverse_slope, a, b)
    and the outermost level outside them: flat steps at the levels, joined by lines of slope
    1 / inverse_slope through the midpoints.

    Args:
      weights: `w`, float tensor of any shape.
      levels: ascending along the last axis, shape (L,), or (..., L) with leading dimensions that
        broadcast against `weights`; L >= 2.
      inverse_slope: scalar in [0, 1]. 1 returns `weights` bit for bit, outside the levels too; 0
        returns the nearest level, a midpoint going up.

    Returns: tensor with the shape and dtype of `weights`.
    Raises: ValueError: for fewer than two levels or a Python number outside [0, 1].

    Example:
      >>> import numpy as np
      >>> weights, levels = np.array([-2.0, -0.25, 0.9]), np.array([-1.0, 1.0])
      >>> np.array(prox_piecewise_affine(weights, levels, 0.5)).tolist()
      [-1.0, -0.5, 1.0]

    Reference: Jin, Ma, Liu, Gromov, Defazio, Xiao, arXiv:2503.15748 (PARQ).
    """
    weights = ops.convert_to_tensor(weights)
    levels = ops.convert_to_tensor(levels, dtype=weights.dtype)
    if levels.shape[-1] < 2:
        raise ValueError(f"Needs two levels or more. Received: levels of shape {levels.shape}")
    inverse_slope = _scalar("inverse_slope", inverse_slope, weights.dtype, maximum=1)
    lower, upper = levels[..., 0], levels[..., 1]
    for k in range(2, levels.shape[-1]):
        above = weights >= levels[..., k - 1]
        lower = ops.where(above, levels[..., k - 1], lower)
        upper = ops.where(above, levels[..., k], upper)
    middle = lower * 0.5 + upper * 0.5
    run = ops.where(inverse_slope > 0, inverse_slope, ops.ones_like(inverse_slope))
    steep = ops.minimum(ops.maximum(middle + (weights - middle) / run, lower), upper)
    hard = ops.where(weights >= middle, upper, lower)
    hard = ops.where(ops.isnan(weights), weights, hard)
    return ops.where(inverse_slope > 0, ops.where(inverse_slope < 1, steep, weights), hard)


def prox_concave(weights: TensorLike, levels: TensorLike, tau: TensorLike) -> Tensor:
    """Moves each weight away from the midpoint of its cell, in proportion to its distance.

    With a < b the levels around w, m their midpoint and c the nearer outermost level, it solves
    argmin_y  1/2 (y - w)^2 + tau R(y)  for

        R(y) = 1/2 ((b - a)^2 / 4 - (y - m)^2)    between the outermost levels
        R(y) = 1/2 (y - c)^2                      outside them

    which is 0 exactly at the levels, so that
        y = clip(m + (w - m) / (1 - tau), a, b)   between, for tau < 1; the nearest level from 1 on
        y = c + (w - c) / (1 + tau)               outside
    Weights near a midpoint are hardly pulled and can still cross it, unlike with `prox_l1`. A
    weight whose distance from the midpoint is d of (b - a)/2 reaches its level, without any
    gradient, after a total pull (sum of tau) of about log(1 / d).

    Args:
      weights: `w`, float tensor of any shape.
      levels: as in `prox_piecewise_affine`.
      tau: scalar >= 0, learning rate times strength, no unit. 0 returns `weights` bit for bit.

    Returns: tensor with the shape and dtype of `weights`.
    Raises: ValueError: for fewer than two levels, or a negative Python number.

    Example:
      >>> import numpy as np
      >>> weights, levels = np.array([-2.5, -0.25, 0.9]), np.array([-1.0, 1.0])
      >>> np.array(prox_concave(weights, levels, 0.5)).tolist()
      [-2.0, -0.5, 1.0]
    """
    weights = ops.convert_to_tensor(weights)
    levels = ops.convert_to_tensor(levels, dtype=weights.dtype)
    tau = _scalar("tau", tau, weights.dtype)
    between = prox_piecewise_affine(weights, levels, ops.maximum(1 - tau, 0))
    lowest, highest = levels[..., 0], levels[..., -1]
    outermost = ops.where(weights > highest, highest, lowest)
    outside = outermost + (weights - outermost) / (1 + tau)
    is_outside = ops.logical_or(weights > highest, weights < lowest)
    moved = ops.where(is_outside, outside, between)
    return ops.where(tau > 0, moved, weights)


def _same_shape(weights, quantized):
    weights = ops.convert_to_tensor(weights)
    quantized = ops.convert_to_tensor(quantized, dtype=backend.standardize_dtype(weights.dtype))
    if tuple(weights.shape) != tuple(quantized.shape):
        raise ValueError(
            "`weights` and `quantized` must have the same shape. "
            f"Received: {tuple(weights.shape)} and {tuple(quantized.shape)}"
        )
    return weights, quantized


def _at_least_float32(dtype):
    return "float64" if backend.standardize_dtype(dtype) == "float64" else "float32"


def _scalar(name, value, dtype, maximum=math.inf):
    if isinstance(value, (int, float)):
        if not 0 <= value <= maximum:
            raise ValueError(
                f"`{name}` must be a number from 0 to {maximum}. Received: {name}={value!r}"
            )
        return ops.convert_to_tensor(value, dtype=backend.standardize_dtype(dtype))
    return ops.cast(value, dtype)
