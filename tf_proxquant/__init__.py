"""ProxQuant for Keras 3: train low-precision networks, export them to LiteRT."""

from tf_proxquant import models, optimizers, prox, quantizers, schedules, selection
from tf_proxquant.optimizers import ProxConnect, ProxQuant, snap
from tf_proxquant.quantizers import Binary, MultiBit, Ternary, Uniform
from tf_proxquant.selection import select_kernels

__version__ = "0.1.0"

__all__ = [
    "Binary",
    "MultiBit",
    "ProxConnect",
    "ProxQuant",
    "Ternary",
    "Uniform",
    "models",
    "optimizers",
    "prox",
    "quantizers",
    "schedules",
    "select_kernels",
    "selection",
    "snap",
]
