"""The fast profile: int8 codes behind DEQUANTIZE, which XNNPACK unpacks once. Float speed.

A DEQUANTIZE takes a scale of 4 and a zero point of 8 bytes for each row. Where a table is only
looked up, the scales of the rows that are asked for stand behind the lookup instead.
"""

from tf_proxquant.litert.forms.decoded import encode_integer
from tf_proxquant.litert.plan import portable
from tf_proxquant.litert.plan.plan import Change, Plan, on_each_axis, reader_notes, smallest
from tf_proxquant.litert.read.weights import find_weights

ZERO_POINT_BYTES = 8


def plan(model, request):
    """See `plan.PROFILES`."""
    del request
    changes = tuple(fast_change(weight, model) for weight in find_weights(model))
    return Plan(changes, reader_notes(changes))


def fast_change(weight, model=None):
    """One weight as int8, or as it is; a table of `model` perhaps with its scales behind it."""
    change = smallest(weight, on_each_axis(weight, _int8))
    if model is None or change.form is None or set(weight.consumers) != {"GATHER"}:
        return change
    table = portable.scaled_form(model, weight)
    zero_points = ZERO_POINT_BYTES * change.form.num_scales
    if table is None or table.num_bytes >= change.form.num_bytes + zero_points:
        return change
    return Change(weight, table, "", weight.consumers)


def _int8(values, axis):
    return encode_integer(values, 8, axis)
