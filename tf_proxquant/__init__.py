"""ProxQuant for Keras 3: train low-precision networks, export them to LiteRT."""

import importlib

from tf_proxquant import (
    callbacks,
    datasets,
    metrics,
    models,
    optimizers,
    plot,
    prox,
    quantizers,
    schedules,
    selection,
)
from tf_proxquant.optimizers import ProxConnect, ProxQuant, snap
from tf_proxquant.quantizers import Binary, MultiBit, Ternary, Uniform
from tf_proxquant.selection import select_kernels
from tf_proxquant.sensitivity import sensitivity

__version__ = "0.1.0"

# Loaded on first use: they need LiteRT, which training does not.
_FROM_LITERT = ("expand", "export", "inspect", "summary")


def __getattr__(name):
    if name != "litert" and name not in _FROM_LITERT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    litert = importlib.import_module("tf_proxquant.litert")
    return litert if name == "litert" else getattr(litert, name)


def __dir__():
    return [*globals(), *__all__]


__all__ = [
    "Binary",
    "MultiBit",
    "ProxConnect",
    "ProxQuant",
    "Ternary",
    "Uniform",
    "callbacks",
    "datasets",
    "expand",
    "export",
    "inspect",
    "litert",
    "metrics",
    "models",
    "optimizers",
    "plot",
    "prox",
    "quantizers",
    "schedules",
    "select_kernels",
    "selection",
    "sensitivity",
    "snap",
    "summary",
]
