"""Runs .tflite files with the stock LiteRT interpreter."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import get_args

import numpy as np

from tf_proxquant.litert.read import refusals
from tf_proxquant.typing import Arrays, Kernels, PathLike

# The two sets of kernels that a stock runtime has on a CPU.
KERNELS = get_args(Kernels)
MAX_SAMPLES = 16
# Names that count; TensorFlow leaves their tensors in any order.
_BY_NUMBER = re.compile(r"(args|inputs?|outputs?)(_\d+)+")


def make_interpreter(content, kernels="xnnpack", num_threads=1, keeps_activations=False):
    """An interpreter for the bytes of a file.

    Args:
      content: bytes of a .tflite file.
      kernels: "xnnpack", what LiteRT uses by default on a CPU, or "builtin", its own kernels.
      num_threads: threads of the kernels.
      keeps_activations: whether every tensor can be read after a call, with builtin kernels.

    Raises: ValueError: if the runtime cannot load the file.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from tf_proxquant.litert.read.flatbuffer import DECODE

    if DECODE.encode() in content:
        raise ValueError(
            "tflite-micro alone reads weights in tables, and LiteRT does not. Received a file with "
            f"the operator {DECODE}: export it with weights='int8' to run it here."
        )
    if kernels not in KERNELS:
        raise ValueError(f"kernels must be one of {KERNELS}. Received: {kernels!r}")
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    if kernels == "xnnpack":
        resolver = OpResolverType.AUTO
    return Interpreter(
        model_content=content,
        experimental_op_resolver_type=resolver,
        experimental_preserve_all_tensors=keeps_activations,
        num_threads=num_threads,
    )


def natural_order(names):
    """Names sorted with their numbers as numbers: output_2 before output_10."""
    return sorted(names, key=lambda name: [int(s) if s.isdigit() else s for s in _split(name)])


def _split(name):
    return re.split(r"(\d+)", name)


class Runner:
    """A loaded file with its inputs and outputs by signature name.

    Attributes:
      inputs, outputs: dicts {name: details of the interpreter}, in the order of the graph, which
        in a file of this package is the model's. Names given by number, such as args_0_1 and
        output_10, come by number.
    """

    def __init__(
        self,
        content: bytes,
        kernels: Kernels = "xnnpack",
        num_threads: int = 1,
        keeps_activations: bool = False,
    ):
        self.interpreter = make_interpreter(content, kernels, num_threads, keeps_activations)
        self.inputs, self.outputs = _describe(self.interpreter)
        self._shapes: dict | None = None

    @property
    def input_names(self) -> list[str]:
        """In order."""
        return list(self.inputs)

    @property
    def output_names(self) -> list[str]:
        """In order."""
        return list(self.outputs)

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs, a dict by name, for `inputs`, a dict of arrays by name."""
        self.allocate(inputs)
        for name, value in inputs.items():
            self.interpreter.set_tensor(self.inputs[name]["index"], value)
        self.interpreter.invoke()
        return {
            name: self.interpreter.get_tensor(self.outputs[name]["index"])
            for name in self.output_names
        }

    def allocate(self, inputs: dict[str, np.ndarray]) -> None:
        """Prepares for inputs of these shapes. Raises: RuntimeError: if the file cannot be."""
        shapes = {name: value.shape for name, value in inputs.items()}
        if shapes != self._shapes:
            self._shapes = None
            for name, shape in shapes.items():
                self.interpreter.resize_tensor_input(self.inputs[name]["index"], shape)
            self.interpreter.allocate_tensors()
            self._shapes = shapes

    def activations(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, array) of the tensors among `indices` that the last call computed."""
        for index in indices:
            # What nobody reads has no memory.
            with contextlib.suppress(ValueError):
                value = self.interpreter.get_tensor(index)
                if value.size:
                    yield index, value


def _describe(interpreter):
    """Details of inputs and outputs by signature name, or by tensor name without a signature."""
    sides = interpreter.get_input_details(), interpreter.get_output_details()
    if len(interpreter.get_signature_list()) != 1:
        return tuple({d["name"] or str(i): d for i, d in enumerate(side)} for side in sides)
    # Not kept: the interpreter refuses to resize while a signature runner refers to it.
    signature = interpreter.get_signature_runner()
    named = signature.get_input_details(), signature.get_output_details()
    return tuple(_in_order(*pair) for pair in zip(named, sides, strict=True))


def _in_order(named, graph_order):
    if all(_BY_NUMBER.fullmatch(name) for name in named):
        return {name: named[name] for name in natural_order(named)}
    places = {details["index"]: place for place, details in enumerate(graph_order)}
    return dict(sorted(named.items(), key=lambda item: places[item[1]["index"]]))


