"""Checks an exported file before it replaces anything: weights bit for bit, then outputs."""

import numpy as np

from tf_proxquant.litert.check import outputs, probes, runtime
from tf_proxquant.litert.check.inputs import random_inputs
from tf_proxquant.litert.check.outputs import measure_errors
from tf_proxquant.litert.forms import decoding
from tf_proxquant.litert.read import flatbuffer, refusals
from tf_proxquant.litert.write.recoded import LAYERS

# Activations of 8 bits are rounded alike on both kernel sets; further apart, one is wrong.
KERNEL_LIMIT = 5e-2


class VerificationError(ValueError):
    """The exported file does not compute what the model computes; nothing was written."""


def check(
    content, float_content, weights, error_limit, model=None, inputs=None, way_out="", **signature
):
    """Verifies a file.

    Args:
      content: its bytes.
      float_content: bytes of the float file that it was made from.
      weights: see `check_weights`.
      error_limit: largest output error, relative to the largest output, that passes. The two kernel
        sets may differ by that from each other, and by 5e-2 at most.
      model: `keras.Model` behind the float file, or None.
      inputs: arrays to verify with, as for `runtime.predict`, of which 16 samples are taken; None
        draws random ones that the model can take.
      way_out: sentence on what to try where outputs differ too much, or "".
      **signature: `input_signature` that the float file was made with.

    Returns: `outputs.Errors`.
    Raises: VerificationError: if a weight differs, or an output by more than its limit.
      ValueError: if `inputs` do not fit, or none were found.
    """
    check_weights(content, weights)
    references = {}

    def keras_takes(named):
        found = outputs.keras_outputs(model, float_content, named, **signature)
        references.update(found)
        floats = (value for value in found.values() if value.dtype.kind == "f")
        return all(np.isfinite(value).all() for value in floats)

    if inputs is None:
        named = random_inputs(float_content, accepts=None if model is None else keras_takes)
    else:
        named = runtime.some_samples(runtime.Runner(float_content, "builtin"), inputs)
        try:
            if model is not None:
                keras_takes(named)
        except Exception as error:
            raise ValueError(
                f"The model does not take `inputs`: {refusals.first_sentence(error)}"
            ) from error
    try:
        errors = measure_errors(content, float_content, named, references or None)
    except outputs.DoesNotRun as error:
        raise VerificationError(f"{error} Nothing was written.") from error
    complaint = _complaint(errors, error_limit)
    if complaint:
        raise VerificationError(
            " ".join(filter(None, (complaint, way_out, "Nothing was written.")))
        )
    return errors


def _complaint(errors, limit):
    """What is wrong with a file, and why as far as that can be told; None if nothing is."""
    worst = max(errors.kernels, key=errors.kernels.get)
    differ = "Outputs differ by {:.1e} of the largest output {}, more than {:.0e}. "
    if errors.kernels[worst] > limit:
        complaint = differ.format(errors.kernels[worst], f"on the {worst} kernels", limit)
        if errors.float_file.get(worst, 0) > limit:
            complaint += (
                "So do those of the float file: the model computes with random numbers, or the "
                "converter or the runtime is wrong about it."
            )
        elif min(errors.kernels.values()) <= errors.kernels[worst] / 3:
            complaint += "On the other kernels they do not: these are wrong about the file."
        return complaint.strip()
    between_limit = min(limit, KERNEL_LIMIT)
    # As far from each other as each from the float file: rounding, and no fault of either. And so
    # are the kernel sets on a source that rounds its activations itself.
    own = 1.5 * errors.float_between if limit > KERNEL_LIMIT else 0.0
    if errors.between > max(between_limit, own, 1.5 * min(errors.kernels.values())):
        return differ.format(errors.between, "between the kernel sets", between_limit) + (
            "One of them computes an operator of this file wrongly."
        )
    return None


def check_weights(content, weights):
    """Decodes the weights of a file on both kernel sets and compares them bit for bit.

    Args:
      content: bytes of the exported file.
      weights: dict {(subgraph, tensor index): float32 array of the float file}. -0.0 equals 0.0.

    Raises: VerificationError: naming the first tensor that differs.
    """
    model = flatbuffer.Model(content)
    computed = [probes.decoded_tensors(model, graph) for graph in model.subgraphs]
    decoded = {}
    for (number, index), values in weights.items():
        tensor = model.subgraphs[number].tensors[index]
        if model.constant(tensor) is not None:
            _compare(model, number, index, _constant(model, tensor), values, "hold")
        elif index in computed[number]:
            decoded.setdefault(number, []).append(index)
        else:
            for kernels, rows in _look_up(content, number, index, len(values)):
                _compare(model, number, index, rows, values, "look up", kernels)
    for number, indices in decoded.items():
        probe = probes.decoder_probe(content, number, indices)
        for kernels in runtime.KERNELS:
            for index, values in zip(indices, _run_probe(probe, kernels), strict=True):
                _compare(model, number, index, values, weights[number, index], "decode to", kernels)


def check_codes(content, reference):
    """Compares the integers that the layers of two files multiply.

    Args:
      content: bytes of a static file with weights in tables.
      reference: bytes of the same file with the integers themselves.

    Raises: VerificationError: if they differ.
    """
    pairs = zip(_codes_of_layers(content), _codes_of_layers(reference), strict=True)
    for place, (found, expected) in enumerate(pairs):
        if not np.array_equal(found, expected):
            raise VerificationError(
                f"The tables of layer {place} do not decode to its weights. Nothing was written."
            )


def _codes_of_layers(content):
    model = flatbuffer.Model(content)
    for graph in model.subgraphs:
        known = decoding.decode_graph(model, graph, decoding.MAX_EXPANSION * len(content))
        for operator in graph.operators:
            if model.operator_name(operator) in LAYERS and int(operator.inputs[1]) in known:
                yield known[int(operator.inputs[1])].values


def _compare(model, number, index, found, expected, verb, kernels=None):
    if not np.array_equal(found, expected):
        name = flatbuffer.layer_name(model.subgraphs[number].tensors[index])
        where = f" on the {kernels} kernels" if kernels else ""
        raise VerificationError(
            f"Tensor {index} of subgraph {number}, {name!r}, does not {verb} the weights of the "
            f"float file{where}. Nothing was written."
        )


def _constant(model, tensor):
    """What the integers of a constant tensor stand for."""
    shape = [1] * len(tensor.shape)
    shape[tensor.quantization.quantizedDimension] = -1
    return tensor.quantization.scale.reshape(shape) * model.array(tensor).astype(np.float32)


def _look_up(content, number, index, count):
    """Yields (kernel set, all rows of a table as it looks them up)."""
    probe = probes.lookup_probe(content, number, index)
    for kernels in runtime.KERNELS:
        runner = runtime.Runner(probe, kernels)
        (rows,) = runner({runner.input_names[0]: np.arange(count, dtype=np.int32)}).values()
        yield kernels, rows


def _run_probe(probe, kernels):
    interpreter = runtime.make_interpreter(probe, kernels)
    interpreter.allocate_tensors()
    (zero,) = interpreter.get_input_details()
    interpreter.set_tensor(zero["index"], np.zeros(1, np.float32))
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
