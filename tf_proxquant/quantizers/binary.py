"""Two opposite levels."""

import math
from typing import Literal

from keras import ops

from tf_proxquant.quantizers.base import Quantizer, constant, register
from tf_proxquant.quantizers.groups import row_mean
from tf_proxquant.quantizers.prefix import finite_rows
from tf_proxquant.typing import Axis, Tensor


@register
class Binary(Quantizer):
    """Two levels, {-a, +a}; 0 goes up, to +a.

    With `scale=None`, a = 1, the levels of the paper. With `scale="mean"`, a = mean |w| per
    group: the exact least-squares fit, since for fixed signs
        sum_i (w_i - a sign(w_i))^2 = sum_i (|w_i| - a)^2
    is smallest at the mean of |w_i|, and the signs do not depend on a. With `scale="median"`, a
    is the median of |w|, which minimises sum_i | |w_i| - a |: the level that the l1 penalty asks
    for, in the limit of a small `tau` (for any `tau` it is the Huber location of |w|).

    Args:
      scale: None for 1, "mean", "median", or a positive number a.
      axis: axes that keep their own levels; see `Quantizer`.

    Example:
      >>> import numpy as np
      >>> np.array(Binary("mean")(np.array([-3.0, 0.0, 1.0, 4.0]))).tolist()
      [-2.0, 2.0, 2.0, 2.0]

    Reference: Bai, Wang, Liberty, ICLR 2019, arXiv:1810.00861. Deviation: the authors' sign
      leaves a weight that is exactly 0 at 0 for ever; here it counts as +1.
    """

    regularizer = "l1"

    def __init__(self, scale: float | Literal["mean", "median"] | None = None, axis: Axis = None):
        super().__init__(axis)
        if not _is_scale(scale):
            raise ValueError(
                "`scale` must be None (levels -1 and +1), 'mean' or 'median' (of |w|), or a "
                f"positive finite number. Received: scale={scale!r}"
            )
        self.scale = scale

    @property
    def fixed_level(self) -> float | None:  # type: ignore[override]
        """See `Quantizer`."""
        if self.scale is None:
            return 1.0
        return None if isinstance(self.scale, str) else float(self.scale)

    @property
    def sorts(self) -> bool:  # type: ignore[override]
        """See `Quantizer`."""
        return self.scale == "median"

    @property
    def needs_shape(self) -> bool:  # type: ignore[override]
        """See `Quantizer`."""
        return self.sorts

    def fit(self, rows: Tensor) -> Tensor:
        if self.scale == "mean":
            scale = row_mean(ops.abs(rows))
        elif self.scale == "median":
            rows, factor = finite_rows(rows)
            scale = factor * ops.median(ops.abs(rows), axis=1, keepdims=True)
        else:
            scale = constant(self.fixed_level, rows) * ops.ones_like(rows[:, :1])
        return ops.concatenate([-scale, scale], axis=1)

    def get_config(self):
        return {"scale": self.scale, **super().get_config()}


def _is_scale(value):
    if value is None or isinstance(value, str):
        return value in (None, "mean", "median")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf
