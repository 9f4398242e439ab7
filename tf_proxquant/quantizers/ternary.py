"""Three levels, one of them 0."""

from keras import ops

from tf_proxquant.quantizers.base import Quantizer, check_flag, constant, register
from tf_proxquant.quantizers.binary import row_mean


@register
class Ternary(Quantizer):
    """Three levels, {-n, 0, +p}, or {-a, 0, +a} with `symmetric=True`.

    Args:
      threshold: number >= 0.
      symmetric: whether both sides share one level.
      optimal: True for the exact least-squares levels, False for the paper's rule.
      axis: axes that keep their own levels; see `Quantizer`.
    """

    def __init__(self, threshold=0.7, symmetric=False, optimal=False, axis=None):
        super().__init__(axis)
        is_number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not is_number or not 0 <= threshold < float("inf"):
            raise ValueError(
                "`threshold` must be a finite number >= 0, a multiple of the mean of |w|. "
                f"Received: threshold={threshold!r}"
            )
        self.threshold = float(threshold)
        self.symmetric = check_flag("symmetric", symmetric)
        self.optimal = check_flag("optimal", optimal)

    def fit(self, rows):
        sizes = ops.abs(rows)
        delta = constant(self.threshold, rows) * row_mean(sizes)
        if self.symmetric:
            upper = masked_mean(sizes, sizes >= delta)
            lower = upper
        else:
            upper = masked_mean(rows, rows >= delta)
            lower = masked_mean(-rows, rows <= -delta)
        zero = ops.where(ops.isfinite(delta), constant(0, rows), delta)
        return ops.concatenate([-lower, zero, upper], axis=1)

    def get_config(self):
        return {
            "threshold": self.threshold,
            "symmetric": self.symmetric,
            "optimal": self.optimal,
            **super().get_config(),
        }


def masked_mean(rows, mask):
    """Mean of the masked entries of each row, shape (groups, 1); 0 where there are none."""
    total = ops.sum(ops.where(mask, rows, constant(0, rows)), axis=1)
    count = ops.sum(ops.cast(mask, rows.dtype), axis=1)
    return ops.expand_dims(total / ops.maximum(count, constant(1, rows)), axis=1)
