"""The integer file of a float one, calibrated on data."""

import numpy as np
from ai_edge_litert.schema_py_generated import (
    BuiltinOperator,
    MulOptionsT,
    QuantizationParametersT,
    TensorType,
)

from tf_proxquant.litert.check import outputs, runtime
from tf_proxquant.litert.read import flatbuffer, refusals
from tf_proxquant.litert.read.weights import find_readers

CALIBRATION_BATCH = 4
TOLERABLE = 0.05
LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
ONLY_LAYERS = (
    "only dense layers and convolutions compute with integers; with all operators outputs would "
    "differ by {:.1e}"
)
# Below this, and a hundred times below all others, values stand for minus infinity: what a mask
# hides from a softmax. That far below the others they are 0 behind it, too.
MASKED, BELOW = -1e4, 10.0
# TensorFlow's quantizer widens narrower ranges to this, and nothing is left of the values.
NARROWEST = 1e-6


def check_data(data):
    """Refuses a static export without arrays to calibrate on."""
    if data is None:
        raise ValueError(
            'profile="static" calibrates activations: give representative_data, an array of '
            "about 100 samples (or a list or dict of arrays, one per input). Received: None"
        )
    if callable(data) or hasattr(data, "__next__") or hasattr(data, "element_spec"):
        raise ValueError(
            "representative_data must be an array of samples, or a list or dict of arrays, one per "
            f"input: stack what a generator or data set gives. Received: {type(data).__name__}"
        )


def to_integer(float_content, data, pixels, whole=False):
    """The file whose weights and activations are integers of 8 bits.

    The ranges of the activations are looked up with the stock interpreter: TensorFlow's calibrator
    brings the process down where a graph holds a loop. Inside of loops the file stays float. Where
    outputs suffer, what lies between the layers, such as norms and attention, stays float as well
    if that helps, unless the `whole` file is to compute with integers.

    Args:
      float_content: bytes of a float file.
      data: samples to calibrate on, as for `runtime.predict`.
      pixels: (lowest, highest) value that images may have.
      whole: whether integers are wanted between the layers too, whatever outputs suffer.

    Returns: (bytes, notes for the report).
    Raises: ValueError: if the data do not fit the file, give activations that are not finite, or
      the quantizer refuses the file.
    """
    model = flatbuffer.Model(float_content)
    ranges = _find_ranges(float_content, model, data)
    _check_outputs(model.subgraphs[0], ranges)
    _widen_images(model.subgraphs[0], ranges, *pixels)
    content = _quantize(float_content, ranges)
    if whole:
        return content, ()
    samples = runtime.some_samples(runtime.Runner(float_content, "builtin"), data)
    expected = outputs.run(float_content, samples, "builtin")

    def measure(content):
        return outputs.relative_error(outputs.run(content, samples, "builtin"), expected)

    error = measure(content)
    if error > TOLERABLE:
        between_layers = _quantize(float_content, _at_layers(model, ranges))
        if measure(between_layers) < error:
            return between_layers, (ONLY_LAYERS.format(error),)
    return content, ()


def _widen_images(graph, ranges, lowest, highest):
    """Gives images their whole range, so that a code is the same pixel whatever the data hold.

    Data that stay within a half of it take other values, such as 0 to 1.
    """
    for index in map(int, graph.inputs):
        shape = flatbuffer.tensor_shape(graph.tensors[index])
        if index not in ranges or len(shape) != 4 or shape[-1] not in (1, 3):
            continue
        low, high = ranges[index]
        if lowest <= low and high <= highest and 2 * (high - low) >= highest - lowest:
            ranges[index] = lowest, highest