def predict(
    path: PathLike | bytes,
    inputs: Arrays,
    batch_size: int = 128,
    *,
    kernels: Kernels = "xnnpack",
    num_threads: int = 1,
) -> np.ndarray | dict[str, np.ndarray]:
    """Runs a .tflite file over arrays, batch by batch, with the stock interpreter.

    A file with a fixed batch dimension is run at that batch, the last one padded by repetition.

    Args:
      path: of the .tflite file, or its bytes.
      inputs: array of samples, or a dict of arrays by signature name, or a list in the model's
        order; first axis = samples. Floats for an input of codes are rounded to them. The inputs of
        a file whose inputs differ in a fixed first dimension, or have none, are given as they are,
        for one call.
      batch_size: samples per call, for files with a dynamic batch dimension.
      kernels: "xnnpack" or "builtin".
      num_threads: threads of the kernels.

    Returns: array (samples, ...), or a dict of arrays by output name if there are several.
    Raises: ValueError: if the file cannot be loaded or the inputs do not fit it, such as word
      numbers beyond the rows of their table.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"`batch_size` must be an int >= 1. Received: batch_size={batch_size!r}.")
    content = path if isinstance(path, bytes) else pathlib.Path(os.fspath(path)).read_bytes()
    runner = Runner(content, kernels, num_threads)
    named = name_inputs(runner, inputs)
    with refusals.of_inputs("The file does not take these inputs"):
        outputs = run(runner, named, batch_size)
    return outputs if len(outputs) > 1 else outputs[runner.output_names[0]]


def run(runner, named, batch_size, call=None):
    """Outputs by name for `named`, a dict of arrays by signature name, call by call.

    With `call`, a function from such a dict to outputs by name, that computes instead, on what the
    file would be given.
    """
    parts = []
    for batch, size in batches(runner, named, batch_size):
        results = (call or runner)(batch)
        parts.append(results if size is None else {k: v[:size] for k, v in results.items()})
    if len(parts) == 1:
        return parts[0]
    parts = [{k: np.atleast_1d(v) for k, v in part.items()} for part in parts]
    return {k: np.concatenate([part[k] for part in parts]) for k in runner.output_names}


def batches(runner, named, batch_size):
    """Divides the inputs of a file into calls.

    Args:
      runner: `Runner`.
      named: dict of arrays by signature name.
      batch_size: samples per call, where the first dimension of every input is open. Where it is
        fixed, that is the size, and the last call is filled by repetition. Inputs that differ in
        it, or have none, are left as they are, for one call.

    Yields: (dict of arrays, number of samples that count; None for all).
    Raises: ValueError: if the inputs differ in their number of samples, or have none.
    """
    first = {tuple(d["shape_signature"][:1]) for d in runner.inputs.values()}
    if len(first) > 1 or () in first:
        yield named, None
        return
    counts = {name: len(value) for name, value in named.items()}
    count, fixed = next(iter(counts.values())), int(first.pop()[0])
    if set(counts.values()) != {count} or not count:
        raise ValueError(
            f"The inputs must have the same number of samples, and some. Received: {counts}"
        )
    step = batch_size if fixed == -1 else fixed
    for start in range(0, count, step):
        batch = {name: value[start : start + step] for name, value in named.items()}
        size = min(step, count - start)
        if size < fixed:
            batch = {name: np.resize(v, (fixed, *v.shape[1:])) for name, v in batch.items()}
        yield batch, size if size < fixed else None


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


def some_samples(runner, inputs):
    """Arrays by name of at most 16 of the samples in `inputs`, from all over them."""
    named = name_inputs(runner, inputs)
    counts = {len(value) if value.ndim else 0 for value in named.values()}
    count = counts.pop()
    if counts or count <= MAX_SAMPLES:
        return named
    places = np.linspace(0, count - 1, MAX_SAMPLES).astype(int)
    return {name: value[places] for name, value in named.items()}


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
    if value.dtype.kind in "iu" and value.size and _grid(details)[0].size:
        _check_codes(name, value, np.iinfo(details["dtype"]))
    return np.asarray(quantize(value, details), details["dtype"], order="C")


def _check_codes(name, value, bounds):
    if value.min() < bounds.min or value.max() > bounds.max:
        raise ValueError(
            f"Input {name!r} of the file takes codes from {bounds.min} to {bounds.max}, or floats, "
            "which are rounded to them. Received: integers from "
            f"{value.min()} to {value.max()}"
        )


def quantize(value, details):
    """Floats as the integers that a file takes for them; other arrays as they are."""
    scales, zeros = _grid(details)
    if not scales.size or value.dtype.kind != "f":
        return value
    bounds = np.iinfo(details["dtype"])
    return np.clip(np.rint(value / scales + zeros), bounds.min, bounds.max)


def dequantize(value, details):
    """Integers that a file gives as the floats that they stand for; other arrays as they are."""
    scales, zeros = _grid(details)
    return scales * (value.astype(np.float32) - zeros) if scales.size else value


def _grid(details):
    parameters = details["quantization_parameters"]
    return parameters["scales"], parameters["zero_points"]
