"""What a form is: the ways in which one tensor is stored and read, each without loss."""

import dataclasses
from collections.abc import Callable

import numpy as np

# Bytes of a tensor, an operator and their vectors in a file without names, measured on such files.
OPERATOR_BYTES = 90


@dataclasses.dataclass(frozen=True)
class Form:
    """How a tensor is stored.

    Attributes:
      name: as the report shows it.
      bits: stored bits per weight, without scales and tables.
      num_bytes: bytes in the file, scales, tables and operators included (estimate).
      decode_cost: nanoseconds per weight and run that decoding takes, measured on x86; 0 for what
        the runtime decodes once.
      keeps_xnnpack: whether XNNPACK still computes the operator that reads the weights.
    """

    name: str
    bits: float
    num_bytes: int
    _: dataclasses.KW_ONLY
    decode_cost: float = 0.0
    keeps_xnnpack: bool = False

    @property
    def num_zero_points(self):
        """Zero points, 8 bytes each, that a file holds once for all tensors of as many channels."""
        codes = getattr(self, "codes", None)
        count = getattr(self, "num_scales", 1) if codes is None else codes.scales.size
        return 0 if count == 1 else count


@dataclasses.dataclass(frozen=True)
class Codes:
    """Integers with a scale for each channel: weight = float32(scale * code).

    Attributes:
      bits: 8, 4 or 2.
      scales: float32 (channels,), or (1,) for one scale.
      codes: int8, shape of the weights.
      axis: of the channels; None for one scale.
    """

    bits: int
    scales: np.ndarray
    codes: np.ndarray
    axis: int | None

    @property
    def num_bytes(self):
        """Codes and scales; for zero points see `Form.num_zero_points`."""
        return -(-self.codes.size * self.bits // 8) + self.scales.nbytes


@dataclasses.dataclass(frozen=True)
class Decoded(Form):
    """Constants, and operators that make the float tensor of them before its first reader.

    Attributes:
      write: function (`write.writer.Decoder`) -> None that adds constants and operators.
      num_scales: of the DEQUANTIZE that makes the tensor by itself.
      values: what is decoded, where that is not the weight bit for bit.
    """

    write: Callable
    num_scales: int = 1
    values: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Product(Form):
    """A convolution as a matrix product over a decoded matrix, see `write.matmul`.

    Attributes:
      matrix: `Decoded` form of the weights as (outputs, K).
    """

    matrix: Decoded


@dataclasses.dataclass(frozen=True)
class Direct(Form):
    """Codes that a dense layer or a convolution multiplies as they are, see `write.direct`."""

    codes: Codes


@dataclasses.dataclass(frozen=True)
class Scaled(Form):
    """Codes as floats in the operator, the channel's scale behind it, see `write.scaled`."""

    codes: Codes
    num_zero_points = 0


@dataclasses.dataclass(frozen=True)
class Offset(Form):
    """Codes of a dense layer whose offset is added behind it, see `write.offset`.

    Attributes:
      codes: weight = float32(scale * code) + offset.
      offsets: float32 (channels,).
    """

    codes: Codes
    offsets: np.ndarray


@dataclasses.dataclass(frozen=True)
class Recoded(Form):
    """Codes in place of those of a file that is integer already, see `write.recoded`."""

    codes: Codes


@dataclasses.dataclass(frozen=True)
class Rows(Form):
    """A table whose rows are decoded when they are asked for, see `write.lookup`.

    Attributes:
      table: `forms.tables.Table`.
    """

    table: object
