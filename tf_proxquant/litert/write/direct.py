"""Layers over integer weights: the codes are multiplied as they are, never made floats.

The float input is rounded to 8 bits at run time, row by row, so that outputs carry the rounding of
the activations, and the weights none.
"""

from ai_edge_litert.schema_py_generated import BuiltinOperator

from tf_proxquant.litert.read import weights
from tf_proxquant.litert.write.writer import Writer

# The operator versions that read such weights, by their bits.
VERSIONS = {
    "FULLY_CONNECTED": (BuiltinOperator.FULLY_CONNECTED, {8: 12, 4: 12, 2: 14}),
    "CONV_2D": (BuiltinOperator.CONV_2D, {8: 5}),
}


def replace(model, weight, form):
    """Feeds the codes of a `Direct` form to the layers that read `weight`.

    Returns: list of (subgraph, index of the codes, values).
    """
    graph, found = model.subgraphs[weight.graph], form.codes
    writer = Writer(model, graph, weight.name)
    stored = writer.integers(found.codes, found.scales, found.bits, found.axis)
    for operator in weights.find_readers(graph)[weight.index]:
        builtin, versions = VERSIONS[model.operator_name(operator)]
        operator.inputs[1] = stored
        operator.opcodeIndex = model.opcode_index(builtin, versions[found.bits])
        if builtin == BuiltinOperator.FULLY_CONNECTED:
            operator.builtinOptions.asymmetricQuantizeInputs = True
    return [(weight.graph, stored, weight.values)]
