"""The small profile within a latency budget: which weights stay in the fast form."""

from tf_proxquant.litert.check import timing
from tf_proxquant.litert.plan import profiles
from tf_proxquant.litert.read import flatbuffer
from tf_proxquant.litert.write import rewrite

MAX_TRIALS = 6


def encode(float_content, max_slowdown, settings, encode_all):
    """Re-encodes a float file for the smallest size within a latency.

    Each weight may leave the fast form for its smallest one; what that costs is estimated, the
    weights that save most bytes for their time go first, and the file is timed.

    Args:
      float_content: bytes of the float file.
      max_slowdown: latency allowed over that of the float file, >= 1; math.inf for no limit.
      settings: `profiles.Profile`.
      encode_all: function (accepts) -> (content, rows, weights); see `exporting.encode`.

    Returns: (content, rows, weights, notes), the first three from `encode_all`.
    Raises: ValueError: if `max_slowdown` is below 1.
    """
    if not isinstance(max_slowdown, int | float) or not max_slowdown >= 1:
        raise ValueError(f"max_slowdown must be a number >= 1. Received: {max_slowdown!r}")
    if max_slowdown == float("inf"):
        return *encode_all(accepts=lambda weight, encoding: True), ()
    steps = plan(flatbuffer.Model(float_content), settings)
    left = (max_slowdown - 1) * timing.measure_latency(float_content)
    for _ in range(MAX_TRIALS):
        chosen = {key for key, _, _ in _affordable(steps, left)}
        result = encode_all(
            accepts=lambda weight, encoding, chosen=chosen: (weight.graph, weight.index) in chosen
        )
        slowdown = timing.measure_slowdown(result[0], float_content)
        if slowdown <= max_slowdown or not chosen:
            break
        left *= 0.9 * (max_slowdown - 1) / (slowdown - 1) if max_slowdown > 1 else 0
    note = f"{slowdown:.2f} times the float latency, measured here on XNNPACK, one thread, batch 1"
    return *result, (note,)


def plan(model, settings):
    """What each weight saves and costs in its smallest form, against the fast one.

    Returns: list of ((subgraph, tensor index), bytes saved, seconds added), best value first.
    """
    steps = []
    for weight in rewrite.find_weights(model):
        encodings = profiles.list_encodings(weight, settings)
        if not encodings:
            continue
        smallest = min(encodings, key=lambda encoding: encoding.num_bytes)
        fast = [encoding.num_bytes for encoding in encodings if encoding.keeps_xnnpack]
        saved = min([*fast, weight.values.nbytes]) - smallest.num_bytes
        slower = profiles.BUILTIN_COST - profiles.XNNPACK_COST
        per_weight = smallest.decode_cost + slower * weight.num_uses
        if saved > 0 and not smallest.keeps_xnnpack:
            cost = 1e-9 * per_weight * weight.values.size
            steps.append(((weight.graph, weight.index), saved, cost))
    return sorted(steps, key=lambda step: step[2] / step[1])


def _affordable(steps, budget):
    for step in steps:
        if step[2] <= budget:
            budget -= step[2]
            yield step
