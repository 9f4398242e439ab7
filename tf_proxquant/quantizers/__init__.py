"""Quantizers: which levels a weight tensor may take, and the nearest of them."""

from tf_proxquant.quantizers.base import Quantizer
from tf_proxquant.quantizers.binary import Binary
from tf_proxquant.quantizers.multibit import MultiBit
from tf_proxquant.quantizers.ternary import Ternary
from tf_proxquant.quantizers.uniform import Uniform

__all__ = ["Binary", "MultiBit", "Quantizer", "Ternary", "Uniform"]
