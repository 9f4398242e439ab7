"""The balanced profile: convolutions become matrix products over weights of few bits.

What that costs in time and saves in bytes is estimated for each convolution, and the best steps are
taken within a budget; the rest is as in the fast profile.
"""

import dataclasses

from tf_proxquant.litert.forms import decoded, planes
from tf_proxquant.litert.forms.form import Product
from tf_proxquant.litert.plan import budget
from tf_proxquant.litert.plan.fast import fast_change
from tf_proxquant.litert.plan.plan import Change, Plan, reader_notes
from tf_proxquant.litert.read.weights import find_weights
from tf_proxquant.litert.write import matmul

DEFAULT_SLOWDOWN = 1.25
# Nanoseconds, see `budget`.
LAYER_COST = 3600  # operators and changes between XNNPACK and the builtin kernels
GATHER_COST = 6  # one row of channels
PACK_COST = 0.05  # one weight, which XNNPACK packs anew at every call
SPILL_COST = 0.24  # one value beyond those that the cache holds
CACHED_VALUES = 1 << 16
LAYER_BYTES = 800  # operators and tensors, beyond those of an int8 convolution
REMARK, READ_BY = "matrix product", ("BATCH_MATMUL",)
NOTE = (
    "{} convolutions as matrix products, an estimated {:.2f} times the float latency on XNNPACK "
    "with one thread and batch 1. Without XNNPACK they are several times slower."
)


def plan(model, request):
    """See `plan.PROFILES`."""
    slowdown = DEFAULT_SLOWDOWN if request.max_slowdown is None else request.max_slowdown
    total = budget.float_cost(model)
    convolutions = matmul.find_convolutions(model)
    steps = [step for convolution in convolutions for step in list_steps(convolution)]
    chosen, spent = budget.choose(steps, (slowdown - 1) * total)
    changes = tuple(
        Change(weight, chosen[weight.key], REMARK, READ_BY)
        if weight.key in chosen
        else fast_change(weight, model)
        for weight in find_weights(model)
    )
    if not chosen:
        notes = ("no convolution fits the budget: as the fast profile",)
    else:
        notes = (NOTE.format(len(chosen), 1 + spent / total),)
    return Plan(changes, (*notes, *reader_notes(changes)))


def estimate_cost(convolution):
    """Nanoseconds that the matrix product takes beyond the convolution."""
    num_weights = convolution.weights.size
    num_gathered = convolution.num_rows * convolution.weights.shape[3]
    spilled = sum(max(0, count - CACHED_VALUES) for count in (num_weights, num_gathered))
    cost = LAYER_COST + GATHER_COST * convolution.num_rows + PACK_COST * num_weights
    return cost + SPILL_COST * spilled


def list_steps(convolution):
    """The matrix products that are worth their time, from the fast form down."""
    fast = decoded.encode_integer(convolution.weights, 8, 0)
    num_bytes = fast.num_bytes if fast else convolution.weights.nbytes
    key = convolution.graph, convolution.index
    return budget.steps_down(key, num_bytes, list_ways(convolution))


def list_ways(convolution):
    """Every matrix product that computes a convolution, as a list of `budget.Way`."""
    matrix, cost = convolution.matrix, estimate_cost(convolution)
    # Convolutions of one geometry share indices; charged to each, so that no file grows by them.
    extra = LAYER_BYTES + (0 if convolution.is_pointwise else 4 * convolution.num_positions)
    forms = (_product(form, extra) for form in _matrix_forms(matrix) if form is not None)
    return [
        budget.Way(form.num_bytes, cost + form.matrix.decode_cost * matrix.size, form)
        for form in forms
    ]


def _product(form, extra):
    fields = dataclasses.asdict(form) | {"num_bytes": form.num_bytes + extra}
    for name in ("write", "num_scales", "values"):
        del fields[name]
    return Product(**fields, matrix=form)


def _matrix_forms(matrix):
    """Forms of a matrix with one set of levels or one for each row."""
    for axis in (None, 0):
        yield decoded.encode_integer(matrix, 2, axis)
        yield decoded.encode_integer(matrix, 4, axis)
        yield planes.encode_planes(matrix, axis)
        yield decoded.encode_odd(matrix, axis)
        yield decoded.encode_clamp(matrix, axis)
        yield decoded.encode_sum(matrix, axis)
