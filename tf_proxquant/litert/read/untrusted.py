"""Loads .tflite bytes from anywhere: what is not well-formed is a ValueError, never a crash.

Python reads out of bounds as exceptions, so two dangers remain, both checked here: tables that are
shared to make a small file unpack into a huge one, and indices that lead outside their lists.
"""

import struct

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tf_proxquant.litert.read import flatbuffer

MIN_TABLE_BYTES = 8  # a table and the offset to it
_MALFORMED = (
    struct.error,
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    AttributeError,
    MemoryError,
)


def load(content, name="the file"):
    """`flatbuffer.Model` of bytes that nobody has checked.

    Args:
      content: bytes.
      name: for the messages.

    Raises: ValueError: saying what is wrong with the file.
    """
    content = bytes(content)
    if len(content) < 8:
        raise ValueError(f"{name} is no .tflite file: it has {len(content)} bytes.")
    if content[4:8] != flatbuffer.FILE_IDENTIFIER:
        raise ValueError(
            f"{name} is no .tflite file: bytes 4 to 8 must be 'TFL3'. Received: {content[4:8]!r}"
        )
    try:
        _check_counts(schema.Model.GetRootAs(content), len(content) // MIN_TABLE_BYTES)
        model = flatbuffer.Model(content)
        _check_indices(model)
    except _MALFORMED as error:
        raise ValueError(f"{name} is damaged or truncated: {error}") from error
    return model


def _check_counts(model, limit):
    """Refuses more tables than the file has room for."""
    left = limit
    for size in (model.OperatorCodesLength(), model.BuffersLength(), model.SubgraphsLength()):
        left = _spend(left, size)
    left = _spend(left, model.SignatureDefsLength() + model.MetadataLength())
    left = _spend(left, model.ExternalBuffersLength() + model.ExternalBufferGroupsLength())
    for i in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(i)
        left = _spend(left, signature.InputsLength() + signature.OutputsLength())
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        left = _spend(left, graph.TensorsLength() + graph.OperatorsLength())
        for j in range(graph.TensorsLength()):
            left = _spend(left, _nested_tables(graph.Tensors(j)))


def _nested_tables(tensor):
    sparsity = tensor.Sparsity()
    return tensor.VariantTensorsLength() + (sparsity.DimMetadataLength() if sparsity else 0)


def _spend(left, count):
    if count > left:
        raise ValueError("it claims more tables than it has room for")
    return left - count


def _check_indices(model):
    contents = model.model
    if not model.subgraphs:
        raise ValueError("it has no subgraph")
    for graph in model.subgraphs:
        count = len(graph.tensors)
        for tensor in graph.tensors:
            _check_range("buffer", [tensor.buffer], 0, len(contents.buffers))
            if tensor.shape is not None and (np.asarray(tensor.shape) < 0).any():
                raise ValueError(f"a tensor has the shape {flatbuffer.tensor_shape(tensor)}")
        for operator in graph.operators:
            _check_range("opcode", [operator.opcodeIndex], 0, len(contents.operatorCodes or ()))
        for holder in (graph, *graph.operators):
            for field in ("inputs", "outputs", "intermediates"):
                _check_range("tensor", getattr(holder, field, None), -1, count)
    for signature in contents.signatureDefs or ():
        _check_range("subgraph", [signature.subgraphIndex], 0, len(model.subgraphs))
        entries = [*(signature.inputs or ()), *(signature.outputs or ())]
        count = len(model.subgraphs[signature.subgraphIndex].tensors)
        _check_range("tensor", [entry.tensorIndex for entry in entries], 0, count)


def _check_range(kind, indices, low, high):
    indices = np.asarray([] if indices is None else indices, np.int64)
    if ((indices < low) | (indices >= high)).any():
        raise ValueError(f"a {kind} index is outside {low} .. {high - 1}")
