"""Tables of rows, such as embeddings, of which only the rows that are asked for are decoded.

1 bit direct              rows of {-s, s}: a byte picks eight signs
int2, int4, int8 direct   rows on a grid k * s, one scale for each row
int2, int4 direct table   rows of any 4 or 16 levels: codes, and for each row a list of levels
"""

import dataclasses

import numpy as np

from tf_proxquant.litert.forms.codes import find_codes
from tf_proxquant.litert.forms.form import OPERATOR_BYTES, Rows
from tf_proxquant.litert.read import levels

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

    @property
    def name(self):
        """Of the form, as the report shows it."""
        kind = "1 bit" if self.bits == 1 else f"int{self.bits}"
        return f"{kind} direct" + (" table" if self.levels is not None else "")


def encode_rows(weights, shared_bits=None):
    """The smallest `Rows` form that gives float32 `weights` (rows, columns) exactly, or None.

    With `shared_bits`, a dense layer reads the same weights: the first grid from so many bits on,
    which it will take too, unless a list of four levels is smaller than one more grid.
    """
    table = find_table(weights, shared_bits)
    if table is None:
        return None
    is_grid = table.bits > 1 and table.levels is None
    num_bytes = table.num_bytes + OPERATOR_BYTES * (3 if is_grid else 10)
    return Rows(table.name, table.bits, num_bytes, keeps_xnnpack=True, table=table)


def find_table(weights, shared_bits=None):
    """The `Table` of `encode_rows`."""
    # Rows of whole bytes.
    widths = [bits for bits in (2, 4, 8) if weights.shape[1] * bits % 8 == 0]
    found = [table for table in (_find_grid(weights, bits) for bits in widths) if table]
    lists = [_find_signs(weights), *(_list_levels(weights, b) for b in widths if b < 8)]
    shared = [table for table in found if shared_bits and table.bits >= shared_bits]
    few_levels = any(table is not None and table.bits <= 2 for table in lists)
    if shared and (shared_bits > 2 or not few_levels or shared[0].bits < 8):
        return shared[0]
    found += [table for table in lists if table is not None]
    return min(found, key=lambda table: table.num_bytes, default=None)


def _find_grid(weights, bits):
    """See `find_codes`; one scale for all rows where that does."""
    for axis in (None, 0):
        found = find_codes(weights, bits, axis)
        if found is not None:
            return Table(bits, found.scales, found.codes)
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
