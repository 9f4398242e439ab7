"""The dynamic profile: integer weights straight into dense layers.

FULLY_CONNECTED over intN weights rounds its float input to 8 bits at run time and multiplies
integers: no float copy of the weights is ever made, but the outputs carry the rounding of the
activations. Convolutions are left alone: over int2 weights they return garbage without an error.
"""

from ai_edge_litert.schema_py_generated import BuiltinOperator

from tf_proxquant.litert.forms import encodings as forms
from tf_proxquant.litert.report import TensorRow
from tf_proxquant.litert.write import lookup, rewrite

FULLY_CONNECTED_VERSIONS = {8: 12, 4: 12, 2: 14}
NOTES = ("activations of dense layers are rounded to 8 bits at run time",)


def prepare(model, dense_bits=4):
    """Turns dense layers of a float model, and its tables, over to integer weights.

    Args:
      model: `flatbuffer.Model`, edited in place.
      dense_bits: the fewest bits for the weights of a dense layer, 2, 4 or 8.

    Returns: (list of `TensorRow`, list of `rewrite.Weight` with the index of the integer tensor).
    """
    rows, weights = lookup.prepare(model, dense_bits=dense_bits)
    for weight in rewrite.find_weights(model):
        graph = model.subgraphs[weight.graph]
        readers = rewrite.find_readers(graph)[weight.index]
        if not all(_is_dense(model, weight, reader) for reader in readers):
            continue
        found = _smallest_codes(weight.values, dense_bits)
        if found is None:
            continue
        bits, scales, codes = found
        stored = forms.Decoder(model, graph, weight.index).integers(codes, scales, bits, 0)
        for operator in readers:
            _feed(model, operator, stored, bits)
        weights.append(
            rewrite.Weight(weight.graph, stored, weight.name, weight.values, weight.consumers)
        )
        rows.append(_row(weight, bits, scales))
    return rows, weights


def _is_dense(model, weight, operator):
    """Whether an operator reads the tensor as the weights of a dense layer."""
    is_dense = model.operator_name(operator) == "FULLY_CONNECTED" and weight.values.ndim == 2
    return is_dense and weight.index == operator.inputs[1] and weight.index != operator.inputs[0]


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


def _feed(model, operator, stored, bits):
    operator.inputs[1] = stored
    operator.opcodeIndex = model.opcode_index(
        BuiltinOperator.FULLY_CONNECTED, FULLY_CONNECTED_VERSIONS[bits]
    )
    operator.builtinOptions.asymmetricQuantizeInputs = True


def _row(weight, bits, scales):
    return TensorRow.of(
        weight.values,
        name=weight.name,
        operators=weight.consumers,
        form=f"int{bits} direct",
        bits=bits,
        bytes_after=-(-weight.values.size * bits // 8) + scales.nbytes,
    )
