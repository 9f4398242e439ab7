"""Finds the constant weights of a model and puts encodings in their place."""

import dataclasses

import numpy as np
from ai_edge_litert.schema_py_generated import AddOptionsT, BuiltinOperator, TensorType

from tf_proxquant.litert.forms import encodings as forms
from tf_proxquant.litert.read import flatbuffer, levels


@dataclasses.dataclass(frozen=True)
class Weight:
    """A constant float32 tensor and who reads it.

    Attributes:
      graph: number of the subgraph.
      index: tensor index in it.
      name: tensor name in the converted file.
      values: float32 array.
      consumers: operator names, in order.
      num_uses: multiply-adds per weight at batch 1: the positions of the output of its reader.
    """

    graph: int
    index: int
    name: str
    values: np.ndarray
    consumers: tuple[str, ...]
    num_uses: int = 1


def find_weights(model):
    """Every constant float32 tensor of two dimensions or more, in the order of the readers."""
    found = []
    for number, graph in enumerate(model.subgraphs):
        for index, readers in find_readers(graph).items():
            tensor = graph.tensors[index]
            if tensor.type != TensorType.FLOAT32 or model.constant(tensor) is None:
                continue
            if len(flatbuffer.tensor_shape(tensor)) >= 2:
                found.append(
                    Weight(
                        graph=number,
                        index=index,
                        name=flatbuffer.layer_name(tensor),
                        values=model.array(tensor),
                        consumers=tuple(model.operator_name(operator) for operator in readers),
                        num_uses=max(_num_positions(model, graph, r) for r in readers),
                    )
                )
    return found


def find_readers(graph):
    """Operators that read each tensor of a graph: dict {tensor index: list of operators}."""
    readers = {}
    for operator in graph.operators:
        for index in () if operator.inputs is None else operator.inputs:
            if index >= 0:
                readers.setdefault(int(index), []).append(operator)
    return readers


def _num_positions(model, graph, operator):
    if model.operator_name(operator) == "GATHER":
        return 0  # reads a few rows of the table
    shape = flatbuffer.tensor_shape(graph.tensors[operator.outputs[0]])
    return int(np.prod(shape[1:-1])) if len(shape) > 2 else 1


def restore_grids(content, max_ulps):
    """Moves weights that the BatchNorm fold rounded off their integer grid back onto it.

    Args:
      content: bytes of a float file.
      max_ulps: see `levels.undo_blur`; 0 changes nothing.

    Returns: (bytes of the file, set of (subgraph, tensor index) that moved).
    """
    model = flatbuffer.Model(content)
    moved = set()
    for weight in find_weights(model) if max_ulps else ():
        axes = levels.channel_axes(weight.values.ndim)
        found = (levels.undo_blur(weight.values, axis, max_ulps) for axis in axes)
        if any(levels.is_on_grid(weight.values, axis) for axis in axes):
            continue
        values = next((values for values in found if values is not None), None)
        if values is not None:
            tensor = model.subgraphs[weight.graph].tensors[weight.index]
            tensor.buffer = model.add_buffer(np.ascontiguousarray(values))
            moved.add((weight.graph, weight.index))
    return (model.to_bytes() if moved else content), moved


def replace(model, weights, encodings):
    """Stores each weight as its encoding; decoding operators go before the first reader.

    Args:
      model: `flatbuffer.Model`, edited in place; prune it afterwards.
      weights: list of `Weight` of this model.
      encodings: one `forms.Encoding` for each, or None to leave it float.
    """
    for weight, encoding in zip(weights, encodings, strict=True):
        if encoding is None:
            continue
        graph = model.subgraphs[weight.graph]
        decoder = forms.Decoder(model, graph, weight.index)
        encoding.write(decoder)
        first = next(i for i, op in enumerate(graph.operators) if weight.index in op.inputs)
        graph.operators[first:first] = decoder.operators


def decoded_tensors(model, graph):
    """Set of the tensors of a graph that operators compute from constants alone."""
    return {int(i) for operator in _decoders(model, graph) for i in operator.outputs}


def _decoders(model, graph):
    """Yields the operators of a graph that depend on constants only, in order."""
    known = {i for i, tensor in enumerate(graph.tensors) if model.constant(tensor) is not None}
    for operator in graph.operators:
        inputs = [] if operator.inputs is None else [int(i) for i in operator.inputs]
        if inputs and known.issuperset(inputs):
            known.update(int(i) for i in operator.outputs)
            yield operator


def decoder_probe(content, number, wanted):
    """A file with only the operators that decode constants, for reading weights back.

    Args:
      content: bytes of a .tflite file.
      number: of the subgraph.
      wanted: indices of the tensors to read.

    Returns: bytes of a file with one input of shape (1,), to be set to 0, and as outputs the wanted
      tensors with that input added: XNNPACK needs some work between a constant and an output.
    """
    model = flatbuffer.Model(content)
    graph = model.subgraphs[number]
    operators = list(_decoders(model, graph))
    zero = model.add_tensor(graph, (1,), TensorType.FLOAT32)
    sums = []
    for index in wanted:
        shape = flatbuffer.tensor_shape(graph.tensors[index])
        sums.append(model.add_tensor(graph, shape, TensorType.FLOAT32))
        operators.append(
            model.make_operator(BuiltinOperator.ADD, 1, [index, zero], sums[-1:], AddOptionsT())
        )
    graph.operators = operators
    graph.inputs, graph.outputs = np.asarray([zero], np.int32), np.asarray(sums, np.int32)
    model.model.subgraphs, model.model.signatureDefs = [graph], None
    model.prune()
    return model.to_bytes()
