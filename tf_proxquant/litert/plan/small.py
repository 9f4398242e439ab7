"""The small profile: the smallest form of each weight, of 1 to 8 bits, with an eye on time.

A byte is worth some time: what a form saves is weighed against what decoding it, and the slower
kernels that read it, take at every call. With `max_slowdown` the forms that save most for their
time are taken within that budget instead.
"""

import dataclasses

from tf_proxquant.litert.forms import decoded, planes, tables
from tf_proxquant.litert.forms.form import Decoded, Product, Scaled
from tf_proxquant.litert.plan import balanced, budget
from tf_proxquant.litert.plan.fast import ZERO_POINT_BYTES, fast_change
from tf_proxquant.litert.plan.plan import Change, Plan, on_each_axis, reader_notes, smallest
from tf_proxquant.litert.read.weights import find_weights
from tf_proxquant.litert.write import matmul, offset
from tf_proxquant.litert.write.lookup import find_lookups

FEW_WEIGHTS = 4096  # a table of so many is not worth the operators of its lookup
PRICE = 0.01  # share of the float file's bytes that its time is worth


def plan(model, request):
    """See `plan.PROFILES`."""
    changes, others = lookups(model, FEW_WEIGHTS)
    convolutions = {(c.graph, c.index): c for c in matmul.find_convolutions(model)}
    ways = {w.key: list_ways(model, w, convolutions.get(w.key)) for w in others}
    total = budget.float_cost(model)
    if request.max_slowdown is None or request.is_unlimited:
        num_bytes = sum(weight.values.nbytes for weight in others)
        price = 0 if request.is_unlimited or not total else PRICE * num_bytes / total
        rest = [_best(weight, ways[weight.key], price) for weight in others]
    else:
        steps = [step for weight in others for step in _steps(weight, ways[weight.key])]
        chosen, _ = budget.choose(steps, (request.max_slowdown - 1) * total)
        rest = [
            _change(weight, chosen[weight.key])
            if weight.key in chosen
            else fast_change(weight, model)
            for weight in others
        ]
    changes = tuple(_smaller_table(model, change) for change in (*changes, *rest))
    return Plan(changes, reader_notes(changes))


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


def _smaller_table(model, change):
    """Short rows, above all of uneven levels, may take fewer bytes as `fast` stores them."""
    if change.form is None or set(change.weight.consumers) != {"GATHER"}:
        return change
    num_bytes = change.form.num_bytes
    if isinstance(change.form, Decoded):
        num_bytes += ZERO_POINT_BYTES * change.form.num_scales
    fast = fast_change(change.weight, model)
    is_smaller = isinstance(fast.form, Scaled) and fast.form.num_bytes < num_bytes
    return fast if is_smaller else change


def list_ways(model, weight, convolution=None):
    """Every way to store a weight: decoded before its reader, or as a matrix product.

    Args:
      model: `flatbuffer.Model` of the weight.
      weight: `Weight`.
      convolution: the `matmul.Convolution` that reads it, or None.

    Returns: list of `budget.Way`, with the time added to that of the fast form.
    """
    slower = (budget.BUILTIN_COST - budget.XNNPACK_COST) * max(1, weight.num_uses)
    ways = [
        budget.Way(
            form.num_bytes,
            0.0 if form.keeps_xnnpack else (form.decode_cost + slower) * weight.values.size,
            form,
        )
        for form in list_forms(weight)
    ]
    form = decoded.encode_offset(weight.values) if offset.can_offset(model, weight) else None
    if form is not None:
        ways.append(budget.Way(form.num_bytes, slower * weight.values.size, form))
    return ways + (balanced.list_ways(convolution) if convolution else [])


def _best(weight, ways, price):
    """The way of the fewest bytes, each nanosecond counted as `price` bytes."""
    if not ways:
        return smallest(weight, [])
    best = min(ways, key=lambda way: way.num_bytes + price * way.cost)
    change = smallest(weight, [best.form])
    return change if change.form is None else _change(weight, best.form)


def _change(weight, form):
    is_product = isinstance(form, Product)
    return Change(
        weight,
        form,
        balanced.REMARK if is_product else "",
        balanced.READ_BY if is_product else weight.consumers,
    )


def list_forms(weight):
    """Every form of the profile that holds a weight."""
    found = on_each_axis(
        weight,
        planes.encode_planes,
        lambda values, axis: decoded.encode_integer(values, 2, axis),
        lambda values, axis: decoded.encode_integer(values, 4, axis),
        lambda values, axis: decoded.encode_integer(values, 8, axis),
        decoded.encode_odd,
        decoded.encode_clamp,
        decoded.encode_sum,
        lambda values, axis: decoded.encode_table(values, 2, axis),
        lambda values, axis: decoded.encode_table(values, 4, axis),
        lambda values, axis: decoded.encode_table(values, 8, axis),
    )
    return [form for form in found if form is not None]


def _steps(weight, ways):
    fast = min((way.num_bytes for way in ways if not way.cost), default=weight.values.nbytes)
    return budget.steps_down(weight.key, fast, ways, min_saved=1)
