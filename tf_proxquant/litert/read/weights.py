"""The constant weights of a model, and who reads them."""

import dataclasses

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType

from tf_proxquant.litert.read import flatbuffer, levels


@dataclasses.dataclass(frozen=True)
class Weight:
    """A constant tensor of two dimensions or more and the operators that read it.

    Attributes:
      graph: number of the subgraph.
      index: tensor index in it.
      name: of its layer and operation; no two weights of a file share one.
      values: float32 array.
      consumers: operator names, in order.
      num_uses: multiply-adds per weight at batch 1: the positions of the output of its reader, of
        the input for a transposed convolution.
    """

    graph: int
    index: int
    name: str
    values: np.ndarray
    consumers: tuple[str, ...]
    num_uses: int = 1

    @property
    def key(self):
        """(subgraph, tensor index)."""
        return self.graph, self.index


def find_weights(model):
    """Every constant float32 tensor of two dimensions or more, in the order of the readers."""
    found, taken = [], set()
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
                        name=flatbuffer.unique_name(flatbuffer.layer_name(tensor), taken),
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
    name = model.operator_name(operator)
    if name == "GATHER":
        return 0  # reads a few rows of the table
    data = operator.inputs[2] if name == "TRANSPOSE_CONV" else operator.outputs[0]
    shape = flatbuffer.tensor_shape(graph.tensors[data])
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
        values = next((values for values in found if values is not None), None)
        if values is not None and not np.array_equal(values, weight.values):
            tensor = model.subgraphs[weight.graph].tensors[weight.index]
            tensor.buffer = model.add_buffer(np.ascontiguousarray(values))
            moved.add(weight.key)
    return (model.to_bytes() if moved else content), moved
