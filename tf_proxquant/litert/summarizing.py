"""What low precision would save in a Keras model, variable by variable, before any export."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tf_proxquant.litert.read import levels


@dataclasses.dataclass(frozen=True)
class VariableRow:
    """One variable of a model.

    Attributes:
      path: of the variable.
      shape: its shape.
      num_levels: most distinct values of any channel; None if the values are no levels.
      axis: of the channels that keep their own levels; None for one set of levels.
      bits: fewest bits that tell the levels apart, or those of the dtype.
      num_bytes: memory now.
      packed_bytes: codes of `bits` bits and a float32 table of levels.
    """

    path: str
    shape: tuple[int, ...]
    num_levels: int | None
    axis: int | None
    bits: int
    num_bytes: int
    packed_bytes: int


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """Rows and totals of a model; prints as a table."""

    name: str
    rows: tuple[VariableRow, ...]

    @property
    def num_bytes(self):
        """Memory of all variables now."""
        return sum(row.num_bytes for row in self.rows)

    @property
    def packed_bytes(self):
        """Memory of all variables with the quantized ones packed."""
        return sum(row.packed_bytes for row in self.rows)

    def to_dict(self):
        """Plain numbers, strings, lists and dicts, ready for JSON."""
        totals = {"num_bytes": self.num_bytes, "packed_bytes": self.packed_bytes}
        return {**dataclasses.asdict(self), **totals}

    def __str__(self):
        lines = [("variable", "shape", "levels", "bits", "bytes", "packed")]
        lines += [_cells(row) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
        table.insert(1, "-" * len(table[0]))
        share = 100 * self.packed_bytes / max(self.num_bytes, 1)
        table.append(f"{self.num_bytes:,} bytes, packed {self.packed_bytes:,} ({share:.1f} %)")
        return "\n".join([f'Model: "{self.name}"', *(line.rstrip() for line in table)])


def summary(model: keras.Model, print_fn: Callable[[str], object] | None = print) -> ModelSummary:
    """Prints the weights, levels, bits and memory of each variable of a model.

    A variable counts as quantized if its values, as a whole or along one axis, are few: no more
    than half as many as there are weights that share them. The export reads levels again after
    BatchNorm is folded; see `export` for what a file takes.

    Args:
      model: a built `keras.Model`.
      print_fn: function that gets the table; None prints nothing.

    Returns: `ModelSummary`.
    Raises: ValueError: if the model is not built.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"summary takes a built keras.Model. Received: {model!r}")
    found = ModelSummary(model.name, tuple(_row(variable) for variable in model.weights))
    if print_fn is not None:
        print_fn(str(found))
    return found


def _row(variable):
    values = keras.ops.convert_to_numpy(variable.value)
    axis, num_levels = None, None
    if values.ndim > 1 and np.issubdtype(values.dtype, np.floating) and np.isfinite(values).all():
        axis, num_levels = levels.count_levels(values.astype(np.float32), axes=_axes(values.ndim))
    bits, packed_bytes = 8 * values.dtype.itemsize, values.nbytes
    if num_levels is not None:
        bits = max(1, int(np.ceil(np.log2(num_levels))))
        num_tables = 1 if axis is None else values.shape[axis]
        packed_bytes = -(-values.size * bits // 8) + 4 * num_levels * num_tables
    return VariableRow(
        path=variable.path,
        shape=values.shape,
        num_levels=num_levels,
        axis=axis,
        bits=bits,
        num_bytes=values.nbytes,
        packed_bytes=packed_bytes,
    )


def _axes(ndim):
    # Output channels, rows of a table, input channels of a depthwise kernel.
    return list(dict.fromkeys([None, ndim - 1, 0, ndim - 2]))


def _cells(row):
    return (
        row.path,
        "x".join(map(str, row.shape)),
        "-" if row.num_levels is None else str(row.num_levels),
        str(row.bits),
        f"{row.num_bytes:,}",
        f"{row.packed_bytes:,}",
    )
