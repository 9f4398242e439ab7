"""ProxQuant for Keras 3: train low-precision networks, export them to LiteRT."""

import importlib

from tf_proxquant.quiet import quiet_in_a_command

_missing = None
try:
    with quiet_in_a_command():
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
        from tf_proxquant.optimizers import ProxConnect, ProxQuant
        from tf_proxquant.quantizers import Binary, MultiBit, Ternary, Uniform
        from tf_proxquant.selection import select_kernels
        from tf_proxquant.sensitivity import sensitivity
        from tf_proxquant.snapping import snap
except ImportError as error:
    # Where Keras is not installed, as on a device, archives expand all the same.
    _missing = error

__version__ = "0.1.0"

# Loaded on first use: they need LiteRT, which training does not, or nothing at all.
_LAZY = {
    "expand": "tf_proxquant.litert.archive",
    "export": "tf_proxquant.litert",
    "inspect": "tf_proxquant.litert",
    "summary": "tf_proxquant.litert",
}


def __getattr__(name):
    if name == "litert":
        return importlib.import_module("tf_proxquant.litert")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if _missing is not None and name in __all__:
        raise ImportError(
            f"`tf_proxquant.{name}` needs Keras and its backend: {_missing}. Without them there is "
            "`expand`."
        ) from _missing
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
