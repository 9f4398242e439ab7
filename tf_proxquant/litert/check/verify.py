"""Checks an exported file before it replaces anything: weights bit for bit, then outputs."""

import keras
import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator

from tf_proxquant.litert.check import probes, runtime
from tf_proxquant.litert.read import flatbuffer

DYNAMIC_SIZE = 16  # for a dimension other than the batch that the model leaves open
BATCH = 3


class VerificationError(ValueError):
    """The exported file does not compute what the model computes; nothing was written."""


def check_weights(content, weights):
    """Decodes the weights of a file on both kernel sets and compares them bit for bit.

    Args:
      content: bytes of the exported file.
      weights: dict {(subgraph, tensor index): float32 array of the float file}. -0.0 equals 0.0.

    Raises: VerificationError: naming the first tensor that differs.
    """
    weights = dict(weights)
    _check_direct(content, weights)
    _check_lookups(content, weights)
    for number in sorted({number for number, _ in weights}):
        wanted = [index for graph, index in weights if graph == number]
        probe = probes.decoder_probe(content, number, wanted)
        for kernels in runtime.KERNELS:
            for index, decoded in zip(wanted, _run_probe(probe, kernels), strict=True):
                if not np.array_equal(decoded, weights[number, index]):
                    raise VerificationError(
                        f"Tensor {index} of subgraph {number} does not decode to the weights of "
                        f"the float file on the {kernels} kernels."
                    )


def _check_direct(content, weights):
    """Compares the integer constants among `weights` and takes them out."""
    model = flatbuffer.Model(content)
    for number, index in list(weights):
        tensor = model.subgraphs[number].tensors[index]
        if model.constant(tensor) is not None:
            shape = [1] * len(tensor.shape)
            shape[tensor.quantization.quantizedDimension] = -1
            scale = tensor.quantization.scale.reshape(shape)
            decoded = scale * model.array(tensor).astype(np.float32)
            if not np.array_equal(decoded, weights.pop((number, index))):
                raise VerificationError(
                    f"Tensor {index} of subgraph {number} does not hold the weights of the float "
                    "file."
                )


def _check_lookups(content, weights):
    """Looks up every row of the tables among `weights` and takes them out."""
    model = flatbuffer.Model(content)
    for number, index in list(weights):
        if index in probes.decoded_tensors(model, model.subgraphs[number]):
            continue
        expected = weights.pop((number, index))
        probe = probes.lookup_probe(content, number, index)
        for kernels in runtime.KERNELS:
            runner = runtime.Runner(probe, kernels)
            places = np.arange(len(expected), dtype=np.int32)
            (rows,) = runner({runner.input_names[0]: places}).values()
            if not np.array_equal(rows, expected):
                raise VerificationError(
                    f"Tensor {index} of subgraph {number} does not look up the weights of the "
                    f"float file on the {kernels} kernels."
                )


def _run_probe(probe, kernels):
    interpreter = runtime.make_interpreter(probe, kernels)
    interpreter.allocate_tensors()
    (zero,) = interpreter.get_input_details()
    interpreter.set_tensor(zero["index"], np.zeros(1, np.float32))
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


def random_inputs(content, seed=0):
    """Inputs for a file by signature name: normal floats, integers within its smallest table."""
    generator = np.random.default_rng(seed)
    vocabulary = _smallest_table(content)
    inputs = {}
    for name, details in runtime.Runner(content, "builtin").inputs.items():
        shape = [int(n) for n in details["shape_signature"]]
        shape[:1] = [BATCH if n == -1 else n for n in shape[:1]]
        shape = [DYNAMIC_SIZE if n == -1 else n for n in shape]
        dtype = np.dtype(details["dtype"])
        if dtype.kind == "f":
            inputs[name] = generator.standard_normal(shape).astype(dtype)
        else:
            inputs[name] = generator.integers(0, vocabulary, shape).astype(dtype)
    return inputs


def _smallest_table(content):
    model, sizes = flatbuffer.Model(content), [1000]
    lookups = (BuiltinOperator.GATHER, BuiltinOperator.EMBEDDING_LOOKUP)
    for graph in model.subgraphs:
        for operator in graph.operators:
            if model.operator_code(operator) in lookups:
                place = 1 if model.operator_code(operator) == lookups[1] else 0
                tensor = graph.tensors[operator.inputs[place]]
                if model.constant(tensor) is not None:
                    sizes.append(flatbuffer.tensor_shape(tensor)[0])
    return min(sizes)


def relative_error(outputs, references):
    """Largest difference over largest reference, over all outputs; NaN counts as infinite."""
    worst = 0.0
    for name, reference in references.items():
        output = outputs[name]
        if output.shape != reference.shape:
            return float("inf")
        difference = np.abs(output.astype(np.float64) - reference.astype(np.float64))
        scale = max(float(np.abs(reference).max(initial=0)), 1e-30)
        error = float(difference.max(initial=0)) / scale
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


def measure_errors(content, float_content, inputs, references=None):
    """Output error of `content` on both kernel sets, against the float file and Keras.

    Args:
      content: bytes of the exported file.
      float_content: bytes of the float file.
      inputs: dict of arrays by signature name.
      references: outputs of the Keras model by signature name, or None.

    Returns: dict {kernels: largest relative error}.
    """
    errors = {}
    for kernels in runtime.KERNELS:
        try:
            outputs = runtime.Runner(content, kernels)(inputs)
        except (RuntimeError, ValueError) as error:
            raise VerificationError(
                f"The file does not run on the {kernels} kernels: {error}"
            ) from error
        expected = runtime.Runner(float_content, kernels)(inputs)
        errors[kernels] = relative_error(outputs, expected)
        if references is not None:
            errors[kernels] = max(errors[kernels], relative_error(outputs, references))
    return errors


def keras_outputs(model, runner, inputs):
    """Outputs of the Keras model for `inputs`, named as the file names them."""
    arguments = keras_arguments(model, runner, inputs)
    results = model(arguments, training=False)
    if isinstance(results, dict) and set(results) == set(runner.output_names):
        flat = [results[name] for name in runner.output_names]
    else:
        flat = keras.tree.flatten(results)
    arrays = [keras.ops.convert_to_numpy(value) for value in flat]
    return dict(zip(runner.output_names, arrays, strict=True))


def keras_arguments(model, runner, inputs):
    """`inputs` by signature name, arranged as the model's call expects them."""
    try:
        structure = model.input
    except (AttributeError, ValueError):
        values = [inputs[name] for name in runner.input_names]
        return values[0] if len(values) == 1 else values
    flat = keras.tree.flatten(structure)
    by_name = {tensor.name: tensor for tensor in flat}
    if set(by_name) == set(inputs):
        values = [inputs[tensor.name] for tensor in flat]
    else:
        values = [inputs[name] for name in runner.input_names]
    return keras.tree.pack_sequence_as(structure, values)
