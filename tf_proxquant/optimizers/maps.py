"""The maps from the point before the prox to the weights, by the names that `prox` takes.

The prox functions "l1", "l2" and "concave" are steered by tau; "relax" by theta, the share of the
way to the nearest level; "piecewise_affine" by the inverse slope between two levels; "hard", the
nearest level, by nothing.
"""

from types import MappingProxyType
from typing import get_args

from keras import ops

from tf_proxquant import prox, schedules
from tf_proxquant.typing import Prox

NAMES = get_args(Prox)
WITH_TAU = ("l1", "l2", "concave")

# Sum of tau under strength="auto". What it means for each penalty: `schedules.TotalPull`.
TOTAL_PULL = MappingProxyType({"l1": 30.0, "l2": 31.0, "concave": 12.0})


def apply(name, v, quantizer, levels, control):
    """Returns w, the image of `v` under the map of that name.

    Args:
      name: one of `NAMES`.
      v: float tensor, the point before the prox.
      quantizer: the quantizer of `v`.
      levels: as `quantizer.levels` returns them.
      control: tau, theta or inverse slope, a scalar tensor or, for tau, one that broadcasts
        against `v`; None for "hard".
    """
    if name == "concave":
        return prox.prox_concave(v, quantizer.spread_levels(v, levels), control)
    if name == "piecewise_affine":
        return prox.prox_piecewise_affine(v, quantizer.spread_levels(v, levels), control)
    nearest = quantizer.nearest(v, levels)
    if name == "hard":
        return nearest
    towards = {"l1": prox.prox_l1, "l2": prox.prox_l2, "relax": prox.relax}[name]
    return towards(v, nearest, control)


def automatic(name, memory, freeze_step):
    """Returns what strength="auto" stands for: a schedule that is on the grid by the freeze.

    Args:
      name: one of `NAMES`, or None for one that takes tau.
      memory: the optimizer's.
      freeze_step: int >= 2.
    """
    if name == "relax":
        return schedules.Linear(1 / freeze_step)
    if name == "piecewise_affine":
        return schedules.Sigmoid(0, freeze_step)
    return schedules.TotalPull(freeze_step, memory=memory)


def tau_in_units(share, name, v, quantizer, levels):
    """Returns tau, or one for each group, from the value of a `TotalPull`.

    Args:
      share: that value: of a total of its own, or the share of the map's `TOTAL_PULL`.
      name, v, quantizer, levels: as in `apply`.
    """
    if name != "l1":
        return share
    if quantizer.fixed_level is not None:
        return share * quantizer.fixed_level
    gaps = 2 * max(1, levels.shape[-1] - 1)
    half_distance = (levels[..., -1] - levels[..., 0]) / gaps
    return ops.cast(share, v.dtype) * quantizer.spread(v, half_distance)
