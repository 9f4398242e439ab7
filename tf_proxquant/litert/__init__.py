"""Low-bit .tflite files from Keras models: export, verification, inspection."""

import importlib

from tf_proxquant.litert.archive import expand

# Loaded on first use: they need LiteRT, and an archive needs NumPy only.
_HOMES = {
    "Edge": "interface",
    "ExportReport": "report",
    "Runner": "check.runtime",
    "TensorRow": "report",
    "VerificationError": "check.verify",
    "export": "exporting",
    "inspect": "inspecting",
    "predict": "check.runtime",
    "preview": "exporting",
    "summary": "summarizing",
}


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"tf_proxquant.litert.{_HOMES[name]}")
    return globals().setdefault(name, getattr(home, name))


def __dir__():
    return [*globals(), *__all__]


__all__ = [
    "Edge",
    "ExportReport",
    "Runner",
    "TensorRow",
    "VerificationError",
    "expand",
    "export",
    "inspect",
    "predict",
    "preview",
    "summary",
]
