"""Three levels, one of them 0."""

import math
from typing import Literal

from keras import ops

from tf_proxquant import checks
from tf_proxquant.quantizers.base import Quantizer, constant, register
from tf_proxquant.quantizers.cuts import are_long, best_cuts, unless_proved
from tf_proxquant.quantizers.groups import itself, row_mean, row_sum
from tf_proxquant.quantizers.integers import integer_multiples
from tf_proxquant.quantizers.prefix import finite_rows, prefix_sums
from tf_proxquant.typing import Axis, Tensor


@register
class Ternary(Quantizer):
    """Three levels, {-n, 0, +p}, or {-a, 0, +a} with `symmetric=True`.

    With `optimal=False`, the paper's rule: delta = threshold * mean |w|, p the mean of the
    w >= delta, -n the mean of the w <= -delta (0 where there are none). With `symmetric=True`,
    a is the mean of the |w| >= delta. `relative_to="max"` is the rule of trained ternary
    quantization instead: delta = threshold * max |w|, usually with threshold=0.05.

    With `optimal=True`, the levels of least squared error, exactly. A side that rounds its k
    largest sizes x_1 >= x_2 >= ... to their mean, and the rest to 0, lowers the squared error by
        (x_1 + ... + x_k)^2 / k
    and the best k is read off one sort and its prefix sums, O(n log n). Up to 16 groups of 2,048
    weights and more, and any of 131,072, are counted, O(n), with a proof that the error is within a
    millionth of the least one and 4e-7 of the sum of squares (`quantizers/cuts.py`), and sorted
    where that fails. The two sides do not interact; with `symmetric=True` they are one.

    Args:
      threshold: finite number >= 0, a multiple of the mean of |w|; at most 1 with
        `relative_to="max"`. Not used by `optimal=True`.
      symmetric: whether both sides share one level.
      optimal: True for the least-squares levels, False for the paper's rule.
      axis: axes that keep their own levels; see `Quantizer`.
      relative_to: "mean" or "max", the size of the |w| of each group that `threshold` multiplies.
      integer_ratios: whether n and p are whole multiples k * s, k <= 127, of one scale, so that
        one int8 tensor stores the weights exactly: each level is float32(s * k) bit for bit, in
        float32 and in float64, and rounded to the dtype in float16 and bfloat16. Moves n / p by
        at most 1 / 254. False takes the paper's n and p as they are, which a file stores only
        as float32 or in a slower form.

    Example:
      >>> import numpy as np
      >>> weights = np.array([-2.0, -0.25, 0.25, 2.0, 3.0])
      >>> np.array(Ternary(optimal=True).levels(weights)).tolist()
      [-2.0, 0.0, 2.5]

    Reference: Bai, Wang, Liberty, ICLR 2019, arXiv:1810.00861. The rule by the mean is that of
      Li et al., arXiv:1605.04711, the one by the maximum that of Zhu et al., arXiv:1612.01064.
      Deviation: calling the quantizer moves a weight to the nearest level, where the authors give
      0 to |w| < delta; the levels are the same. With a delta as small as that of the maximum,
      weights between delta and p / 2 count in p and become 0.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        symmetric: bool = False,
        optimal: bool = False,
        axis: Axis = None,
        *,
        relative_to: Literal["mean", "max"] = "mean",
        integer_ratios: bool = True,
    ):
        super().__init__(axis)
        self.relative_to = checks.check_choice("relative_to", relative_to, ("mean", "max"))
        is_number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not is_number or not 0 <= threshold < math.inf:
            raise ValueError(
                "`threshold` must be a finite number >= 0, a multiple of the mean of |w|. "
                f"Received: threshold={threshold!r}"
            )
        if relative_to == "max" and threshold > 1:
            raise ValueError(
                '`threshold` must be at most 1 with relative_to="max": no weight exceeds the '
                f"largest, and all would be 0. Received: threshold={threshold!r}. TTQ uses 0.05."
            )
        self.threshold = float(threshold)
        self.symmetric = checks.check_flag("symmetric", symmetric)
        self.optimal = checks.check_flag("optimal", optimal)
        self.integer_ratios = checks.check_flag("integer_ratios", integer_ratios)

    @property
    def sorts(self) -> bool:  # type: ignore[override]
        """See `Quantizer`."""
        return self.optimal and self.axis is not None

    @property
    def needs_shape(self) -> bool:  # type: ignore[override]
        """See `Quantizer`."""
        return self.optimal

    def fit(self, rows: Tensor) -> Tensor:
        if self.optimal:
            rows, factor = finite_rows(rows)
            sides = self._optimal_sides(rows)
        else:
            # Where a weight is not finite, neither is its cutoff: the zero level says so.
            factor = self._rule_cutoff(rows)
            sides = self._means(rows, factor, factor)
        if self.symmetric:
            sides = ops.repeat(sides, 2, axis=1)
        elif self.integer_ratios:
            sides = whole_sides(sides)
        zero = ops.where(ops.isfinite(factor), constant(0, rows), factor)
        return ops.concatenate([-sides[:, :1], zero, sides[:, 1:]], axis=1)

    def _means(self, rows, lower, upper):
        """The mean sizes beyond the cutoffs: of each side, or of both as one."""
        if self.symmetric:
            return masked_mean(rows, lambda w: ops.abs(w) >= lower, ops.abs)
        sides = (
            masked_mean(rows, lambda w: w <= -lower, ops.negative),
            masked_mean(rows, lambda w: w >= upper),
        )
        return ops.concatenate(sides, axis=1)

    def _rule_cutoff(self, rows):
        size = row_mean(rows, ops.abs)
        if self.relative_to == "max":
            # Not every backend's maximum of a NaN is NaN; the mean of one is.
            largest = ops.max(ops.abs(rows), axis=1, keepdims=True, initial=0)
            size = ops.where(ops.isfinite(size), largest, size)
        return constant(self.threshold, rows) * size

    def _optimal_sides(self, rows):
        def by_sort():
            return self._means(rows, *self._sorted_cutoffs(rows))

        if not are_long(rows):
            return by_sort()
        _, sides, proved = best_cuts(rows, by_sign=not self.symmetric)
        return unless_proved(proved, sides, by_sort)

    def _sorted_cutoffs(self, rows):
        if self.symmetric:
            descending = ops.flip(ops.sort(ops.abs(rows), axis=1), axis=1)
            return (best_head(descending),) * 2
        ascending = ops.sort(rows, axis=1)
        zero = constant(0, rows)
        lower = best_head(ops.maximum(-ascending, zero))
        return lower, best_head(ops.maximum(ops.flip(ascending, axis=1), zero))

    def get_config(self):
        return {
            "threshold": self.threshold,
            "symmetric": self.symmetric,
            "optimal": self.optimal,
            **super().get_config(),
            "relative_to": self.relative_to,
            "integer_ratios": self.integer_ratios,
        }


def whole_sides(sides):
    """`integer_multiples` of pairs (groups, 2) in either order."""
    smaller, larger = ops.split(sides, 2, axis=1)
    is_swapped = smaller > larger
    pairs = ops.where(is_swapped, ops.flip(sides, axis=1), sides)
    whole = integer_multiples(pairs)
    return ops.where(is_swapped, ops.flip(whole, axis=1), whole)


def masked_mean(rows, is_in, size=itself):
    """The mean `size` of the entries that are in, (groups, 1); 0 where none is.

    Args:
      rows: (groups, n).
      is_in, size: functions of entries, one value for each.
    """
    total = row_sum(rows, lambda w: ops.where(is_in(w), size(w), constant(0, w)))
    count = row_sum(rows, lambda w: ops.cast(is_in(w), w.dtype))
    return total / ops.maximum(count, constant(1, rows))


def best_head(descending):
    """The smallest of the k largest sizes, for the k with the largest (sum of them)^2 / k.

    Args:
      descending: (groups, n), sizes >= 0.

    Returns: (groups, 1). The smallest k wins a tie.
    """
    sums = prefix_sums(descending)[:, 1:]
    total = sums[:, -1:]
    share = sums / ops.where(total > 0, total, constant(1, total))
    counts = ops.cast(ops.arange(1, descending.shape[1] + 1), descending.dtype)
    best = ops.argmax(share * share / counts, axis=1)
    return ops.take_along_axis(descending, ops.expand_dims(best, 1), axis=1)
