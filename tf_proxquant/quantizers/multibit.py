"""2^bits levels, the signed sums of `bits` scales."""

from keras import ops

from tf_proxquant import checks
from tf_proxquant.quantizers.alternating import (
    alternating_pair,
    alternating_scales,
    least_error,
    refine_scales,
    signed_sums,
)
from tf_proxquant.quantizers.base import Quantizer, constant, register
from tf_proxquant.quantizers.cuts import are_long, best_cuts, unless_proved
from tf_proxquant.quantizers.groups import row_max, row_mean
from tf_proxquant.quantizers.integers import integer_multiples
from tf_proxquant.quantizers.prefix import finite_rows, prefix_sums
from tf_proxquant.quantizers.search import searched_scales
from tf_proxquant.quantizers.ternary import masked_mean
from tf_proxquant.typing import Axis, Tensor


@register
class MultiBit(Quantizer):
    """The 2^bits signed sums of `bits` scales, {+-a_1 +-a_2 ... +-a_bits}.

    With `optimal=False`, the paper's fit: greedy (a_i is the mean size of what the scales before
    it leave over), then `rounds - 1` rounds of alternation (least-squares scales for the codes,
    then codes for the scales). With `optimal=True`:
        1 bit   mean |w|, exact
        2 bits  exact: 2-means on |w|, by one sort and prefix sums; up to 16 groups of 2,048
                weights and more, and any of 131,072, on |w| - min |w|, by counting, within a
                millionth of the least squared error and 4e-7 of the sum of squares, see
                `quantizers/cuts.py`
        3, 4    the best of 25 or 37 fixed starts and of moves from the best of them, each
                alternated on prefix sums; deterministic, not proven optimal, and never worse than
                `optimal=False`

    Args:
      bits: 1 to 4.
      rounds: int >= 1, number of fits of the scales; 1 is greedy.
      optimal: whether to look for the least squared error.
      axis: axes that keep their own levels; see `Quantizer`.
      integer_ratios: whether the levels are whole multiples k * s, |k| <= 127, of one scale, so
        that one int8 tensor stores the weights exactly: each level is float32(s * k) bit for
        bit, in float32 and in float64, and rounded to the dtype in float16 and bfloat16. With 3
        and 4 bits they are then signed sums only up to 1 / 254 of the largest level. False takes
        the paper's levels as they are, which a file stores only as float32 or in a slower form.

    Example:
      >>> import numpy as np
      >>> np.array(MultiBit(2, optimal=True).levels(np.array([-5.0, -3.0, 1.0, 1.0]))).tolist()
      [-4.0, -1.0, 1.0, 4.0]

    Reference: Xu et al., ICLR 2018, arXiv:1802.00150; Bai, Wang, Liberty, ICLR 2019,
      arXiv:1810.00861. Deviations: the nearest level always, where the authors' codes are greedy;
      alternation with the authors' codes and with the nearest ones, whichever ends better; no
      epsilon in the denominators; zeros count as positive, where the authors break ties at random.
    """

    def __init__(
        self,
        bits: int,
        rounds: int = 3,
        optimal: bool = False,
        axis: Axis = None,
        *,
        integer_ratios: bool = True,
    ):
        super().__init__(axis)
        self.bits = checks.check_integer("bits", bits, 1, 4)
        self.rounds = checks.check_integer("rounds", rounds, 1, 1000)
        self.optimal = checks.check_flag("optimal", optimal)
        self.integer_ratios = checks.check_flag("integer_ratios", integer_ratios)

    @property
    def sorts(self) -> bool:  # type: ignore[override]
        """See `Quantizer`."""
        return self.optimal and (self.bits > 2 or (self.bits == 2 and self.axis is not None))

    @property
    def needs_shape(self) -> bool:  # type: ignore[override]
        """See `Quantizer`."""
        return self.optimal and self.bits > 1

    def fit(self, rows: Tensor) -> Tensor:
        rows, factor = finite_rows(rows) if self.optimal else (rows, constant(1, rows))
        sizes = ops.abs(rows)
        upper = self._upper(sizes)
        if self.integer_ratios:
            upper = integer_multiples(upper)
        upper = upper * factor
        return ops.concatenate([-ops.flip(upper, axis=1), upper], axis=1)

    def _upper(self, sizes):
        """The levels >= 0, ascending."""
        if self.bits == 1:
            return row_mean(sizes)
        if self.bits == 2:
            return two_means(sizes) if self.optimal else alternating_pair(sizes, self.rounds)
        scales = alternating_scales(sizes, self.bits, self.rounds)
        if self.optimal:
            searched = searched_scales(sizes, scales)
            for _ in range(2):
                searched = refine_scales(sizes, searched)
            scales = least_error(sizes, [searched, scales])
        return signed_sums(scales)[0]

    def get_config(self):
        return {
            "bits": self.bits,
            "rounds": self.rounds,
            "optimal": self.optimal,
            **super().get_config(),
            "integer_ratios": self.integer_ratios,
        }


def two_means(sizes):
    """The two levels >= 0 of least squared error: (groups, 2)."""
    if not are_long(sizes):
        return sorted_means(sizes)
    least = -row_max(-sizes)
    *levels, proved = best_cuts(sizes - least, lower="mean")
    found = least + ops.concatenate(levels, axis=1)
    return unless_proved(proved, found, lambda: sorted_means(sizes))


def sorted_means(sizes):
    """What `two_means` gives, by one sort.

    A split of the sorted sizes after the k smallest lowers the squared error about the mean by
    T_k^2 n / (k (n - k)), T_k the sum of the k smallest after subtracting the mean.
    """
    length = sizes.shape[1]
    if length == 1:
        return ops.concatenate([sizes, sizes], axis=1)
    ascending = ops.sort(sizes, axis=1)
    centred = ascending - row_mean(ascending)
    sums = prefix_sums(centred)[:, 1:-1]
    top = ops.max(ops.abs(sums), axis=1, keepdims=True)
    share = sums / ops.where(top > 0, top, constant(1, top))
    below = ops.cast(ops.arange(1, length), sizes.dtype) / length
    best = ops.argmax(share * share / (below * (1 - below)), axis=1)
    cutoff = ops.take_along_axis(ascending, ops.expand_dims(best + 1, 1), axis=1)
    upper = masked_mean(sizes, lambda w: w >= cutoff)
    lower = masked_mean(sizes, lambda w: w < cutoff)
    lower = ops.where(ascending[:, :1] < cutoff, lower, upper)
    return ops.concatenate([lower, upper], axis=1)
