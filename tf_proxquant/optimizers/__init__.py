"""Optimizers that wrap another one and pull its weights to a grid."""

from tf_proxquant.optimizers.base import QuantizingOptimizer
from tf_proxquant.optimizers.compiled import built_optimizer, find_optimizer, is_quantizing, snap
from tf_proxquant.optimizers.prox_connect import ProxConnect
from tf_proxquant.optimizers.prox_quant import ProxQuant
from tf_proxquant.optimizers.restarted_adam import RestartedAdam

__all__ = [
    "ProxConnect",
    "ProxQuant",
    "QuantizingOptimizer",
    "RestartedAdam",
    "built_optimizer",
    "find_optimizer",
    "is_quantizing",
    "snap",
]
