"""The fast profile: int8 codes behind DEQUANTIZE, which XNNPACK unpacks once. Float speed."""

from tf_proxquant.litert.forms.decoded import encode_integer
from tf_proxquant.litert.plan.plan import Plan, on_each_axis, reader_notes, smallest
from tf_proxquant.litert.read.weights import find_weights


def plan(model, request):
    """See `plan.PROFILES`."""
    del request
    changes = tuple(fast_change(weight) for weight in find_weights(model))
    return Plan(changes, reader_notes(changes))


def fast_change(weight):
    """One weight as int8, or as it is."""
    return smallest(weight, on_each_axis(weight, _int8))


def _int8(values, axis):
    return encode_integer(values, 8, axis)
