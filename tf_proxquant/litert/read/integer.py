"""The integer file of a float one, calibrated on data."""

import numpy as np
from ai_edge_litert.schema_py_generated import QuantizationParametersT, TensorType

from tf_proxquant.litert.check import runtime
from tf_proxquant.litert.read import flatbuffer, refusals
from tf_proxquant.litert.read.weights import find_readers

CALIBRATION_BATCH = 4
# TensorFlow's quantizer widens narrower ranges to this, and nothing is left of the values.
NARROWEST = 1e-6


def check_data(data):
    """Refuses a static export without data to calibrate on."""
    if data is None:
        raise ValueError(
            'profile="static" calibrates activations: give representative_data, an array of '
            "about 100 samples (or a list or dict of arrays, one per input). Received: None"
        )


def to_integer(float_content, data):
    """Bytes of the file whose weights and activations are integers of 8 bits.

    The ranges of the activations are looked up with the stock interpreter: TensorFlow's calibrator
    brings the process down where a graph holds a loop. Inside of loops the file stays float.

    Args:
      float_content: bytes of a float file.
      data: samples to calibrate on, as for `runtime.predict`.

    Raises: ValueError: if the data do not fit the file, give activations that are not finite, or
      the quantizer refuses the file.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    model = flatbuffer.Model(float_content)
    graph = model.subgraphs[0]
    ranges = _find_ranges(float_content, model, data)
    _check_outputs(graph, ranges)
    for index, (low, high) in ranges.items():
        parameters = graph.tensors[index].quantization or QuantizationParametersT()
        parameters.min, parameters.max = np.float32([low]), np.float32([high])
        graph.tensors[index].quantization = parameters
    try:
        with refusals.muted():
            return bytes(mlir_quantize(model.to_bytes()))
    except Exception as error:
        raise ValueError(
            "TensorFlow's quantizer refuses the file; export it with profile='dynamic'. "
            f"Received: {refusals.first_sentence(error)}"
        ) from error


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
        for index, tensor in enumerate(graph.tensors)
        if tensor.type == TensorType.FLOAT32 and model.constant(tensor) is None and index in read
    ]
    ranges = {}
    for batch, _ in runtime.batches(runner, runtime.name_inputs(runner, data), CALIBRATION_BATCH):
        runner(batch)
        for index, values in runner.activations(activations):
            low, high = float(values.min()), float(values.max())
            if not np.isfinite(low + high):
                raise ValueError(
                    "The representative data give activations that are NaN or infinite, in "
                    f"{flatbuffer.layer_name(graph.tensors[index])!r}."
                )
            before = ranges.get(index, (low, high))
            ranges[index] = min(low, before[0]), max(high, before[1])
    return ranges
