"""Operators that decode a weight, before its first reader."""

from tf_proxquant.litert.write.writer import Decoder


def replace(model, weight, form):
    """Stores `weight` as a `Decoded` form; its readers stay as they are.

    Returns: list of (subgraph, tensor index, values) to find in the file.
    """
    graph = model.subgraphs[weight.graph]
    decoder = Decoder(model, graph, weight.index, weight.name)
    form.write(decoder)
    decoder.insert_before(next(op for op in graph.operators if weight.index in op.inputs))
    values = weight.values if form.values is None else form.values
    return [(weight.graph, weight.index, values)]
