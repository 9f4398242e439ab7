"""A plan: what becomes of each weight of a file, and why."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np

from tf_proxquant.litert.forms.form import Decoded, Form
from tf_proxquant.litert.read import flatbuffer, levels
from tf_proxquant.litert.read.weights import Weight
from tf_proxquant.litert.report import TOO_SMALL
from tf_proxquant.typing import Io, Profile, Storage

# A form that keeps more than this share of the bytes is not worth its operators.
WORTHWHILE = 0.8
TAKE_SLOWDOWN = ("small", "balanced")
IO = get_args(Io)
# How "static" stores weights; the first one is what every reader takes.
WEIGHTS = get_args(Storage)

DENSE = "FULLY_CONNECTED"
DENSE_BITS = 4  # by default
SCALES_NOTE = (
    "tflite-micro computes codes with a scale for each channel wrongly, and GPU delegates refuse "
    "them: for these take profile='portable'"
)
DENSE_NOTE = (
    "OpenVINO and onnxruntime round the inputs of its dense layers to 8 bits, unless told not to: "
    "see docs/readers.md, or take profile='portable'"
)

NO_LEVELS = "not quantized: too many distinct values"
NO_GRID = "levels on no integer grid"
NO_FORM = "levels that no form of this profile stores"


@dataclasses.dataclass(frozen=True)
class Change:
    """What becomes of one weight.

    Attributes:
      weight: as it is in the file that the plan is made for.
      form: how it is stored from now on; None leaves it as it is.
      reason: why it stays, or a remark; "" if there is none.
      read_by: names of the operators that read it then.
    """

    weight: Weight
    form: Form | None
    reason: str = ""
    read_by: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every weight of a file, in the order of the readers, and notes for the report."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Request:
    """What a user asks of an export, checked.

    Attributes:
      profile: its name.
      max_slowdown: latency allowed over that of the float file; None for the profile's own.
      dense_bits: fewest bits of a dense layer's weights under "dynamic".
      io: type of the inputs and outputs, of "static".
      weights: how "static" stores them, of `WEIGHTS`.
      float_model: the float `flatbuffer.Model` behind an integer file, for "static".
    """

    profile: Profile = "fast"
    max_slowdown: float | None = None
    dense_bits: int = DENSE_BITS
    io: Io = "float32"
    weights: Storage = "int8"
    float_model: flatbuffer.Model | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        if self.dense_bits not in (2, 4, 8):
            raise ValueError(f"dense_bits must be 2, 4 or 8. Received: {self.dense_bits!r}")
        if self.dense_bits != DENSE_BITS and self.profile != "dynamic":
            raise ValueError(
                'dense_bits goes with profile="dynamic". '
                f"Received: dense_bits={self.dense_bits} with profile={self.profile!r}"
            )
        if self.io not in IO:
            raise ValueError(f"io must be one of {IO}. Received: {self.io!r}")
        if self.io != IO[0] and self.profile != "static":
            raise ValueError(
                'Integer inputs and outputs go with profile="static". '
                f"Received: io={self.io!r} with profile={self.profile!r}"
            )
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights must be one of {WEIGHTS}. Received: {self.weights!r}")
        if self.weights != WEIGHTS[0] and self.profile != "static":
            raise ValueError(
                'Another storage of integer weights goes with profile="static". '
                f"Received: weights={self.weights!r} with profile={self.profile!r}"
            )
        slowdown = self.max_slowdown
        is_number = isinstance(slowdown, int | float) and not isinstance(slowdown, bool)
        if slowdown is not None and not (is_number and slowdown >= 1):
            raise ValueError(f"max_slowdown must be a number >= 1. Received: {slowdown!r}")
        if slowdown is not None and self.profile not in TAKE_SLOWDOWN:
            raise ValueError(
                'max_slowdown goes with the profiles "small" and "balanced". '
                f"Received: max_slowdown={slowdown!r} with profile={self.profile!r}"
            )

    @property
    def is_unlimited(self):
        """Whether the smallest form is wanted whatever it costs."""
        return self.max_slowdown == math.inf


def smallest(weight, forms):
    """The `Change` to the smallest of some forms, or to none of them.

    Args:
      weight: `Weight`.
      forms: iterable of `Form` or None.
    """
    best = min((f for f in forms if f is not None), key=lambda form: form.num_bytes, default=None)
    if best is None:
        return kept(weight)
    if not is_worthwhile(weight, best):
        return too_small(weight)
    return Change(weight, best, "", weight.consumers)


def is_worthwhile(weight, form):
    """Whether a form saves enough of a weight to be worth its operators."""
    return form.num_bytes < WORTHWHILE * weight.values.nbytes and is_smaller(weight, form)


def is_smaller(weight, form):
    """Whether a form saves anything, also if no other tensor shares its zero points."""
    return form.num_bytes + 8 * form.num_zero_points < weight.values.nbytes


def kept(weight, reason=None):
    """The `Change` that leaves a weight as it is, with the reason that its values give."""
    if reason is None:
        reason = NO_LEVELS
        _, num_levels = levels.count_levels(weight.values)
        if num_levels is not None:
            axes = levels.channel_axes(weight.values.ndim)
            is_on_grid = any(levels.is_on_grid(weight.values, axis) for axis in axes)
            reason = NO_FORM if is_on_grid else NO_GRID
    return Change(weight, None, reason, weight.consumers)


def too_small(weight):
    """The `Change` that leaves a weight float because no form saves enough."""
    counts = levels.count_levels(weight.values)[1], levels.count_codes(weight.values)[1]
    has_levels = counts != (None, None)
    return kept(weight, TOO_SMALL if has_levels else NO_LEVELS)


def on_each_axis(weight: Weight, *encoders: Callable) -> Iterator:
    """Yields what `encoders`, functions of (values, axis), make of each division in channels."""
    for axis in levels.channel_axes(weight.values.ndim):
        for encode in encoders:
            yield encode(weight.values, axis)


def reader_notes(changes):
    """Notes on the programs that are known to compute something else from codes of 8 bits.

    Args:
      changes: iterable of `Change`.

    Returns: tuple of str.
    """
    behind = [c for c in changes if isinstance(c.form, Decoded) and c.form.name == "int8"]
    notes = (SCALES_NOTE,) if any(change.form.num_scales > 1 for change in behind) else ()
    has_dense = any(DENSE in change.read_by for change in behind)
    return (*notes, DENSE_NOTE) if has_dense else notes


def check_finite(weights):
    """Raises ValueError, naming the first weight with a NaN or inf."""
    for weight in weights:
        if not np.isfinite(weight.values).all():
            raise ValueError(
                f"Weight {weight.name!r} of the file has values that are NaN or infinite."
            )
    return weights
