"""The dynamic profile: integer weights straight into dense layers and embedding lookups.

FULLY_CONNECTED over intN weights rounds its float input to 8 bits at run time and multiplies
integers: no float copy of the weights is ever made, but the outputs carry the rounding of the
activations. Convolutions are left alone: over int2 weights they return garbage without an error.
"""

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator, ReshapeOptionsT, TensorType

from tf_proxquant.litert import flatbuffer, forms, rewrite
from tf_proxquant.litert.report import TensorRow

FULLY_CONNECTED_VERSIONS = {8: 12, 4: 12, 2: 14}
LOOKUP_VERSIONS = {8: 4, 4: 4, 2: 5}
NOTES = ("activations of dense layers are rounded to 8 bits at run time",)


def prepare(model, dense_bits=4):
    """Turns dense layers and embeddings of a float model over to integer weights.

    Args:
      model: `flatbuffer.Model`, edited in place.
      dense_bits: the fewest bits for the weights of a dense layer, 2, 4 or 8.

    Returns: (list of `TensorRow`, list of `rewrite.Weight` with the index of the integer tensor).
    """
    rows, weights = [], []
    for weight in rewrite.find_weights(model):
        graph = model.subgraphs[weight.graph]
        readers = rewrite.find_readers(graph)[weight.index]
        feed = _FEEDS.get(weight.consumers[0])
        if feed is None or not all(_fits(model, graph, weight, r) for r in readers):
            continue
        found = _smallest_codes(weight.values, dense_bits if feed is _feed_dense else 2)
        if found is None:
            continue
        bits, scales, codes = found
        stored = forms.Decoder(model, graph, weight.index).integers(codes, scales, bits, 0)
        for operator in readers:
            feed(model, graph, operator, stored, bits)
        weights.append(
            rewrite.Weight(weight.graph, stored, weight.name, weight.values, weight.consumers)
        )
        rows.append(_row(weight, bits, scales))
    return rows, weights


def _fits(model, graph, weight, operator):
    """Whether an operator reads the tensor as the weights of a dense layer or a table of rows."""
    name = model.operator_name(operator)
    if name != weight.consumers[0] or weight.values.ndim != 2:
        return False
    if name == "GATHER":
        options = operator.builtinOptions
        places = graph.tensors[operator.inputs[1]]
        output = graph.tensors[operator.outputs[0]]
        signature = output.shape if output.shapeSignature is None else output.shapeSignature
        is_plain = options is None or (options.axis == 0 and options.batchDims == 0)
        # RESHAPE can leave one dimension open.
        can_reshape = sum(int(n) < 0 for n in signature) <= 1
        return is_plain and places.type == TensorType.INT32 and can_reshape
    return weight.index == operator.inputs[1] and weight.index != operator.inputs[0]


def _smallest_codes(weights, min_bits):
    """(bits, scales, codes) with a scale for each row, or None off the grid."""
    for bits in (2, 4, 8):
        # XNNPACK reads rows in whole bytes.
        if bits < min_bits or weights.shape[1] * bits % 8:
            continue
        grid = forms.find_codes(weights, bits, axis=0)
        if grid is not None:
            return bits, *grid
    return None


def check_bits(dense_bits):
    """Refuses a `dense_bits` that no form has."""
    if dense_bits not in FULLY_CONNECTED_VERSIONS:
        raise ValueError(f"dense_bits must be 2, 4 or 8. Received: {dense_bits!r}")


def _feed_dense(model, graph, operator, stored, bits):
    operator.inputs[1] = stored
    operator.opcodeIndex = model.opcode_index(
        BuiltinOperator.FULLY_CONNECTED, FULLY_CONNECTED_VERSIONS[bits]
    )
    operator.builtinOptions.asymmetricQuantizeInputs = True


def _feed_lookup(model, graph, operator, stored, bits):
    """GATHER becomes RESHAPE to a list -> EMBEDDING_LOOKUP -> RESHAPE back."""
    places, output = int(operator.inputs[1]), int(operator.outputs[0])
    shape = flatbuffer.tensor_shape(graph.tensors[output])
    signature = graph.tensors[output].shapeSignature
    count = int(np.prod(shape[:-1]))
    flat = model.add_tensor(graph, (count,), TensorType.INT32)
    rows = model.add_tensor(graph, (count, shape[-1]), TensorType.FLOAT32)
    target = np.asarray(shape if signature is None else signature, np.int32)
    constants = [
        model.add_tensor(graph, (1,), TensorType.INT32, np.array([-1], np.int32)),
        model.add_tensor(graph, target.shape, TensorType.INT32, target),
    ]
    reshape, lookup = BuiltinOperator.RESHAPE, BuiltinOperator.EMBEDDING_LOOKUP
    first = graph.operators.index(operator)
    graph.operators[first : first + 1] = [
        model.make_operator(reshape, 1, [places, constants[0]], [flat], ReshapeOptionsT()),
        model.make_operator(lookup, LOOKUP_VERSIONS[bits], [flat, stored], [rows]),
        model.make_operator(reshape, 1, [rows, constants[1]], [output], ReshapeOptionsT()),
    ]


_FEEDS = {"FULLY_CONNECTED": _feed_dense, "GATHER": _feed_lookup}


def _row(weight, bits, scales):
    return TensorRow.of(
        weight.values,
        name=weight.name,
        operators=weight.consumers,
        form=f"int{bits} direct",
        bits=bits,
        bytes_after=-(-weight.values.size * bits // 8) + scales.nbytes,
    )