def _quantize(content, ranges):
    from tensorflow.lite.python.convert import mlir_quantize

    model = flatbuffer.Model(content)
    _replace_float_only(model)
    for index, (low, high) in ranges.items():
        tensor = model.subgraphs[0].tensors[index]
        parameters = tensor.quantization or QuantizationParametersT()
        parameters.min, parameters.max = (np.array([x], np.float32) for x in (low, high))
        tensor.quantization = parameters
    try:
        with refusals.muted():
            return bytes(mlir_quantize(model.to_bytes()))
    except Exception as error:
        raise ValueError(
            "TensorFlow's quantizer refuses the file; export it with profile='dynamic'. "
            f"Received: {refusals.first_sentence(error)}"
        ) from error


def _replace_float_only(model):
    """Writes x x for SQUARE and -1 x for NEG, of which the runtime has no kernel for integers."""
    for graph in model.subgraphs[:1]:
        for operator in graph.operators:
            name = model.operator_name(operator)
            if name not in ("SQUARE", "NEG"):
                continue
            source = other = int(operator.inputs[0])
            if graph.tensors[source].type != TensorType.FLOAT32:
                continue
            if name == "NEG":
                minus_one = np.full(1, -1, np.float32)
                other = model.add_tensor(graph, (1,), TensorType.FLOAT32, minus_one)
            new = model.make_operator(
                BuiltinOperator.MUL, 1, [source, other], operator.outputs, MulOptionsT()
            )
            vars(operator).update(vars(new))


def _at_layers(model, ranges):
    """Those of the tensors that a layer with weights reads or writes."""
    kept = set()
    for operator in model.subgraphs[0].operators:
        if model.operator_name(operator) in LAYERS:
            kept.update((int(operator.inputs[0]), int(operator.outputs[0])))
    return {index: value for index, value in ranges.items() if index in kept}


def _check_outputs(graph, ranges):
    for index in graph.outputs:
        low, high = ranges.get(int(index), (0, 0))
        if 0 < high - low < NARROWEST:
            raise ValueError(
                "The outputs vanish on the representative data, and integers of 8 bits keep nothing"
                f" of them. Received: {flatbuffer.layer_name(graph.tensors[index])!r} between "
                f"{low:.1e} and {high:.1e}. Train the network first, give data as it was trained "
                "on, or take profile='dynamic'."
            )


def _find_ranges(content, model, data):
    """Smallest and largest value of each activation: dict {tensor index: (float, float)}."""
    runner = runtime.Runner(content, "builtin", keeps_activations=True)
    graph = model.subgraphs[0]
    # What nobody reads, such as the state that a loop leaves, may hold anything.
    read = {*find_readers(graph), *(int(i) for i in graph.outputs)}
    activations = [
        index
        for index in sorted(_of_values(model, graph) & read)
        if graph.tensors[index].type == TensorType.FLOAT32
    ]
    ranges = {}
    for batch, _ in runtime.batches(runner, runtime.name_inputs(runner, data), CALIBRATION_BATCH):
        with refusals.of_inputs("The model does not take the representative data"):
            runner(batch)
        for index, values in runner.activations(activations):
            low, high = _range(values)
            if not np.isfinite(low + high):
                raise ValueError(
                    "The representative data give activations that are NaN or infinite, in "
                    f"{flatbuffer.layer_name(graph.tensors[index])!r}."
                )
            before = ranges.get(index, (low, high))
            ranges[index] = min(low, before[0]), max(high, before[1])
    return ranges


def _of_values(model, graph):
    """Tensors that depend on the values of inputs.

    Others depend on their shapes alone, such as angles of positions, for which 8 bits are too few.
    """
    found = {int(i) for i in graph.inputs}
    for operator in graph.operators:
        is_new = model.operator_name(operator) not in ("SHAPE", "RANGE", "ZEROS_LIKE")
        if is_new and operator.inputs is not None and found.intersection(operator.inputs.tolist()):
            found.update(operator.outputs.tolist())
    return found


def _range(values):
    """Smallest and largest value; a mask's minus infinity lies just below the others."""
    low, high = float(values.min()), float(values.max())
    if low <= MASKED:
        others = float(values.min(where=values > MASKED, initial=0.0))
        low = others - BELOW if others > low / 100 else low
    return low, high
