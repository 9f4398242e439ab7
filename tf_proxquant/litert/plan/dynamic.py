"""The dynamic profile: integer weights straight into dense layers, convolutions and lookups.

The kernels round their float input to 8 bits at run time and multiply integers: the least memory,
and the least time where the processor has instructions for it.
"""

import numpy as np

from tf_proxquant.litert.forms.codes import find_codes
from tf_proxquant.litert.forms.form import OPERATOR_BYTES, Direct
from tf_proxquant.litert.plan.fast import fast_change
from tf_proxquant.litert.plan.plan import Change, Plan, is_smaller, reader_notes
from tf_proxquant.litert.plan.small import lookups
from tf_proxquant.litert.read import flatbuffer
from tf_proxquant.litert.read.weights import find_readers

NOTE = "activations of dense layers and convolutions are rounded to 8 bits at run time"
MIN_MULTIPLICATIONS = 64  # of each value of a convolution's input
# Depthwise kernels are behind DEQUANTIZE: XNNPACK has no such kernel for them, and the builtin one
# takes 4 times as long as the whole network.
CHANNEL_AXES = {"FULLY_CONNECTED": 0, "CONV_2D": 0}


def plan(model, request):
    """See `plan.PROFILES`."""
    changes, others = lookups(model, dense_bits=request.dense_bits)
    for weight in others:
        form = _direct(model, weight, request.dense_bits)
        if form is None or not is_smaller(weight, form):
            changes.append(fast_change(weight))
        else:
            changes.append(Change(weight, form, "", weight.consumers))
    return Plan(tuple(changes), (NOTE, *reader_notes(changes)))


def _direct(model, weight, dense_bits):
    """The form of the fewest bits that all readers of a weight compute rightly, or None."""
    readers = find_readers(model.subgraphs[weight.graph])[weight.index]
    names = set(weight.consumers)
    if len(names) > 1 or not names <= set(CHANNEL_AXES):
        return None
    (name,) = names
    # A table that is looked up too is read by GATHER until the lookups are written.
    readers = [reader for reader in readers if model.operator_name(reader) == name]
    if not all(_multiplies(model, weight, reader) for reader in readers):
        return None
    for bits in _widths(name, weight.values, dense_bits):
        # int4 FULLY_CONNECTED multiplies code -8 wrongly on the builtin kernels.
        found = find_codes(weight.values, bits, CHANNEL_AXES[name], narrow=True)
        if found is not None:
            num_bytes = found.num_bytes + OPERATOR_BYTES
            return Direct(f"int{bits} direct", bits, num_bytes, keeps_xnnpack=True, codes=found)
    return None


def _widths(name, values, dense_bits):
    """Bits that the operator reads: XNNPACK takes rows of dense weights in whole bytes."""
    if name != "FULLY_CONNECTED":
        return (8,)
    return [b for b in (2, 4, 8) if b >= dense_bits and values.shape[1] * b % 8 == 0]


def _multiplies(model, weight, operator):
    """Whether an operator reads the tensor as the weights of a layer."""
    inputs = operator.inputs
    if weight.index != inputs[1] or weight.index == inputs[0]:
        return False
    if model.operator_name(operator) != "CONV_2D":
        return weight.values.ndim == (2 if model.operator_name(operator)[0] == "F" else 4)
    return _is_worth_rounding(model.subgraphs[weight.graph].tensors[inputs[0]], weight)


def _is_worth_rounding(source, weight):
    """Whether a convolution, not grouped, multiplies each value of its input often enough.

    All values are looked at and rounded before: where few channels come out, as behind depthwise
    convolutions, floats are faster.
    """
    shape = flatbuffer.tensor_shape(source)
    multiplications = weight.values.size * weight.num_uses
    is_plain = shape[3] == weight.values.shape[3]
    return is_plain and multiplications >= MIN_MULTIPLICATIONS * np.prod(shape[1:])
