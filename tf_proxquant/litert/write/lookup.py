"""Tables of rows, such as embeddings: the rows that are asked for are decoded, never the table.

GATHER over a float table becomes EMBEDDING_LOOKUP over integer codes, which is exact and keeps no
float copy, or for one bit GATHER over bytes:

    1 bit direct              rows of {-s, s}: a byte picks eight signs
    int2, int4, int8 direct   rows on a grid k * s, one scale for each row
    int2, int4 direct table   rows of any 4 or 16 levels: codes, and for each row a list of levels
"""

import dataclasses

import numpy as np
from ai_edge_litert.schema_py_generated import (
    AddOptionsT,
    BuiltinOperator,
    CastOptionsT,
    GatherOptionsT,
    MulOptionsT,
    ReshapeOptionsT,
    StridedSliceOptionsT,
    TensorType,
)

from tf_proxquant import packing
from tf_proxquant.litert.forms import encodings as forms
from tf_proxquant.litert.forms.planes import sign_table
from tf_proxquant.litert.read import flatbuffer, levels
from tf_proxquant.litert.report import TensorRow
from tf_proxquant.litert.write import rewrite

LOOKUP_VERSIONS = {8: 4, 4: 4, 2: 5}
# Whole numbers that float32 can tell apart: places in a list of levels are computed in it.
_MAX_PLACES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Table:
    """How a table is stored.

    Attributes:
      bits: of a code.
      scales: float32 (rows,) of the codes; (1,) where one does for all, or levels are listed.
      codes: int8 (rows, columns); 0 for -s and 1 for s where `bits` is 1.
      levels: float32 (rows, at most 2^bits) that the codes, counted from the smallest, pick from;
        or None where a weight is scale * code.
    """

    bits: int
    scales: np.ndarray
    codes: np.ndarray
    levels: np.ndarray | None = None

    @property
    def num_bytes(self):
        listed = 0 if self.levels is None else self.levels.nbytes
        # With each of several scales of a quantized tensor goes a zero point of 8 bytes.
        scales = (12 if self.bits > 1 and self.scales.size > 1 else 4) * self.scales.size
        rows, columns = self.codes.shape
        return rows * -(-columns * self.bits // 8) + scales + listed


def prepare(model, few_weights=0, dense_bits=2):
    """Turns the lookups of a float model over to integer tables.

    Args:
      model: `flatbuffer.Model`, edited in place.
      few_weights: tables of at most so many weights are left, for the operators take their room.
      dense_bits: the fewest bits of the form that a dense layer may give to a table that it
        shares, so that one form serves both and is stored once.

    Returns: (list of `TensorRow`, list of `rewrite.Weight` whose index is that of the rows looked
      up), of the tables that are on a grid or have few levels.
    """
    rows, weights = [], []
    for weight in rewrite.find_weights(model):
        graph = model.subgraphs[weight.graph]
        lookups = [
            operator
            for operator in rewrite.find_readers(graph)[weight.index]
            if _is_lookup(model, graph, weight, operator)
        ]
        is_small = weight.values.size <= few_weights
        if not lookups or is_small:
            continue
        is_shared = len(lookups) < len(weight.consumers)
        table = encode(weight.values, dense_bits if is_shared else None)
        if table is None:
            continue
        decoder = forms.Decoder(model, graph, weight.index)
        stored = _store(decoder, table)
        for operator in lookups:
            found = _replace(decoder, operator, table, stored)
            weights.append(dataclasses.replace(weight, index=found))
        rows.append(_row(weight, table))
    return rows, weights


def encode(weights, shared_bits=None):
    """The smallest `Table` that gives float32 `weights` (rows, columns) exactly, or None.

    With `shared_bits`, a dense layer reads the same weights: the first grid from so many bits on,
    which it will take too, unless a list of four levels is smaller than one more grid.
    """
    # Rows of whole bytes.
    widths = [bits for bits in (2, 4, 8) if weights.shape[1] * bits % 8 == 0]
    grids = [(bits, _find_codes(weights, bits)) for bits in widths]
    found = [Table(bits, *grid) for bits, grid in grids if grid is not None]
    lists = [_find_signs(weights), *(_list_levels(weights, b) for b in widths if b < 8)]
    shared = [table for table in found if shared_bits and table.bits >= shared_bits]
    few_levels = any(table is not None and table.bits <= 2 for table in lists)
    if shared and (shared_bits > 2 or not few_levels or shared[0].bits < 8):
        return shared[0]
    found += [table for table in lists if table is not None]
    return min(found, key=lambda table: table.num_bytes, default=None)


def _find_codes(weights, bits):
    """See `forms.find_codes`; one scale for all rows where that does."""
    for axis in (None, 0):
        grid = forms.find_codes(weights, bits, axis)
        if grid is not None:
            return grid
    return None


def _find_signs(weights):
    found = levels.read_levels(weights, 0, 2)
    if found is None or (found.values[:, 0] != -found.values[:, -1]).any():
        return None
    scales = found.values[:, -1]
    scales = scales[:1] if (scales == scales[0]).all() else scales
    return Table(1, scales, (weights > 0).astype(np.int8))


def _list_levels(weights, bits):
    if len(weights) << bits > _MAX_PLACES:
        return None
    found = levels.read_levels(weights, 0, 1 << bits)
    if found is None:
        return None
    codes = levels.index_levels(weights, found).astype(np.int16) - (1 << (bits - 1))
    return Table(bits, np.ones(1, np.float32), codes.astype(np.int8), found.values)


def _is_lookup(model, graph, weight, operator):
    """Whether an operator is a GATHER of whole rows of a table."""
    if model.operator_name(operator) != "GATHER" or weight.values.ndim != 2:
        return False
    options = operator.builtinOptions
    places = graph.tensors[operator.inputs[1]]
    output = graph.tensors[operator.outputs[0]]
    signature = output.shape if output.shapeSignature is None else output.shapeSignature
    is_plain = options is None or (options.axis == 0 and options.batchDims == 0)
    # RESHAPE can leave one dimension open.
    can_reshape = sum(int(n) < 0 for n in signature) <= 1
    return is_plain and places.type == TensorType.INT32 and can_reshape


def _store(decoder, table):
    """Adds the codes of a table; one-bit rows begin with a byte of their own."""
    if table.bits > 1:
        return decoder.integers(table.codes, table.scales, table.bits, 0)
    rows, columns = table.codes.shape
    padded = np.pad(table.codes, ((0, 0), (0, -columns % 8)))
    packed = packing.pack_codes(padded.reshape(-1), 1)
    return decoder.constant(packed.reshape(rows, -1), TensorType.UINT8)


def _replace(decoder, operator, table, stored):
    """GATHER becomes RESHAPE to a list -> lookup of integers -> RESHAPE back.

    Returns: index of the tensor of the rows, (places, columns).
    """
    graph = decoder.graph
    writer = _Writer(decoder.model, graph)
    places, output = int(operator.inputs[1]), int(operator.outputs[0])
    shape = flatbuffer.tensor_shape(graph.tensors[output])
    count = int(np.prod(shape[:-1]))
    size = (count, shape[-1])
    flat = writer.reshape(places, (count,), [-1], TensorType.INT32)
    if table.bits == 1:
        rows = _pick_signs(writer, table, flat, stored, sign_table(decoder), size)
    else:
        version = LOOKUP_VERSIONS[table.bits]
        rows = writer.apply(BuiltinOperator.EMBEDDING_LOOKUP, [flat, stored], size, version=version)
    if table.levels is not None:
        rows = _pick_levels(writer, table, flat, rows, size)
    signature = graph.tensors[output].shapeSignature
    target = shape if signature is None else signature
    writer.reshape(rows, shape, target, TensorType.FLOAT32, output)
    first = graph.operators.index(operator)
    graph.operators[first : first + 1] = writer.operators
    return rows


def _pick_signs(writer, table, flat, stored, signs, size):
    """Rows of bytes, then of signs, then of weights; what pads the last byte is cut off."""
    count, columns = size
    width = -(-columns // 8)
    gather = BuiltinOperator.GATHER
    picked = writer.apply(
        gather, [stored, flat], (count, width), GatherOptionsT(), type_=TensorType.UINT8
    )
    picked = writer.apply(
        BuiltinOperator.CAST, [picked], (count, width), CastOptionsT(), type_=TensorType.INT32
    )
    rows = writer.apply(gather, [signs, picked], (count, width, 8), GatherOptionsT())
    rows = writer.reshape(rows, (count, 8 * width), [-1, 8 * width], TensorType.FLOAT32)
    if columns % 8:
        cut = [writer.constant(np.int32(v), TensorType.INT32) for v in ([0, 0], size, [1, 1])]
        options = StridedSliceOptionsT()
        options.endMask = 1  # all places, however many there are
        rows = writer.apply(BuiltinOperator.STRIDED_SLICE, [rows, *cut], size, options)
    scales = writer.constant(table.scales)
    if len(table.scales) > 1:
        places = writer.reshape(flat, (count, 1), [-1, 1], TensorType.INT32)
        scales = writer.apply(gather, [scales, places], (count, 1), GatherOptionsT())
    return writer.apply(BuiltinOperator.MUL, [rows, scales], size, MulOptionsT())


def _pick_levels(writer, table, flat, codes, size):
    """Rows of codes to rows of levels: GATHER at row * width + code in the list of all levels."""
    width = np.float32(table.levels.shape[1])
    starts = writer.apply(
        BuiltinOperator.CAST, [writer.reshape(flat, (size[0], 1), [-1, 1], TensorType.INT32)],
        (size[0], 1), CastOptionsT(),
    )  # fmt: skip
    for builtin, number, options in (
        (BuiltinOperator.MUL, width, MulOptionsT()),
        (BuiltinOperator.ADD, np.float32(1 << (table.bits - 1)), AddOptionsT()),
    ):
        starts = writer.apply(builtin, [starts, writer.constant(number)], (size[0], 1), options)
    places = writer.apply(BuiltinOperator.ADD, [codes, starts], size, AddOptionsT())
    places = writer.apply(
        BuiltinOperator.CAST, [places], size, CastOptionsT(), type_=TensorType.INT32
    )
    listed = writer.constant(table.levels.reshape(-1))
    return writer.apply(BuiltinOperator.GATHER, [listed, places], size, GatherOptionsT())


class _Writer:
    """Collects new operators of a graph."""

    def __init__(self, model, graph):
        self.model, self.graph, self.operators = model, graph, []

    def constant(self, value, type_=TensorType.FLOAT32):
        value = np.atleast_1d(value)
        return self.model.add_tensor(self.graph, value.shape, type_, value)

    def apply(self, builtin, inputs, shape, options=None, *, version=1, type_=None, output=None):
        """Adds an operator; returns its output, a new tensor unless it is given."""
        if output is None:
            type_ = TensorType.FLOAT32 if type_ is None else type_
            output = self.model.add_tensor(self.graph, shape, type_)
        self.operators.append(self.model.make_operator(builtin, version, inputs, [output], options))
        return output

    def reshape(self, source, shape, target, type_, output=None):
        """`shape` is that of the tensor, `target` what the operator is given: -1 is open."""
        target = self.constant(np.asarray(target, np.int32), TensorType.INT32)
        inputs = [source, target]
        return self.apply(
            BuiltinOperator.RESHAPE, inputs, shape, ReshapeOptionsT(), type_=type_, output=output
        )


def _row(weight, table):
    kind = "1 bit" if table.bits == 1 else f"int{table.bits}"
    is_grid = table.bits > 1 and table.levels is None
    return TensorRow.of(
        weight.values,
        name=weight.name,
        operators=("GATHER",),
        form=f"{kind} direct" + (" table" if table.levels is not None else ""),
        bits=table.bits,
        bytes_after=table.num_bytes + forms.OPERATOR_BYTES * (3 if is_grid else 10),
    )


def probe(content, number, wanted):
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
