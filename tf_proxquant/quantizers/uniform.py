"""Equally spaced levels."""

import numpy as np
from keras import ops

from tf_proxquant.quantizers.base import Quantizer, check_int, constant, register


@register
class Uniform(Quantizer):
    """Equally spaced levels, s * k for integers -2^(bits-1) <= k < 2^(bits-1).

    Args:
      bits: 2 to 8.
      axis: axes that keep their own levels; see `Quantizer`.
    """

    def __init__(self, bits, axis=None):
        super().__init__(axis)
        self.bits = check_int("bits", bits, 2, 8)

    @property
    def codes(self):
        return np.arange(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1))

    def fit(self, rows):
        top = constant(2 ** (self.bits - 1) - 1, rows)
        scale = ops.max(ops.abs(rows), axis=1, keepdims=True) / top
        return scale * constant(self.codes[None], rows)

    def get_config(self):
        return {"bits": self.bits, **super().get_config()}
