"""The static profile: an integer file with exactly the trained weights, for integer processors.

TensorFlow's converter calibrates the activations on data and writes an integer file, but it scales
weights by their maximum: levels such as -7 .. 7 then move by up to 0.4 % of the largest. Here the
codes of each layer are those of its grid, with the bias in the new unit. `weights` of the request
says how many bits they take.
"""

import dataclasses

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType

from tf_proxquant.litert.forms import indexed
from tf_proxquant.litert.forms.codes import broadcastable, find_codes, widened
from tf_proxquant.litert.forms.form import Form, Recoded
from tf_proxquant.litert.plan import micro
from tf_proxquant.litert.plan.fast import fast_change
from tf_proxquant.litert.plan.plan import IO, WEIGHTS, Change, Plan, reader_notes
from tf_proxquant.litert.read import flatbuffer
from tf_proxquant.litert.read.weights import Weight, find_readers, find_weights
from tf_proxquant.litert.write.recoded import LAYERS

NOTE = "activations are integers of 8 bits, calibrated on the representative data"
IN_FLOAT = "in floats, which integer processors leave to the CPU: {}"
AT_EDGES = ("QUANTIZE", "DEQUANTIZE", "SHAPE")
BY_CONVERTER = "scaled by the converter"
INT4_LAYERS = {"CONV_2D", "DEPTHWISE_CONV_2D"}  # dense ones are refused by tflite-micro
IN_8_BITS = "no grid of 4 bits, so 8"
DENSE_IN_8_BITS = "in 8 bits: tflite-micro reads 4 in convolutions only"
SHARED_IN_8_BITS = "in 8 bits: several layers read it, and a table is decoded for one"


def plan(model, request):
    """See `plan.PROFILES`; `model` is the converter's integer file, `request` has the float one."""
    originals = find_weights(request.float_model)
    changes, taken = [], set()
    for number, graph in enumerate(model.subgraphs):
        for index, readers in find_readers(graph).items():
            tensor = graph.tensors[index]
            if _is_table(model, tensor):
                names = [model.operator_name(reader) for reader in readers]
                change = _change(model, (number, index), names, originals, taken)
                changes.append(_narrowed(change, request.weights, model.array(tensor)))
    # What stays float, such as the layers inside of loops.
    for weight in find_weights(model):
        name = flatbuffer.unique_name(weight.name, taken)
        changes.append(fast_change(dataclasses.replace(weight, name=name)))
    names = _float_operators(model)
    notes = (NOTE, IN_FLOAT.format(", ".join(names))) if names else (NOTE,)
    notes += reader_notes(changes)
    if request.io != IO[0] or request.weights != WEIGHTS[0]:
        notes += micro.notes(model)
    return Plan(tuple(changes), notes)


def _narrowed(change, weights, codes):
    """A change with the weights in fewer than 8 bits where their levels and the layer allow it.

    `codes` are the converter's.
    """
    if weights == "tables" and set(change.read_by) <= set(LAYERS):
        return _in_table(change, codes)
    if weights != "int4" or not isinstance(change.form, Recoded):
        return change
    if not set(change.read_by) <= INT4_LAYERS:
        return dataclasses.replace(change, reason=DENSE_IN_8_BITS)
    found = find_codes(change.weight.values, 4, change.form.codes.axis, narrow=True)
    if found is None:
        return dataclasses.replace(change, reason=IN_8_BITS)
    found = widened(found, 4)
    form = Recoded("int4 static", 4, found.num_bytes, codes=found)
    return dataclasses.replace(change, form=form)


def _in_table(change, codes):
    """The change that `write.tables` makes of it, whether its codes are of a grid or rounded."""
    is_recoded = isinstance(change.form, Recoded)
    if len(change.read_by) > 1:
        return dataclasses.replace(change, reason=SHARED_IN_8_BITS) if is_recoded else change
    codes = change.form.codes.codes if is_recoded else codes
    axis = LAYERS[change.read_by[0]].axis
    bits = indexed.bits_of(codes, axis)
    if bits == 8:
        return change
    size = indexed.num_bytes(codes, axis, bits) + 4 * codes.shape[axis]
    form = dataclasses.replace(change.form, name=f"{bits} bit table", bits=bits, num_bytes=size)
    return dataclasses.replace(change, form=form)


def _float_operators(model):
    """Names of the operators between the edges that read or make floats."""
    names, edges = {}, set()
    for graph in model.subgraphs:
        edges.update(id(graph.tensors[i]) for i in (*graph.inputs, *graph.outputs))
        for operator in graph.operators:
            name, indices = model.operator_name(operator), (*operator.inputs, *operator.outputs)
            touched = [graph.tensors[i] for i in indices if i >= 0]
            is_edge = name in AT_EDGES and any(id(tensor) in edges for tensor in touched)
            if not is_edge and any(tensor.type == TensorType.FLOAT32 for tensor in touched):
                names[name] = None
    return list(names)


def _is_table(model, tensor):
    is_wide = len(flatbuffer.tensor_shape(tensor)) > 1
    return tensor.type == TensorType.INT8 and is_wide and model.constant(tensor) is not None


def _change(model, key, names, originals, taken):
    graph, index = key
    tensor = model.subgraphs[graph].tensors[index]
    axis = LAYERS[names[0]].axis if set(names) <= set(LAYERS) else None
    rounded, original = _rounded(model, tensor), _take_original(model, tensor, originals)
    name = flatbuffer.layer_name(tensor) if original is None else original.name
    values = rounded if original is None else original.values
    weight = Weight(graph, index, flatbuffer.unique_name(name, taken), values, tuple(names))
    found = None if original is None or axis is None else find_codes(values, 8, axis)
    num_bytes = rounded.size + 12 * tensor.quantization.scale.size
    if found is None:
        return Change(weight, Form("int8 static", 8, num_bytes), BY_CONVERTER, tuple(names))
    form = Recoded("int8 static", 8, num_bytes, codes=widened(found))
    return Change(weight, form, "", tuple(names))


def _scales(tensor):
    scale, axis = tensor.quantization.scale, tensor.quantization.quantizedDimension
    return broadcastable(scale, len(tensor.shape), axis if scale.size > 1 else None)


def _rounded(model, tensor):
    return model.array(tensor).astype(np.float32) * _scales(tensor)


def _take_original(model, tensor, originals):
    """Takes the first float weight out of `originals` that the integer tensor rounds, or None."""
    rounded, scale = _rounded(model, tensor), _scales(tensor)
    for place, original in enumerate(originals):
        is_same = original.values.shape == rounded.shape
        if is_same and (np.abs(original.values - rounded) <= 0.51 * scale).all():
            return originals.pop(place)
    return None
