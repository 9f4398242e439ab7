"""The balanced profile: which convolutions become matrix products over weights of few bits.

The rest stays int8. What a matrix product costs in time and saves in bytes is estimated for each
convolution, the best steps are taken within a budget, and the file is timed.
"""

import dataclasses

import numpy as np

from tf_proxquant.litert.check import timing
from tf_proxquant.litert.forms import encodings as forms
from tf_proxquant.litert.forms import planes
from tf_proxquant.litert.read import flatbuffer, levels
from tf_proxquant.litert.report import TensorRow
from tf_proxquant.litert.write import matmul

DEFAULT_SLOWDOWN = 1.25
# Costs in the time of one multiply-add of a float convolution (20 ps on an AMD EPYC core with AVX2,
# LiteRT 2.3), fitted to layers of two networks; see docs/decisions/0021-balanced.md.
LAYER_COST = 180_000  # operators and changes between XNNPACK and the builtin kernels
GATHER_COST = 300  # one row of channels
PACK_COST = 2.5  # one weight, which XNNPACK packs anew at every call
SPILL_COST = 12  # one value beyond those that the cache holds
CACHED_VALUES = 1 << 16
BIT_COST = 25  # one weight decoded from its bit at every call
ELEMENT_COST = 5  # one weight clamped or added to another at every call
LAYER_BYTES = 800  # operators and tensors, beyond those of an int8 convolution
MIN_SAVED = 500
MAX_TRIALS = 5


@dataclasses.dataclass(frozen=True)
class Step:
    """Moving one convolution to a smaller form: bytes saved, time added, relative to the last."""

    key: tuple[int, int]
    encoding: forms.Encoding
    saved: float
    cost: float


def encode(float_content, max_slowdown, encode_rest):
    """Re-encodes a float file for a small size at nearly its speed.

    Args:
      float_content: bytes of the float file.
      max_slowdown: float >= 1, latency allowed over that of the float file, at batch 1 on one
        thread with XNNPACK.
      encode_rest: function (prepare) -> (content, rows, weights) that loads the file, calls
        `prepare(model)` -> (rows, weights) on it, encodes what is left, and writes it.

    Returns: (content, rows, weights, notes), the first three from `encode_rest`.
    Raises: ValueError: if `max_slowdown` is below 1 or the model has no fixed input size.
    """
    if not isinstance(max_slowdown, int | float) or not max_slowdown >= 1:
        raise ValueError(f"max_slowdown must be a number >= 1. Received: {max_slowdown!r}")
    model = flatbuffer.Model(float_content)
    steps = [step for found in matmul.find_convolutions(model) for step in plan_steps(found)]
    budget = (max_slowdown - 1) * count_multiplications(model)
    for _ in range(MAX_TRIALS):
        chosen, cost = choose_steps(steps, budget)
        if not chosen:
            break
        content, rows, weights = encode_rest(
            prepare=lambda model, chosen=chosen: apply(model, chosen)
        )
        slowdown = _confirmed_slowdown(content, float_content, max_slowdown)
        if slowdown <= max_slowdown:
            return content, rows, weights, _notes(chosen, slowdown)
        # The estimate was too low by this much: spend that much less.
        budget = 0.95 * cost * (max_slowdown - 1) / (slowdown - 1)
    return *encode_rest(), ("no convolution fits the budget: as the fast profile",)


def _confirmed_slowdown(content, float_content, max_slowdown):
    """Measures again what seems too slow: a busy machine must not cost bytes."""
    measured = np.inf
    for _ in range(3):
        measured = min(measured, timing.measure_slowdown(content, float_content))
        if measured <= max_slowdown:
            break
    return measured


def _notes(chosen, slowdown):
    return (
        f"{len(chosen)} convolutions as matrix products; {slowdown:.2f} times the float latency, "
        "measured here on XNNPACK with one thread and batch 1. Without XNNPACK they are several "
        "times slower.",
    )


def count_multiplications(model):
    """Multiply-adds of the float file at batch 1, those of depthwise convolutions counted 4 times.

    XNNPACK's depthwise kernels wait for memory: about a quarter of the speed.
    """
    total = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = model.operator_name(operator)
            if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                shape = flatbuffer.tensor_shape(graph.tensors[operator.inputs[1]])
                output = flatbuffer.tensor_shape(graph.tensors[operator.outputs[0]])
                per_output = np.prod(shape[1:3] if name.startswith("DEPTHWISE") else shape[1:])
                total += (4 if name.startswith("DEPTHWISE") else 1) * per_output * np.prod(output)
    return float(total)


