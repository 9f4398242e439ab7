"""What was trained on few levels and is not stored so: said loudly, with the remedy."""

import re
import warnings
from typing import Any

import keras
import numpy as np

from tf_proxquant.litert.plan.plan import NO_FORM
from tf_proxquant.litert.summarizing import summary
from tf_proxquant.quantizers import groups

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
    on_the_way = find_on_the_way(model)
    if on_the_way:
        _say(f"{on_the_way} Received: profile={report.profile!r}", strict)
        return
    lost = find_lost(report, model)
    if not lost:
        return
    share = sum(row.bytes_after for row, _ in lost) / report.bytes
    listed = "; ".join(f"{row.name} ({reason})" for row, reason in lost[:5])
    more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
    message = (
        f"{len(lost)} weight tensors with few levels stay float, {100 * share:.0f} % of the file: "
        f"{listed}{more}. {_remedy(lost, report.profile)}. Received: profile={report.profile!r}"
    )
    _say(message, strict)


def _remedy(lost, profile):
    if all(reason == NO_FORM for _, reason in lost):
        return 'Take another profile: "fast" and "small" store more kinds of layers'
    return REMEDY if profile == "small" else f'{REMEDY}, or take profile="small"'


def _say(message, strict):
    if strict:
        raise ValueError(f"{message}, strict=True. Nothing was written.")
    warnings.warn(message, stacklevel=4)


def find_on_the_way(model):
    """A sentence on the weights that the model's optimizer has not brought to their levels yet.

    They are stored as float, for they are on no levels. "" where there are none, or where no
    optimizer of this package has been at work.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if not hasattr(optimizer, "quantized_variables") or not optimizer.built:
        return ""
    selected = optimizer.quantized_variables
    names = [
        variable.path
        for (variable, quantizer), pair in zip(selected, optimizer.grid(), strict=True)
        if not _is_at_its_levels(quantizer, *pair)
    ]
    if not names:
        return ""
    step, freeze_step = int(keras.ops.copy(optimizer.iterations)), optimizer.freeze_step
    when = f"step {step} of freeze_step={freeze_step}" if freeze_step else "no freeze_step is set"
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (
        f"{len(names)} of {len(selected)} tensors that the optimizer quantizes are not on their "
        f"levels, and are stored as float: {listed} ({when}). Train on until they are, or call "
        "pq.snap(model) first."
    )


def _is_at_its_levels(quantizer, weights, nearest):
    """Whether weights are at their levels, or at as few values that fit levels less well.

    Levels fitted anew to weights that are on some are others by rounding, and not always the same.
    """
    tolerance = 1e-6 if weights.dtype.name in ("float32", "float64") else 1e-2
    wide, near = weights.astype("float64"), nearest.astype("float64")
    if np.all(np.abs(wide - near) <= tolerance * np.max(np.abs(near), initial=0)):
        return True
    rows = np.sort(groups.as_rows(wide, quantizer.axis), axis=1)
    distinct = 1 + np.count_nonzero(np.diff(rows, axis=1), axis=1)
    return distinct.max() <= quantizer.levels(weights).shape[-1]


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
