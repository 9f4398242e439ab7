"""Selection: which variables are quantized, with which quantizer, along which axes.

`select` takes one of six forms, the same for every optimizer of the package and for `pq.snap`:

    None                       every trainable kernel and embedding table
    "regex" or ["regex", ...]  `re.search` on `variable.path`
    callable                   callable(variable) -> bool
    select_kernels(model, ...) these variables of that model, whatever their names
    {"regex": quantizer}       mixed precision; None keeps full precision
    {select_kernels(...): quantizer}
"""

from tf_proxquant.selection.axes import channel_axis
from tf_proxquant.selection.kernels import KernelSelection, is_kernel, path, select_kernels
from tf_proxquant.selection.resolving import resolve, validate

__all__ = [
    "KernelSelection",
    "channel_axis",
    "is_kernel",
    "path",
    "resolve",
    "select_kernels",
    "validate",
]
