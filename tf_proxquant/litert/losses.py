"""What was trained on few levels and is not stored so: said loudly, with the remedy."""

import re
import warnings
from typing import Any

import keras
import numpy as np

from tf_proxquant.litert.plan.plan import NO_FORM, NO_GRID
from tf_proxquant.litert.report import ALREADY
from tf_proxquant.litert.summarizing import summary
from tf_proxquant.quantizers import groups

WRONG_AXIS = (
    "its levels in the model are gone in the file: BatchNorm was folded along another axis than "
    "that of the levels"
)
MIXED = (
    "its levels in the model are gone in the file: the layer multiplies or adds something to its "
    "kernel before it uses it"
)
LORA = "its levels in the model are gone in the file: LoRA adds a matrix of floats to its kernel"
PLACES = "levels of each place and channel, more scales than a tensor has channels"
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
    already = [row for row in report.rows if row.reason == ALREADY]
    if already:
        _say(
            f"{len(already)} of {len(report.rows)} weight tensors are not float32 in the source, "
            "and stay as they are there. To store them otherwise export the Keras model, or its "
            f"float .tflite. Received: profile={report.profile!r}",
            strict,
        )
    lost = find_lost(report, model)
    if not lost:
        return
    share = sum(row.bytes_after for row, _ in lost) / report.bytes
    by_reason = {}
    for row, reason in lost[:5]:
        by_reason.setdefault(reason, []).append(row.name)
    listed = "; ".join(f"{', '.join(names)} ({why})" for why, names in by_reason.items())
    more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
    message = (
        f"{len(lost)} weight tensors with few levels stay float, {100 * share:.0f} % of the file: "
        f"{listed}{more}. {_remedy(lost, report.profile)}. Received: profile={report.profile!r}"
    )
    _say(message, strict)


REMEDIES = {
    NO_FORM: 'Take another profile: "fast" and "small" store more kinds of layers',
    MIXED: "Let the layer apply such factors to its inputs or outputs, or leave it out of `select`",
    PLACES: (
        'Train it with the axis of its channels alone, such as axis=2 for "abc,bcd->abd", or with '
        'axis=None, or take profile="small"'
    ),
    LORA: (
        "Add the product of LoRA's matrices to the kernel of a layer without `lora_rank`, and "
        "quantize that"
    ),
}


def _remedy(lost, profile):
    general = REMEDY if profile == "small" else f'{REMEDY}, or take profile="small"'
    reasons = dict.fromkeys(reason for _, reason in lost)
    if NO_FORM in reasons and len(reasons) > 1:
        del reasons[NO_FORM]
    return ". ".join(dict.fromkeys(REMEDIES.get(reason, general) for reason in reasons))


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
    names = {layer.name for layer in model._flatten_layers()}
    owners = {id(row): _layers(row.name, names) for row in report.rows}
    placed = {layer.name for layer in model._flatten_layers() if _has_places(layer)}
    lost = [
        (row, PLACES if reason == NO_GRID and placed & owners[id(row)] else reason)
        for row, reason in lost
    ]
    trained = {}
    for row in summary(model, None).rows:
        if row.num_levels is not None:
            layer = row.path.split("/")[-2] if "/" in row.path else row.path
            trained.setdefault(layer, []).append(_size(row.shape))
    stored = [row for row in report.rows if not _is_unknown(row)]
    # A folded kernel may have the name of the BatchNorm or activation behind it.
    others = [_size(row.shape) for row in stored if not owners[id(row)].intersection(trained)]
    for layer, sizes in trained.items():
        missing = sum(sizes) - sum(_size(r.shape) for r in stored if layer in owners[id(r)])
        for size in sizes if missing > 0 else ():
            if size in others:
                others.remove(size)
                missing -= size
        unknown = [r for r in report.rows if _is_unknown(r) and layer in owners[id(r)]]
        for row in sorted(unknown, key=lambda row: -_size(row.shape)):
            if _size(row.shape) <= missing:  # the kernel, or a part of one that the layer divides
                missing -= _size(row.shape)
                lost.append((row, _reason(model, layer)))
    # Once, also where the name of a row has those of two layers.
    return list({id(row): (row, reason) for row, reason in lost}.values())


def _is_unknown(row):
    return row.form == "float32" and row.num_levels is None


def _reason(model, name):
    """Why the kernel of a layer has levels in the model, and none in the file."""
    layers = model._flatten_layers()
    if any(x.name == name and getattr(x, "lora_enabled", False) for x in layers):
        return LORA
    has_norms = any(isinstance(x, keras.layers.BatchNormalization) for x in layers)
    return WRONG_AXIS if has_norms else MIXED


def _has_places(layer):
    """Whether a layer has a kernel for each of several places, as EinsumDense("abc,bcd->abd")."""
    if not isinstance(layer, keras.layers.EinsumDense):
        return False
    inputs, rest = layer.equation.split(",")
    kernel, output = rest.split("->")
    return any(letter.isalpha() for letter in {*inputs} & {*kernel} & {*output})


def _layers(name, known):
    """The layers, of the names `known`, that the name of a tensor means: scopes get numbers behind.

    Of "dense_1_2" that is dense_1_2, else dense_1, else dense.
    """
    found = set()
    for part in name.split("/"):
        while part not in known and re.search(r"_\d+$", part):
            part = re.sub(r"_\d+$", "", part)
        found.add(part)
    return found & known


def _size(shape):
    size = 1
    for length in shape:
        size *= length
    return size
