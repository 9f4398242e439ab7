"""constants="float16": every weight in half of its bytes, for GPUs that take no integers."""

import numpy as np

from tf_proxquant.litert.forms.decoded import encode_half
from tf_proxquant.litert.plan.plan import Change, Plan, is_worthwhile, kept, too_small
from tf_proxquant.litert.read.weights import find_weights

OUTSIDE = "outside of what float16 holds"
ROUNDED = "rounded to float16"
ALL_EXACT = "weights are float16, which holds their values exactly"
NOTE = "weights are rounded to float16, by up to {:.1e} of the largest of each tensor"
# What rounding moves a value by, relative to it, unless it is too large or too small.
LARGEST_ERROR = 2.0**-11


def plan(model, request):
    """See `plan.PROFILES`."""
    del request
    changes = tuple(_change(weight) for weight in find_weights(model))
    stored = [change for change in changes if change.form]
    if not stored:
        return Plan(changes)
    worst = max(_error(change.weight.values, change.form.values) for change in stored)
    return Plan(changes, (NOTE.format(worst) if worst else ALL_EXACT,))


def _change(weight):
    form = encode_half(weight.values)
    if not is_worthwhile(weight, form):
        return too_small(weight)
    error = _error(weight.values, form.values)
    if error > LARGEST_ERROR:
        return kept(weight, OUTSIDE)
    return Change(weight, form, ROUNDED if error else "", weight.consumers)


def _error(values, rounded):
    """Largest difference over the largest value; inf where float16 overflows."""
    if not np.isfinite(rounded).all():
        return np.inf
    largest = np.abs(values).max(initial=0)
    return float(np.abs(rounded - values).max(initial=0) / largest) if largest else 0.0