def estimate_cost(convolution):
    """Time that the matrix product takes beyond the convolution."""
    num_weights = convolution.weights.size
    num_gathered = convolution.num_rows * convolution.weights.shape[3]
    spilled = sum(max(0, count - CACHED_VALUES) for count in (num_weights, num_gathered))
    cost = LAYER_COST + GATHER_COST * convolution.num_rows + PACK_COST * num_weights
    return cost + SPILL_COST * spilled


def plan_steps(convolution):
    """The ways down from int8 that are worth their time, each better than the next.

    Starting from the fast form, the step that saves most bytes for its time comes first, then the
    best one from there, and so on.
    """
    matrix, base_cost = convolution.matrix, estimate_cost(convolution)
    fast = forms.encode_integer(convolution.weights, 8, 0)
    num_bytes = fast.num_bytes if fast else matrix.nbytes
    # Convolutions of one geometry share indices; charged to each, so that no file grows by them.
    extra = LAYER_BYTES + (0 if convolution.is_pointwise else 4 * convolution.num_positions)
    candidates = [
        (encoding.num_bytes + extra, base_cost + per_weight * matrix.size, encoding)
        for encoding, per_weight in _encodings(matrix)
    ]
    steps, cost = [], 0.0
    while True:
        better = [c for c in candidates if num_bytes - c[0] >= MIN_SAVED and c[1] > cost]
        if not better:
            return steps
        best = max(better, key=lambda c: (num_bytes - c[0]) / (c[1] - cost))
        key = convolution.graph, convolution.index
        steps.append(Step(key, best[2], num_bytes - best[0], best[1] - cost))
        num_bytes, cost = best[:2]


def _encodings(matrix):
    """Forms of a matrix with one set of levels or one for each row, and their time per weight.

    DEQUANTIZE of a constant runs once; other decoding operators run at every call.
    """
    for axis in (None, 0):
        found = [
            (forms.encode_integer(matrix, 2, axis), 0),
            (forms.encode_integer(matrix, 4, axis), 0),
            (planes.encode_planes(matrix, axis), BIT_COST),
            (forms.encode_clamp(matrix, axis), ELEMENT_COST),
            (forms.encode_sum(matrix, axis), ELEMENT_COST),
        ]
        yield from (entry for entry in found if entry[0] is not None)


def choose_steps(steps, budget):
    """Takes steps by bytes saved for their time while they fit.

    Args:
      steps: list of `Step`; those of one convolution in order.
      budget: time to spend, in the unit of the costs.

    Returns: (dict {key: Encoding}, time spent).
    """
    chosen, spent, closed = {}, 0.0, set()
    for step in sorted(steps, key=lambda step: -step.saved / step.cost):
        if step.key in closed or spent + step.cost > budget:
            closed.add(step.key)
            continue
        chosen[step.key] = step.encoding
        spent += step.cost
    return chosen, spent


def apply(model, chosen):
    """Turns the chosen convolutions of a model into matrix products.

    Args:
      model: `flatbuffer.Model` of the float file, edited in place.
      chosen: dict {(subgraph, index of the weight tensor): Encoding of its matrix}.

    Returns: (list of `TensorRow`, list of `rewrite.Weight` with the matrices as they decode).
    """
    rows, weights, writers = [], [], {}
    for convolution in matmul.find_convolutions(model):
        encoding = chosen.get((convolution.graph, convolution.index))
        if encoding is None:
            continue
        if convolution.graph not in writers:
            writers[convolution.graph] = matmul.Writer(model, model.subgraphs[convolution.graph])
        weights.append(writers[convolution.graph].replace(convolution, encoding))
        rows.append(_row(convolution, encoding))
    return rows, weights


def _row(convolution, encoding):
    return TensorRow(
        name=convolution.name,
        operators=("BATCH_MATMUL",),
        shape=convolution.weights.shape,
        num_levels=levels.read_levels(convolution.matrix, 0).num_levels,
        axis=0,
        form=encoding.form,
        bits=encoding.bits,
        bytes_before=convolution.weights.nbytes,
        bytes_after=encoding.num_bytes + LAYER_BYTES,
        reason="matrix product",
    )
