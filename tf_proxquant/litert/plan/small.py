"""The small profile: the smallest form of each weight, of 1 to 8 bits.

A form that is decoded at every call is taken only where that is in proportion to the work of the
operator behind it; with `max_slowdown`, within that budget.
"""

import dataclasses

from tf_proxquant.litert.forms import decoded, planes, tables
from tf_proxquant.litert.plan import budget
from tf_proxquant.litert.plan.fast import fast_change
from tf_proxquant.litert.plan.plan import Change, Plan, kept, on_each_axis, smallest
from tf_proxquant.litert.read.weights import find_weights
from tf_proxquant.litert.write.lookup import find_lookups

FEW_WEIGHTS = 4096  # decoding so many costs nothing that matters
CHEAP_DECODE = 0.5  # ns per weight
MAX_DECODE_SHARE = 2.0  # of the time of the operator that reads the weights


def plan(model, request):
    """See `plan.PROFILES`."""
    changes, others = lookups(model, FEW_WEIGHTS)
    if request.max_slowdown is None or request.is_unlimited:
        return Plan((*changes, *(_smallest(weight, request) for weight in others)))
    left = (request.max_slowdown - 1) * budget.float_cost(model)
    chosen, _ = budget.choose([s for weight in others for s in _steps(weight)], left)
    rest = (
        Change(weight, chosen[weight.key], "", weight.consumers)
        if weight.key in chosen
        else fast_change(weight)
        for weight in others
    )
    return Plan((*changes, *rest))


def lookups(model, few_weights=0, dense_bits=2):
    """The tables of rows among the weights of a model.

    Args:
      model: `flatbuffer.Model`.
      few_weights: tables of at most so many weights are left, for the operators take their room.
      dense_bits: the fewest bits of the form that a dense layer may give to a table that it
        shares, so that one form serves both and is stored once.

    Returns: (list of `Change`, list of the weights that other operators read too or alone).
    """
    changes, others = [], []
    for weight in find_weights(model):
        num_lookups = len(find_lookups(model, weight))
        rest = list(weight.consumers)
        for _ in range(num_lookups):
            rest.remove("GATHER")
        form = None
        if num_lookups and weight.values.size > few_weights:
            form = tables.encode_rows(weight.values, dense_bits if rest else None)
        if form is None:
            others.append(weight)
            continue
        changes.append(Change(weight, form, "", ("GATHER",)))
        if rest:
            others.append(dataclasses.replace(weight, consumers=tuple(rest)))
    return changes, others


def _smallest(weight, request):
    forms = list_forms(weight)
    if not request.is_unlimited:
        forms = [form for form in forms if form.keeps_xnnpack or _pays(weight, form)]
    return smallest(weight, forms) if forms else kept(weight)


def list_forms(weight):
    """Every form of the profile that holds a weight."""
    found = on_each_axis(
        weight,
        planes.encode_planes,
        lambda values, axis: decoded.encode_integer(values, 2, axis),
        lambda values, axis: decoded.encode_integer(values, 4, axis),
        lambda values, axis: decoded.encode_integer(values, 8, axis),
        decoded.encode_shifted,
        decoded.encode_clamp,
        decoded.encode_sum,
        lambda values, axis: decoded.encode_table(values, 2, axis),
        lambda values, axis: decoded.encode_table(values, 4, axis),
        lambda values, axis: decoded.encode_table(values, 8, axis),
    )
    return [form for form in found if form is not None]


def _pays(weight, form):
    """Whether decoding at every call is in proportion to what the operator computes."""
    if weight.values.size <= FEW_WEIGHTS or form.decode_cost <= CHEAP_DECODE:
        return True
    work = budget.BUILTIN_COST * weight.num_uses
    return form.decode_cost <= MAX_DECODE_SHARE * work


def _steps(weight):
    """From the fast form to smaller ones, with what their decoding and slower kernels cost."""
    forms = list_forms(weight)
    fast = min((f.num_bytes for f in forms if f.keeps_xnnpack), default=weight.values.nbytes)
    slower = budget.BUILTIN_COST - budget.XNNPACK_COST
    ways = [
        budget.Way(
            form.num_bytes,
            (form.decode_cost + slower * max(1, weight.num_uses)) * weight.values.size,
            form,
        )
        for form in forms
        if not form.keeps_xnnpack
    ]
    return budget.steps_down(weight.key, fast, ways, min_saved=1)
