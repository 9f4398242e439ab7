"""The one cost model, and the one greedy choice under a budget of time.

Costs are nanoseconds at batch 1 on one thread, measured on x86 with AVX2 and LiteRT 2.3 and fitted
to layers of two networks; docs/decisions/0021-balanced.md has the measurements. They only order and
bound choices: nothing here looks at a clock, so that the same file gets the same plan anywhere.
"""

import dataclasses
from typing import Any

import numpy as np

from tf_proxquant.litert.read import flatbuffer

XNNPACK_COST = 0.02  # one multiply-add of XNNPACK's float convolution or matrix product
DEPTHWISE_COST = 0.08  # its depthwise kernels wait for memory
BUILTIN_COST = 0.06  # one multiply-add of a builtin kernel
MIN_SAVED = 500  # bytes that make a step worth its operators


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to store a weight: bytes in the file, time added to that of the fast form."""

    num_bytes: float
    cost: float
    form: Any


@dataclasses.dataclass(frozen=True)
class Step:
    """From one way to a smaller one: bytes saved and time added, relative to the one before."""

    key: tuple[int, int]
    form: Any
    saved: float
    cost: float


def float_cost(model):
    """Nanoseconds of the float file at batch 1: its multiply-adds."""
    return sum(
        operator_cost(model, graph, operator)
        for graph in model.subgraphs
        for operator in graph.operators
    )


def operator_cost(model, graph, operator):
    """Nanoseconds of the multiply-adds of one operator; 0 for those that are not counted."""
    name = model.operator_name(operator)
    if name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"):
        return 0.0
    weights = [float(n) for n in flatbuffer.tensor_shape(graph.tensors[operator.inputs[1]])]
    data = operator.inputs[2] if name == "TRANSPOSE_CONV" else operator.outputs[0]
    values = np.prod([float(n) for n in flatbuffer.tensor_shape(graph.tensors[data])])
    if name == "DEPTHWISE_CONV_2D":
        return DEPTHWISE_COST * np.prod(weights[1:3]) * values
    if name == "TRANSPOSE_CONV":
        return XNNPACK_COST * np.prod(weights[:3]) * values
    return XNNPACK_COST * np.prod(weights[1:]) * values


def steps_down(key, num_bytes, ways, min_saved=MIN_SAVED):
    """The ways from `num_bytes` down that are worth their time, each better than the next.

    The step that saves most bytes for its time comes first, then the best one from there, and so
    on.

    Args:
      key: of the weight.
      num_bytes: of its fast form.
      ways: list of `Way`.
      min_saved: fewest bytes of a step.

    Returns: list of `Step`.
    """
    steps, cost = [], 0.0
    while True:
        better = [w for w in ways if num_bytes - w.num_bytes >= min_saved and w.cost > cost]
        if not better:
            return steps
        best = max(better, key=lambda way: (num_bytes - way.num_bytes) / (way.cost - cost))
        steps.append(Step(key, best.form, num_bytes - best.num_bytes, best.cost - cost))
        num_bytes, cost = best.num_bytes, best.cost


def choose(steps, budget):
    """Takes steps by bytes saved for their time while they fit.

    Args:
      steps: list of `Step`; those of one weight in order.
      budget: nanoseconds to spend.

    Returns: (dict {key: form}, nanoseconds spent).
    """
    chosen, spent, closed = {}, 0.0, set()
    for step in sorted(steps, key=lambda step: -step.saved / step.cost):
        if step.key in closed or spent + step.cost > budget:
            closed.add(step.key)
            continue
        chosen[step.key] = step.form
        spent += step.cost
    return chosen, spent
