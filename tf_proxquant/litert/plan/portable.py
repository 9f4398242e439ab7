"""The portable profile: int8 codes that every reader of .tflite files takes, at float numbers.

One DEQUANTIZE with one scale for each tensor, the oldest form there is, and the channel's own scale
as a product behind the operator; behind a dense layer even the one scale of a tensor. Where the
product would take more time than the bytes are worth, as behind many depthwise kernels, weights
stay float.
"""

import numpy as np

from tf_proxquant.litert.forms.codes import find_codes
from tf_proxquant.litert.forms.decoded import encode_integer
from tf_proxquant.litert.forms.form import OPERATOR_BYTES, Scaled
from tf_proxquant.litert.plan import budget
from tf_proxquant.litert.plan.plan import DENSE, Change, Plan, is_worthwhile, kept, too_small
from tf_proxquant.litert.read import flatbuffer, weights
from tf_proxquant.litert.report import COSTS_TIME
from tf_proxquant.litert.write import scaled

SHARE = 0.12  # of the time of the float file, for products
MIN_SHARE = 0.02  # what is left at least for those that are not always worth their bytes
MIN_COST = 500  # ns that no network is too small for
OWN_SHARE = 0.15  # of the time of its own operator, for a product that is always worth its bytes
PRODUCT_COST = 0.17  # ns for each value that is multiplied
ONNX_NOTE = (
    "through ONNX: onnxruntime rounds the inputs of some dense layers to 8 bits, unless "
    "session.qdq_matmulnbits_accuracy_level is 1"
)


def plan(model, request):
    """See `plan.PROFILES`."""
    del request
    found = weights.find_weights(model)
    scaled_forms = {w.key: form for w in found if (form := scaled_form(model, w)) is not None}
    cheap, steps = {}, []
    total = budget.float_cost(model)
    left = SHARE * total
    for weight in found:
        if weight.key not in scaled_forms:
            continue
        form = scaled_forms[weight.key]
        product, own = _costs(model, weight)
        if product <= OWN_SHARE * own:
            cheap[weight.key] = form
            left -= product
        else:
            saved = weight.values.nbytes - form.num_bytes
            steps.append(budget.Step(weight.key, form, saved, product))
    chosen, _ = budget.choose(steps, max(left, MIN_SHARE * total, MIN_COST))
    chosen |= cheap
    changes = tuple(_change(weight, scaled_forms, chosen) for weight in found)
    has_dense = any(change.form and DENSE in change.read_by for change in changes)
    return Plan(changes, (ONNX_NOTE,) if has_dense else ())


def _costs(model, weight):
    """Nanoseconds of the products behind the readers of a weight, and of these themselves."""
    graph = model.subgraphs[weight.graph]
    readers = weights.find_readers(graph)[weight.index]
    shapes = [flatbuffer.tensor_shape(graph.tensors[reader.outputs[0]]) for reader in readers]
    product = PRODUCT_COST * sum(float(np.prod(shape)) for shape in shapes)
    return product, sum(budget.operator_cost(model, graph, reader) for reader in readers)


def _change(weight, scaled_forms, chosen):
    form = chosen.get(weight.key) or _plain(weight)
    if form is None:
        return kept(weight, COSTS_TIME if weight.key in scaled_forms else None)
    if not is_worthwhile(weight, form):
        return too_small(weight)
    return Change(weight, form, "", weight.consumers)


def _plain(weight):
    """The codes of a weight with one scale, for readers that do not look closer."""
    return None if DENSE in weight.consumers else encode_integer(weight.values, 8, None)


def scaled_form(model, weight):
    """The codes of a weight with scales behind all its readers, or None if these take none."""
    if _plain(weight) is not None:
        return None
    readers = weights.find_readers(model.subgraphs[weight.graph])[weight.index]
    axes = {scaled.channel_axis(model, weight, reader) for reader in readers}
    if len(axes) > 1 or None in axes:
        return None
    found = find_codes(weight.values, 8, None) or find_codes(weight.values, 8, *axes)
    if found is None:
        return None
    # A bias for each channel is written anew; a lookup has none.
    each = 4 if set(weight.consumers) == {"GATHER"} else 8
    num_bytes = found.codes.size + each * found.scales.size + 2 * OPERATOR_BYTES
    return Scaled("int8 scaled", 8, num_bytes, keeps_xnnpack=True, codes=found)
