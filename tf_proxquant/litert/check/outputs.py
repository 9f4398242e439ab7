"""How far the outputs of a file are from those of the float file and of the model."""

import dataclasses

import keras
import numpy as np

from tf_proxquant.litert.check import runtime
from tf_proxquant.litert.read import signature as signatures
from tf_proxquant.litert.read import tracing

BATCH = 8
TIES = 1e-3


@dataclasses.dataclass(frozen=True)
class Errors:
    """Largest differences of outputs, each relative to the largest value of the output.

    Attributes:
      kernels: dict {kernel set: difference from the float file on the same kernels and from the
        model}.
      between: difference of the file on one kernel set from the file on the other.
      float_file: dict {kernel set: difference of the float file from the model}; empty without one.
      float_between: as `between`, of the float file.
    """

    kernels: dict
    between: float
    float_file: dict
    float_between: float


class DoesNotRun(ValueError):
    """The runtime refuses a file, or to run it."""


def measure_errors(content, float_content, inputs, references=None):
    """Output errors of `content` on both kernel sets, against the float file and Keras.

    Args:
      content: bytes of the exported file.
      float_content: bytes of the float file.
      inputs: dict of arrays by signature name.
      references: outputs of the Keras model by signature name, or None.

    Returns: `Errors`.
    Raises: DoesNotRun: if a file does not run on some kernel set.
    """
    outputs, expected, errors, float_file = {}, {}, {}, {}
    for kernels in runtime.KERNELS:
        outputs[kernels] = run(content, inputs, kernels)
        expected[kernels] = run(float_content, inputs, kernels)
        errors[kernels] = relative_error(outputs[kernels], expected[kernels])
        if references is not None:
            float_file[kernels] = relative_error(expected[kernels], references)
            errors[kernels] = max(errors[kernels], relative_error(outputs[kernels], references))
    between, float_between = (relative_error(*each.values()) for each in (outputs, expected))
    return Errors(errors, between, float_file, float_between)


def run(content, inputs, kernels):
    """Outputs of a file for all of `inputs`: dict {name: array}; integers mean what they stand for.

    Raises: DoesNotRun: if it does not run.
    """
    try:
        runner = runtime.Runner(content, kernels)
        outputs = runtime.run(runner, runtime.name_inputs(runner, inputs), BATCH)
    except (RuntimeError, ValueError) as error:
        raise DoesNotRun(f"The file does not run on the {kernels} kernels: {error}") from error
    return {
        name: runtime.dequantize(value, runner.outputs[name]) for name, value in outputs.items()
    }


def relative_error(outputs, references):
    """Largest difference over largest reference, over all outputs; NaN counts as infinite.

    Of integers, such as the place of the largest score, it is the share that differs, and none if
    that is at most one in a thousand: equal scores may fall either way.
    """
    worst = 0.0
    for name, reference in references.items():
        output = outputs[name]
        if output.shape != reference.shape:
            return float("inf")
        if reference.dtype.kind != "f":
            share = float(np.mean(output != reference)) if reference.size else 0.0
            worst = max(worst, share if share > TIES else 0.0)
            continue
        difference = np.abs(output.astype(np.float64) - reference.astype(np.float64))
        scale = max(float(np.abs(reference).max(initial=0)), 1e-30)
        error = float(difference.max(initial=0)) / scale
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


def keras_outputs(model, content, inputs, input_signature=None):
    """Outputs of the Keras model in float32, by the names that its file has.

    Args:
      model: `keras.Model`.
      content: bytes of its float file.
      inputs: dict of arrays by signature name.
      input_signature: that the file was made with.
    """
    signature = signatures.read(model, input_signature)

    def call(batch):
        args, kwargs = signature.pack(batch)
        results = signatures.name_outputs(model(*args, training=False, **kwargs))
        return {name: keras.ops.convert_to_numpy(value) for name, value in results.items()}

    with tracing.in_float32(model):
        return runtime.run(runtime.Runner(content, "builtin"), inputs, BATCH, call)
