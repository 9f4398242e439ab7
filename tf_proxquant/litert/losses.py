"""What was trained on few levels and is not stored so: said loudly, with the remedy."""

import re
import warnings

import keras

from tf_proxquant.litert.summarizing import summary

WRONG_AXIS = (
    "its levels in the model are gone in the file: BatchNorm was folded along another axis than "
    "that of the levels"
)
REMEDY = (
    "Train with levels that are whole multiples of one scale for each output channel: what every "
    "quantizer does by default with axis=-1 or None (integer_ratios=True, narrow_range=True)"
)


def tell(report, model, strict):
    """Warns of the tensors that have few levels and stay float, or raises where `strict`.

    Args:
      report: `ExportReport`.
      model: the `keras.Model` behind the file, or None.
      strict: whether to raise.

    Raises: ValueError: naming tensors, their share of the bytes and the remedy.
    """
    lost = find_lost(report, model)
    if not lost:
        return
    share = sum(row.bytes_after for row, _ in lost) / report.bytes
    listed = "; ".join(f"{row.name} ({reason})" for row, reason in lost[:5])
    more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
    small = "" if report.profile == "small" else ', or take profile="small"'
    message = (
        f"{len(lost)} weight tensors with few levels stay float, {100 * share:.0f} % of the file: "
        f"{listed}{more}. {REMEDY}{small}. Received: profile={report.profile!r}"
    )
    if strict:
        raise ValueError(f"{message}, strict=True. Nothing was written.")
    warnings.warn(message, stacklevel=3)


def find_lost(report, model):
    """List of (row, reason) of the tensors that were trained on few levels and stay float."""
    lost = [(row, row.reason) for row in report.rows if row.is_left_float]
    if not isinstance(model, keras.Model):
        return lost
    trained = {}
    for row in summary(model, None).rows:
        if row.num_levels is not None:
            layer = row.path.split("/")[-2] if "/" in row.path else row.path
            trained.setdefault(_size(row.shape), set()).add(layer)
    for row in report.rows:
        is_float = row.form == "float32" and row.num_levels is None
        if is_float and trained.get(_size(row.shape), set()) & _layers(row.name):
            lost.append((row, WRONG_AXIS))
    return lost


def _layers(name):
    """The names of Keras layers that the name of a tensor may mean: scopes get numbers behind."""
    parts = name.split("/")
    return {*parts, *(re.sub(r"_\d+$", "", part) for part in parts)}


def _size(shape):
    size = 1
    for length in shape:
        size *= length
    return size
