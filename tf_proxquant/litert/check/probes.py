"""Small files with only the operators that decode weights, for reading these back."""

import numpy as np
from ai_edge_litert.schema_py_generated import AddOptionsT, BuiltinOperator, TensorType

from tf_proxquant.litert.read import flatbuffer


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


def lookup_probe(content, number, wanted):
    """A file with only the operators that look up rows, for reading a table back.

    Args:
      content: bytes of a .tflite file.
      number: of the subgraph.
      wanted: index of the tensor of the rows that were looked up.

    Returns: bytes of a file with the list of places, int32 (n,), as its input and the rows (n,
      columns) as its output.
    """
    model = flatbuffer.Model(content)
    graph = model.subgraphs[number]
    producers = {int(o): operator for operator in graph.operators for o in operator.outputs}
    needed, open_, places = [], [wanted], None
    while open_:
        index = open_.pop()
        tensor = graph.tensors[index]
        if model.constant(tensor) is not None:
            continue
        if tensor.type == TensorType.INT32 and len(flatbuffer.tensor_shape(tensor)) == 1:
            places = index
        elif producers[index] not in needed:
            needed.append(producers[index])
            open_ += [int(i) for i in producers[index].inputs]
    graph.operators = [operator for operator in graph.operators if operator in needed]
    graph.inputs, graph.outputs = np.array([places], np.int32), np.array([wanted], np.int32)
    model.model.subgraphs, model.model.signatureDefs = [graph], None
    model.prune()
    return model.to_bytes()
