"""The smallest lossless archive of a .tflite file. Imports NumPy and zlib only."""

from tf_proxquant.litert.archive.pqz import SUFFIX, compress, expand

__all__ = ["SUFFIX", "compress", "expand"]
