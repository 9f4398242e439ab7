"""Low-bit .tflite files from Keras models: export, verification, inspection."""

from tf_proxquant.litert.archive.pqz import expand
from tf_proxquant.litert.check.runtime import Runner, predict
from tf_proxquant.litert.check.verify import VerificationError
from tf_proxquant.litert.exporting import export
from tf_proxquant.litert.inspecting import inspect
from tf_proxquant.litert.interface import Edge
from tf_proxquant.litert.report import ExportReport, TensorRow
from tf_proxquant.litert.summary import summary

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
    "summary",
]
