"""The portable profile: int8 codes that every reader of .tflite files takes, at float numbers.

One DEQUANTIZE with one scale for each tensor, the oldest form there is, and the channel's own scale
as a product behind the operator. Depthwise kernels with a scale for each channel stay float: their
product would take more time than their few bytes are worth.
"""

from tf_proxquant.litert.forms.codes import find_codes
from tf_proxquant.litert.forms.decoded import encode_integer
from tf_proxquant.litert.forms.form import OPERATOR_BYTES, Scaled
from tf_proxquant.litert.plan.plan import WORTHWHILE, Change, Plan, kept, too_small
from tf_proxquant.litert.read import weights
from tf_proxquant.litert.report import DEPTHWISE
from tf_proxquant.litert.write import scaled


def plan(model, request):
    """See `plan.PROFILES`."""
    del request
    return Plan(tuple(_change(model, weight) for weight in weights.find_weights(model)))


def _change(model, weight):
    form = encode_integer(weight.values, 8, None) or _scaled(model, weight)
    if form is None:
        found = find_codes(weight.values, 8, weight.values.ndim - 1)
        is_depthwise = set(weight.consumers) == {"DEPTHWISE_CONV_2D"}
        return kept(weight, DEPTHWISE if found is not None and is_depthwise else None)
    if form.num_bytes >= WORTHWHILE * weight.values.nbytes:
        return too_small(weight)
    return Change(weight, form, "", weight.consumers)


def _scaled(model, weight):
    readers = weights.find_readers(model.subgraphs[weight.graph])[weight.index]
    if not all(scaled.can_scale(model, weight, reader) for reader in readers):
        return None
    found = find_codes(weight.values, 8, 0)
    if found is None:
        return None
    num_bytes = found.codes.size + 8 * found.scales.size + 2 * OPERATOR_BYTES
    return Scaled("int8 scaled", 8, num_bytes, keeps_xnnpack=True, codes=found)
