"""Runs .tflite files with the stock LiteRT interpreter."""

import os
import pathlib
import re
from typing import Any

import numpy as np

from tf_proxquant.typing import PathLike, Tensor

# The two sets of kernels that a stock runtime has on a CPU.
KERNELS = ("xnnpack", "builtin")


def make_interpreter(content, kernels="xnnpack", num_threads=1):
    """An interpreter for the bytes of a file.

    Args:
      content: bytes of a .tflite file.
      kernels: "xnnpack", what LiteRT uses by default on a CPU, or "builtin", its own kernels.
      num_threads: threads of the kernels.

    Raises: ValueError: if the runtime cannot load the file.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    if kernels not in KERNELS:
        raise ValueError(f"kernels must be one of {KERNELS}. Received: {kernels!r}")
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    if kernels == "xnnpack":
        resolver = OpResolverType.AUTO
    return Interpreter(
        model_content=content, experimental_op_resolver_type=resolver, num_threads=num_threads
    )


def natural_order(names):
    """Names sorted with their numbers as numbers: output_2 before output_10."""
    return sorted(names, key=lambda name: [int(s) if s.isdigit() else s for s in _split(name)])


def _split(name):
    return re.split(r"(\d+)", name)


class Runner:
    """A loaded file with its inputs and outputs by signature name, in natural order."""

    def __init__(self, content: bytes, kernels: str = "xnnpack", num_threads: int = 1):
        self.interpreter = make_interpreter(content, kernels, num_threads)
        self.inputs, self.outputs = _describe(self.interpreter)
        self._shapes = None
        self.input_names = natural_order(self.inputs)
        self.output_names = natural_order(self.outputs)

    def __call__(self, inputs: Any) -> Tensor:
        """Outputs, a dict by name, for `inputs`, a dict of arrays by name."""
        shapes = {name: value.shape for name, value in inputs.items()}
        if shapes != self._shapes:
            for name, shape in shapes.items():
                self.interpreter.resize_tensor_input(self.inputs[name]["index"], shape)
            self.interpreter.allocate_tensors()
            self._shapes = shapes
        for name, value in inputs.items():
            self.interpreter.set_tensor(self.inputs[name]["index"], value)
        self.interpreter.invoke()
        return {
            name: self.interpreter.get_tensor(self.outputs[name]["index"])
            for name in self.output_names
        }


def _describe(interpreter):
    """Details of inputs and outputs by signature name, or by tensor name without a signature."""
    if len(interpreter.get_signature_list()) == 1:
        # Not kept: the interpreter refuses to resize while a signature runner refers to it.
        signature = interpreter.get_signature_runner()
        return signature.get_input_details(), signature.get_output_details()
    details = interpreter.get_input_details(), interpreter.get_output_details()
    return tuple({d["name"] or str(i): d for i, d in enumerate(side)} for side in details)


def predict(
    path: PathLike | bytes,
    inputs: Any,
    batch_size: int = 128,
    *,
    kernels: str = "xnnpack",
    num_threads: int = 1,
) -> Any:
    """Runs a .tflite file over arrays, batch by batch, with the stock interpreter.

    A file with a fixed batch dimension is run at that batch, the last one padded by repetition.

    Args:
      path: of the .tflite file, or its bytes.
      inputs: array of samples, or a dict of arrays by signature name, or a list in the natural
        order of those names; first axis = samples.
      batch_size: samples per call, for files with a dynamic batch dimension.
      kernels: "xnnpack" or "builtin".
      num_threads: threads of the kernels.

    Returns: array (samples, ...), or a dict of arrays by output name if there are several.
    Raises: ValueError: if the file cannot be loaded or the inputs do not fit it.
    """
    content = path if isinstance(path, bytes) else pathlib.Path(os.fspath(path)).read_bytes()
    runner = Runner(content, kernels, num_threads)
    named = name_inputs(runner, inputs)
    num_samples = len(next(iter(named.values())))
    signatures = [d["shape_signature"] for d in runner.inputs.values()]
    fixed = {int(s[0]) for s in signatures if len(s) and s[0] != -1}
    step = fixed.pop() if fixed else batch_size
    parts = []
    for start in range(0, num_samples, step):
        batch = {k: v[start : start + step] for k, v in named.items()}
        size = len(next(iter(batch.values())))
        if size < step and not _is_dynamic(signatures):
            batch = {k: np.resize(v, (step, *v.shape[1:])) for k, v in batch.items()}
        parts.append({k: v[:size] for k, v in runner(batch).items()})
    joined = {k: np.concatenate([part[k] for part in parts]) for k in runner.output_names}
    return joined if len(joined) > 1 else joined[runner.output_names[0]]


def _is_dynamic(signatures):
    return all(len(s) and s[0] == -1 for s in signatures)


def name_inputs(runner, inputs):
    """`inputs` as a dict of arrays by signature name, in the file's dtypes.

    Raises: ValueError: naming what the file wants, if they do not fit.
    """
    names = runner.input_names
    if not isinstance(inputs, dict):
        values = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(values) != len(names):
            raise ValueError(f"The file has inputs {names}. Received: {len(values)} arrays")
        inputs = dict(zip(names, values, strict=True))
    if set(inputs) != set(names):
        raise ValueError(f"The file has inputs {names}. Received: {sorted(inputs)}")
    return {name: _fit(name, inputs[name], runner.inputs[name]) for name in names}


def _fit(name, value, details):
    value = np.asarray(value)
    signature = [int(n) for n in details["shape_signature"]]
    dims_fit = value.ndim == len(signature) and all(
        want in (-1, have) for want, have in zip(signature[1:], value.shape[1:], strict=True)
    )
    if not dims_fit:
        raise ValueError(
            f"Input {name!r} of the file has shape {signature} (-1: any). Received: {value.shape}"
        )
    return np.ascontiguousarray(value, details["dtype"])
