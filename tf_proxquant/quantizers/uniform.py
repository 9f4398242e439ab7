"""Equally spaced levels."""

import math

import numpy as np
from keras import ops

from tf_proxquant import checks
from tf_proxquant.quantizers.base import Quantizer, constant, register
from tf_proxquant.quantizers.groups import as_weights, at_least_float32, row_mean
from tf_proxquant.quantizers.integers import short_scale
from tf_proxquant.typing import Axis, Tensor, TensorLike

ROUNDS = 3


@register
class Uniform(Quantizer):
    """Equally spaced levels, whole multiples k * s of the scale of least squared error.

    The codes k are
        -2^(bits-1) + 1 .. 2^(bits-1) - 1         by default: 3 levels for 2 bits
        -2^(bits-1) .. 2^(bits-1) - 1             with `narrow_range=False`
        the odd -2^bits + 1 .. 2^bits - 1         with `mid_rise`: no level at 0, all 2^bits codes
    and each level is float32(s * k) bit for bit, in float32 and in float64, and rounded to the
    dtype in float16 and bfloat16.

    The squared error is a piecewise quadratic function of s, with a kink wherever a weight
    changes its code, and can have many local minima. It is evaluated at scales whose largest
    level lies between 0.9 mean |w| and max |w|, geometrically, then between the neighbours of the
    best; from there s and the codes alternate (the least-squares s for the codes, the nearest
    codes for s), which can only lower it. O(n) per scale, 25 scales up to 4 bits and 49 beyond.
    Not proven optimal; never worse than the scale that reaches max |w|.

    Args:
      bits: 2 to 8; 1 to 7 with `mid_rise`, so that codes fit one signed byte.
      axis: axes that keep their own levels; see `Quantizer`.
      narrow_range: whether to leave out the most negative code, which has no opposite and which
        not every kernel of a runtime computes rightly. None = True, but for `mid_rise`, whose
        range is symmetric already.
      mid_rise: whether the levels lie around 0 rather than at it.

    Example:
      >>> import numpy as np
      >>> np.array(Uniform(2, mid_rise=True).levels(np.array([-3.0, -1.0, 1.0, 3.0]))).tolist()
      [-3.0, -1.0, 1.0, 3.0]
    """

    def __init__(
        self,
        bits: int,
        axis: Axis = None,
        *,
        narrow_range: bool | None = None,
        mid_rise: bool = False,
    ):
        super().__init__(axis)
        self.mid_rise = checks.check_flag("mid_rise", mid_rise)
        if narrow_range is None:
            narrow_range = not mid_rise
        self.narrow_range = checks.check_flag("narrow_range", narrow_range)
        if narrow_range and mid_rise:
            raise ValueError(
                "`mid_rise` levels are symmetric already: set at most one of `narrow_range` and "
                "`mid_rise`. Received: narrow_range=True, mid_rise=True"
            )
        self.bits = checks.check_integer("bits", bits, *((1, 7) if mid_rise else (2, 8)))

    @property
    def codes(self) -> np.ndarray:
        """The codes k, ascending; levels = s * codes."""
        if self.mid_rise:
            return np.arange(1 - 2**self.bits, 2**self.bits, 2)
        half = 2 ** (self.bits - 1)
        return np.arange(-half + self.narrow_range, half)

    def levels(self, weights: TensorLike) -> Tensor:
        levels = super().levels(weights)
        # One product in the dtype of the weights, the same as in `nearest`.
        return self._scale(levels)[..., None] * constant(self.codes, levels)

    def nearest(self, weights: TensorLike, levels: TensorLike) -> Tensor:
        weights = as_weights(weights)
        scale = self.spread(
            weights, self._scale(ops.convert_to_tensor(levels, dtype=weights.dtype))
        )
        wide = at_least_float32(weights.dtype)
        divisor = ops.where(scale > 0, scale, constant(1, scale))
        codes = self._round(ops.cast(weights, wide) / ops.cast(divisor, wide))
        return ops.cast(codes, weights.dtype) * scale

    def fit(self, rows: Tensor) -> Tensor:
        sizes = ops.abs(rows)
        mean = row_mean(sizes)
        top = ops.max(sizes, axis=1, keepdims=True)
        usable = ops.logical_and(top > 0, mean > 0)
        top = ops.where(usable, top, constant(1, top))
        largest = top / constant(float(self.codes[-1]), rows)
        span = ops.log(ops.where(usable, 0.9 * mean / top, constant(0.5, top)))
        scale = self._search(rows, largest, span)
        for _ in range(ROUNDS):
            scale = self._refine(rows, scale)
        # The mean tells whether a weight is not finite; under XLA a maximum passes over NaN.
        # Products that are exact for codes up to 127 would leave the scale an error of 8e-6.
        exact = self.codes[-1] if self.codes[-1] < 2**6 else 1
        scale = ops.where(mean > 0, short_scale(scale, float(exact)), mean)
        return scale * constant(self.codes, rows)

    def _search(self, rows, largest, span):
        """The best scale of a row from largest to largest * e^span, then around the best.

        One loop for both, as each operation costs time to trace and to compile.
        """
        coarse, fine = (16, 9) if self.bits <= 4 else (32, 17)
        step = span / (coarse - 1)

        def compare(index, state):
            best, error, centre = state
            centre = ops.where(index <= coarse, best, centre)
            index = ops.cast(index, rows.dtype)
            around = centre + step * (2 * (index - coarse + 1) / fine - 1)
            exponent = ops.where(index < coarse, index * step, around)
            return (*self._better(rows, largest, exponent, (best, error)), centre)

        start = self._better(rows, largest, 0 * span, (0 * span, 0 * span + math.inf))
        if self.codes[0] != -self.codes[-1]:
            # The code that has no opposite can be the one that max |w| has.
            outer = ops.log(constant(float(-self.codes[-1] / self.codes[0]), rows)) + 0 * span
            start = self._better(rows, largest, outer, start)
        best, *_ = ops.fori_loop(1, coarse + fine, compare, (*start, start[0]))
        return largest * ops.exp(best)

    def _better(self, rows, largest, exponent, best):
        """The better of `best`, an exponent e and its error, and `exponent`."""
        error = self._error(rows, largest * ops.exp(exponent), largest)
        better = error < best[1]
        return ops.where(better, exponent, best[0]), ops.where(better, error, best[1])

    def _error(self, rows, scale, unit):
        distance = rows - scale * self._round(rows / scale)
        return row_mean(ops.square(distance / unit))

    def _refine(self, rows, scale):
        codes = self._round(rows / scale)
        norm = row_mean(codes * codes)
        fitted = row_mean(rows * codes) / ops.where(norm > 0, norm, constant(1, norm))
        return ops.where(norm > 0, fitted, scale)

    def _round(self, ratios):
        codes = 2 * ops.floor(ratios / 2) + 1 if self.mid_rise else ops.floor(ratios + 0.5)
        return ops.clip(codes, float(self.codes[0]), float(self.codes[-1]))

    def _scale(self, levels):
        return levels[..., int(np.flatnonzero(self.codes == 1)[0])]

    def get_config(self):
        return {
            "bits": self.bits,
            **super().get_config(),
            "narrow_range": self.narrow_range,
            "mid_rise": self.mid_rise,
        }
