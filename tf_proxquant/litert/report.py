"""What an export did, tensor by tensor: printed as a table, `to_dict` for machines."""

import dataclasses
import html
from typing import Any

import numpy as np

from tf_proxquant.litert.interface import Edge
from tf_proxquant.litert.read import levels

# Reasons for float weights that lose nothing.
TOO_SMALL = "too small to gain"
COSTS_TIME = "a product for each channel would cost more time than its bytes are worth"
KEPT_ON_PURPOSE = (TOO_SMALL, COSTS_TIME)
ALREADY = "stored so in the source, and left so"

_HEADER = ("tensor", "read by", "shape", "levels", "form", "bits", "bytes", "was", "remark")


@dataclasses.dataclass(frozen=True)
class TensorRow:
    """One weight tensor of a file.

    Attributes:
      name: layer and operation in the converted file, "" where names are stripped.
      operators: names of the operators that read it.
      shape: of the weights.
      num_levels: distinct values per channel, the largest of any channel; where channels are too
        short to tell, the distinct codes of all of them; None if above 255.
      axis: channel axis of the levels; None for one set.
      form: "float32", "int8", ...
      bits: stored bits per weight, without scales.
      bytes_before: in the float file.
      bytes_after: in this file, scales and decoding operators included (estimate).
      reason: why it stayed float, or a remark; "" if there is none.
    """

    name: str
    operators: tuple[str, ...]
    shape: tuple[int, ...]
    num_levels: int | None
    axis: int | None
    form: str
    bits: float
    bytes_before: int
    bytes_after: int
    reason: str = ""

    @classmethod
    def of(cls, values: np.ndarray, form: str, **fields: Any) -> "TensorRow":
        """A row for a weight with these float32 values: shape, levels and size are theirs."""
        axis, num_levels = levels.count_levels(values)
        if axis is None and not form.startswith("float"):
            counted = levels.count_codes(values)
            if counted[1] is not None and (num_levels is None or counted[1] < num_levels):
                axis, num_levels = counted
        return cls(
            shape=values.shape,
            form=form,
            axis=axis,
            num_levels=num_levels,
            bytes_before=4 * values.size,
            **fields,
        )

    @classmethod
    def of_change(cls, change: Any, remark: str = "") -> "TensorRow":
        """The row of a `plan.Change`."""
        weight, form = change.weight, change.form
        return cls.of(
            weight.values,
            name=weight.name,
            operators=change.read_by,
            form=form.name if form else "float32",
            bits=form.bits if form else 32,
            bytes_after=form.num_bytes if form else weight.values.nbytes,
            reason=change.reason or remark,
        )

    @property
    def is_left_float(self) -> bool:
        """Whether few levels are stored as floats although their bytes matter."""
        has_levels = self.num_levels is not None
        return has_levels and self.form == "float32" and self.reason not in KEPT_ON_PURPOSE


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """A .tflite file, weight by weight.

    Attributes:
      path: of the file.
      profile: that wrote it; "" if unknown.
      bytes: size of the file.
      float_bytes: size of the float file it was made from; None if unknown.
      gzip_bytes: size of the file after deflate at level 6, as gzip does.
      rows: tuple of `TensorRow`, in the order of the file.
      errors: dict {kernel set: largest output difference over largest output}, against the float
        file on the same kernels and against the Keras model; empty if not verified.
      notes: remarks on the whole file, such as its measured latency.
      archive_bytes: size of the archive beside the file; None if there is none.
      inputs: tuple of `Edge`, what goes into the file.
      outputs: tuple of `Edge`, what comes out.
    """

    path: str
    profile: str
    bytes: int
    float_bytes: int | None
    gzip_bytes: int
    rows: tuple[TensorRow, ...]
    errors: dict = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    archive_bytes: int | None = None
    inputs: tuple[Edge, ...] = ()
    outputs: tuple[Edge, ...] = ()

    @property
    def graph_bytes(self) -> int:
        """What is no weight: operators, tensors, biases, names and metadata."""
        return self.bytes - sum(row.bytes_after for row in self.rows)

    @property
    def max_error(self) -> float | None:
        """The largest of `errors`, or None if the file was not verified."""
        return max(self.errors.values()) if self.errors else None

    @property
    def ratio(self) -> float | None:
        """Size over the size of the float file, or None if that is unknown."""
        return self.bytes / self.float_bytes if self.float_bytes else None

    def to_dict(self) -> dict:
        """Plain numbers, strings, lists and dicts, ready for JSON."""
        return {
            **dataclasses.asdict(self),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "ratio": self.ratio,
            "max_error": self.max_error,
        }

    def __str__(self):
        lines = [_HEADER, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
        table.insert(1, "-" * max(len(line) for line in table))
        return "\n".join([*(line.rstrip() for line in table), *self._totals()])

    def _repr_html_(self):
        """The same table in a notebook."""
        rows = [_html_row("td", _cells(row)) for row in self.rows]
        table = f"<table>{_html_row('th', _HEADER)}{''.join(rows)}</table>"
        return table + "<br>".join(map(html.escape, self._totals()))

    def _totals(self):
        size = f"{self.bytes:,} bytes, {self.gzip_bytes:,} deflated"
        if self.ratio is not None:
            size += f"; float file {self.float_bytes:,} ({100 * self.ratio:.1f} %)"
        yield f"{self.path or 'the file'}: {size}"
        yield f"{self.graph_bytes:,} bytes of them are operators, biases and names"
        if self.errors:
            errors = ", ".join(f"{name} {error:.1e}" for name, error in self.errors.items())
            yield f"largest output error relative to the largest output: {errors}"
        if self.archive_bytes is not None:
            yield f"{self.path}.pqz: {self.archive_bytes:,} bytes"
        for what, edges in (("input", self.inputs), ("output", self.outputs)):
            yield from (f"{what} {edge}" for edge in edges)
        yield from self.notes


def _cells(row):
    return (
        row.name if len(row.name) <= 40 else "..." + row.name[-37:],
        ",".join(dict.fromkeys(row.operators)),
        "x".join(map(str, row.shape)),
        "-" if row.num_levels is None else str(row.num_levels),
        row.form,
        f"{row.bits:g}",
        f"{row.bytes_after:,}",
        f"{row.bytes_before:,}",
        row.reason,
    )


def _html_row(tag, cells):
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
