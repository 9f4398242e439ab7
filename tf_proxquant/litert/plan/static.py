"""The static profile: 8-bit activations and exactly the trained weights, for integer accelerators.

TensorFlow's converter calibrates the activations on data and writes an integer file, but it scales
weights by their maximum: levels such as -7 .. 7 then move by up to 0.4 % of the largest. Here the
codes of each layer are written anew on the grid of its levels, with the bias in the new unit.
"""

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType

from tf_proxquant.litert.check import runtime
from tf_proxquant.litert.forms import encodings as forms
from tf_proxquant.litert.read import convert, flatbuffer, levels
from tf_proxquant.litert.report import TensorRow
from tf_proxquant.litert.write import rewrite

# Operators with weights at input 1 and an int32 bias at input 2, and their channel axis.
LAYERS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
NOTES = ("activations are integers of 8 bits, calibrated on the representative data",)


def check_data(model, data):
    """Refuses a static export without a Keras model or without data to calibrate on."""
    if isinstance(model, bytes):
        raise ValueError('profile="static" needs the Keras model. Received: a .tflite file')
    if data is None:
        raise ValueError(
            'profile="static" calibrates activations: give representative_data, an array of '
            "about 100 samples (or a list or dict of arrays, one per input). Received: None"
        )


def encode(model, float_content, data, strip_names, **signature):
    """Converts a model to integers with its weights exact.

    Args:
      model: `keras.Model`.
      float_content: bytes of its float file.
      data: samples to calibrate on, as for `runtime.predict`.
      strip_names: drop tensor names and metadata.
      **signature: `batch_size` and `input_signature`, as for `convert.convert`.

    Returns: (content, rows, weights, notes) as `exporting.encode`, with notes for the report.
    """
    named = runtime.name_inputs(runtime.Runner(float_content, "builtin"), data)
    size = signature["batch_size"] or 1
    count = len(next(iter(named.values()))) // size

    def samples():
        for i in range(count):
            yield {name: values[i * size : (i + 1) * size] for name, values in named.items()}

    content, _ = convert.convert(model, **signature, representative_data=samples)
    edited = flatbuffer.Model(content)
    rows, weights = _restore_weights(edited, flatbuffer.Model(float_content))
    moved = edited.prune()
    edited.strip(names=strip_names)
    exact = {(w.graph, int(moved[w.graph][w.index])): w.values for w in weights}
    return edited.to_bytes(), tuple(rows), exact, NOTES


def _restore_weights(model, float_model):
    """Writes the grid codes of the float file over those of the integer one."""
    originals = _layers(float_model)
    rows, weights = [], []
    for number, operator in _layers(model):
        graph = model.subgraphs[number]
        tensor = graph.tensors[operator.inputs[1]]
        if tensor.type != TensorType.INT8 or model.constant(tensor) is None:
            continue
        axis = LAYERS[model.operator_name(operator)]
        values = _find_original(model, tensor, axis, originals, float_model)
        grid = None if values is None else _wide_codes(values, axis)
        if grid is None:
            rows.append(_row(model, operator, tensor, values, "scaled by the converter"))
            continue
        _write(model, graph, operator, grid, axis)
        index = int(operator.inputs[1])
        weights.append(rewrite.Weight(number, index, "", values, (model.operator_name(operator),)))
        rows.append(_row(model, operator, tensor, values, ""))
    return rows, weights


def _layers(model):
    return [
        (number, operator)
        for number, graph in enumerate(model.subgraphs)
        for operator in graph.operators
        if model.operator_name(operator) in LAYERS
    ]


def _find_original(model, tensor, axis, originals, float_model):
    """Takes the first float weights out of `originals` that the integer tensor rounds, or None."""
    scale = tensor.quantization.scale
    scale = forms.broadcastable(scale, len(tensor.shape), axis if scale.size > 1 else None)
    rounded = model.array(tensor).astype(np.float32) * scale
    for place, (number, operator) in enumerate(originals):
        source = float_model.subgraphs[number].tensors[operator.inputs[1]]
        if source.type != TensorType.FLOAT32 or float_model.constant(source) is None:
            continue
        values = float_model.array(source)
        if values.shape == rounded.shape and (np.abs(values - rounded) <= 0.51 * scale).all():
            del originals[place]
            return values
    return None


def _wide_codes(values, axis):
    """(scales, codes) on the grid, the codes doubled as often as int8 allows.

    A power of two leaves scale * code as it is, bit for bit, and gives the bias, whose unit is
    input scale * weight scale, the finest steps.
    """
    grid = forms.find_codes(values, 8, axis)
    if grid is None:
        return None
    scales, codes = grid
    largest = levels.to_rows(np.abs(codes.astype(np.int16)), axis).max(axis=1)
    factors = 2 ** np.floor(np.log2(127 / np.maximum(largest, 1)))
    wide = codes * forms.broadcastable(factors, codes.ndim, axis)
    return scales / factors.astype(np.float32), wide.astype(np.int8)


def _write(model, graph, operator, grid, axis):
    scales, codes = grid
    tensor = graph.tensors[operator.inputs[1]]
    tensor.buffer = model.add_buffer(codes)
    old_scales, tensor.quantization = (
        tensor.quantization.scale,
        flatbuffer.quantization(scales, axis),
    )
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return
    bias = graph.tensors[operator.inputs[2]]
    factor = np.asarray(old_scales, np.float64) / scales
    rounded = np.rint(model.array(bias) * factor).astype(np.int32)
    input_scale = graph.tensors[operator.inputs[0]].quantization.scale
    bias.buffer = model.add_buffer(rounded)
    bias.quantization = flatbuffer.quantization(input_scale * scales)


def _row(model, operator, tensor, values, reason):
    axis, num_levels = (None, None) if values is None else levels.count_levels(values)
    shape = flatbuffer.tensor_shape(tensor)
    count = int(np.prod(shape))
    return TensorRow(
        name=flatbuffer.layer_name(tensor),
        operators=(model.operator_name(operator),),
        shape=shape,
        num_levels=num_levels,
        axis=axis,
        form="int8 static",
        bits=8,
        bytes_before=4 * count,
        bytes_after=count + 4 * tensor.quantization.scale.size,
        reason=reason,
    )
