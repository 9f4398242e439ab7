"""The report of any .tflite file, read without running it."""

import dataclasses
import os
import pathlib
import zlib

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType

from tf_proxquant import packing
from tf_proxquant.litert import interface
from tf_proxquant.litert.forms import decoding
from tf_proxquant.litert.read import flatbuffer, untrusted
from tf_proxquant.litert.read.convert import MissingFileError
from tf_proxquant.litert.report import ExportReport, TensorRow
from tf_proxquant.litert.write.writer import SIGN_ROWS
from tf_proxquant.typing import PathLike


def inspect(path: PathLike) -> ExportReport:
    """Says how every weight of a .tflite file is stored.

    Nothing from the file is run, and every offset, index and size is checked before it is followed.

    Args:
      path: of the file.

    Returns: `ExportReport`; print it for the table. `float_bytes` is None: the float file is not
      there to compare with.
    Raises: MissingFileError (a FileNotFoundError and a ValueError): if there is no such file.
      ValueError: if it is empty, truncated, damaged, or not a .tflite file.
    """
    path = pathlib.Path(os.fspath(path))
    if not path.is_file():
        raise MissingFileError(f"There is no file at {str(path)!r}.")
    content = path.read_bytes()
    model = untrusted.load(content, str(path))
    try:
        rows = rows_of(model, len(content))
        inputs, outputs, notes = interface.describe(model, content)
    except (ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return ExportReport(
        path=str(path),
        profile="",
        bytes=len(content),
        float_bytes=None,
        gzip_bytes=len(zlib.compress(content, 6)),
        rows=tuple(rows),
        notes=notes,
        inputs=inputs,
        outputs=outputs,
    )


def rows_of(model, num_bytes):
    """List of `TensorRow`, one for each weight of a `flatbuffer.Model` of so many bytes."""
    limit = decoding.MAX_EXPANSION * num_bytes
    return [row for graph in model.subgraphs for row in _graph_rows(model, graph, limit)]


def _graph_rows(model, graph, limit):
    """Rows for what operators on data read that is made of constants of two or more dimensions."""
    decoded = decoding.decode_graph(model, graph, limit)
    made = {int(o) for op in graph.operators for o in op.outputs if int(o) in decoded}
    readers = {}
    for operator in graph.operators:
        if made.issuperset(int(o) for o in operator.outputs) and len(operator.outputs):
            continue
        for index in () if operator.inputs is None else operator.inputs:
            if int(index) in decoded and decoded[int(index)].values.ndim > 1:
                readers.setdefault(int(index), []).append(operator)
    rows = []
    for index, operators in readers.items():
        if np.array_equal(decoded[index].values, SIGN_ROWS):
            continue
        names = tuple(map(model.operator_name, operators))
        if graph.tensors[index].type == TensorType.UINT8 and "GATHER" in names:
            rows.append(_bit_row(graph.tensors[index], decoded[index].values, names))
        elif decoded[index].values.dtype.kind == "f" or graph.tensors[index].quantization:
            makes_codes = any(graph.tensors[o.outputs[0]].type in _CODES for o in operators)
            rows.append(_row(model, graph, index, decoded[index], names, makes_codes))
    return _with_scales(rows)


_CODES = TensorType.INT8, TensorType.INT16


def _with_scales(rows):
    """Joins a table and the scale of each of its rows, which are looked up beside it."""
    tables, scales = [], []
    for row in rows:
        is_scale = row.shape[1:] == (1,) and row.form == "float32" and row.name.isdigit()
        (scales if is_scale and row.operators == ("GATHER",) else tables).append(row)
    for scale in scales:
        found = [i for i, t in enumerate(tables) if _may_have(t, scale)]
        if not found:
            tables.append(scale)
            continue
        table = tables[found[0]]
        num_bytes = table.bytes_after + scale.bytes_after
        tables[found[0]] = dataclasses.replace(table, form="int8 scaled", bytes_after=num_bytes)
    return tables


def _may_have(table, scale):
    is_table = table.form.startswith("int8") and "scaled" not in table.form
    return is_table and table.shape[:1] == scale.shape[:1] and "GATHER" in table.operators


def _row(model, graph, index, stored, readers, makes_codes):
    constants = [graph.tensors[i] for i in stored.constants]
    num_bytes = sum(model.constant(t).size + _scale_bytes(t) for t in constants)
    packed = sum(model.constant(t).size for t in constants if t.type in decoding.PACKED)
    form = decoding.form_name(stored, model, graph)
    if not stored.operators and form != "float32":
        form += " static" if makes_codes else " direct"
    values = np.asarray(stored.values, np.float32)
    name = _name(constants[0]) or _name(graph.tensors[index])
    return TensorRow.of(
        values,
        name=name,
        operators=readers,
        form=form,
        bits=_bits(form, packed, values.size),
        bytes_after=num_bytes,
    )


def _bit_row(tensor, packed, readers):
    """A table of bytes that rows are picked from: see `lookup`."""
    bits = packing.unpack_codes(packed.reshape(-1), 1, 8 * packed.size)
    signs = 2 * bits.reshape(len(packed), -1).astype(np.float32) - 1
    return TensorRow.of(
        signs,
        name=_name(tensor),
        operators=readers,
        form="1 bit direct",
        bits=1,
        bytes_after=packed.size,
    )


def _name(tensor):
    """What an export called the weight; of another file, its layer and operation."""
    name = (tensor.name or b"").decode("utf-8", "replace")
    return flatbuffer.layer_name(tensor) if ";" in name else name


def _scale_bytes(tensor):
    parameters = tensor.quantization
    return 0 if parameters is None or parameters.scale is None else 4 * len(parameters.scale)


def _bits(form, packed, count):
    if form == "1 bit" or form.endswith("bit table"):
        return int(form[0])
    return round(8 * packed / count, 2) if packed and count else 32
