"""Which form a weight gets under which profile."""

import dataclasses
from collections.abc import Callable

import numpy as np

from tf_proxquant.litert.forms import encodings as forms
from tf_proxquant.litert.forms import planes
from tf_proxquant.litert.read import levels
from tf_proxquant.litert.report import TensorRow

# A form that keeps more than this share of the bytes is not worth its operators.
WORTHWHILE = 0.8


# What decoding a weight at every call may cost beside using it, in the default small profile.
MAX_DECODE_SHARE = 2.0
CHEAP_DECODE = 0.5  # ns per weight: element-wise operators
FEW_WEIGHTS = 4096
BUILTIN_COST = 0.06  # ns per multiply-add of a builtin kernel, x86 with AVX2
XNNPACK_COST = 0.02


@dataclasses.dataclass(frozen=True)
class Profile:
    """How an export chooses.

    Attributes:
      candidates: function (weights, axis) -> iterable of `Encoding` or None.
      strip_names: drop tensor names and metadata.
      error_budget: largest output error relative to the largest output that passes verification.
      looks_up: decode only the rows of a table that are asked for, see `lookup`.
      is_balanced: turn convolutions into matrix products first, see `balanced`.
      is_dynamic: feed integer weights straight into dense layers first, see `dynamic`.
      is_static: integer activations calibrated on data, see `static`.
      is_budgeted: obeys `max_slowdown`, see `budget`.
    """

    candidates: Callable
    strip_names: bool = False
    error_budget: float = 2e-5
    looks_up: bool = False
    is_balanced: bool = False
    is_dynamic: bool = False
    is_static: bool = False
    is_budgeted: bool = False


def _fast(weights, axis):
    yield forms.encode_integer(weights, 8, axis)


def _small(weights, axis):
    yield planes.encode_planes(weights, axis)
    for bits in (2, 4, 8):
        yield forms.encode_integer(weights, bits, axis)
    yield forms.encode_clamp(weights, axis)
    yield forms.encode_sum(weights, axis)
    for bits in (2, 4, 8):
        yield forms.encode_table(weights, bits, axis)


PROFILES = {
    "fast": Profile(_fast),
    "small": Profile(_small, strip_names=True, looks_up=True, is_budgeted=True),
    "balanced": Profile(_fast, strip_names=True, is_balanced=True),
    # Activations of 8 bits: what passes is no longer rounding, only short of garbage.
    "dynamic": Profile(_fast, strip_names=True, error_budget=0.25, looks_up=True, is_dynamic=True),
    "static": Profile(_fast, strip_names=True, error_budget=0.25, is_static=True),
}


def get(name):
    """The profile called `name`. Raises: ValueError: listing the names, if there is none."""
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {sorted(PROFILES)}. Received: {name!r}")
    return PROFILES[name]


def choose(weight, profile, remark="", accepts=None):
    """The smallest encoding of a `rewrite.Weight` that a profile allows, and its report row.

    Args:
      weight: the tensor.
      profile: `Profile`.
      remark: for the row.
      accepts: None, or a function (weight, Encoding) -> bool that narrows the choice.

    Returns: (Encoding or None, TensorRow).
    Raises: ValueError: if the weight has values that are not finite.
    """
    accepts = accepts or pays
    found = [
        encoding
        for encoding in list_encodings(weight, profile)
        if encoding.keeps_xnnpack or accepts(weight, encoding)
    ]
    best = min(found, key=lambda encoding: encoding.num_bytes, default=None)
    if best is not None and best.num_bytes >= WORTHWHILE * weight.values.nbytes:
        return None, _row(weight, None, "too small to gain")
    if best is not None:
        return best, _row(weight, best, remark)
    return None, _row(weight, None, "levels on no integer grid")


def list_encodings(weight, profile):
    """Every encoding of a weight that a profile knows, for each way to divide it in channels."""
    if not np.isfinite(weight.values).all():
        raise ValueError(f"Weight {weight.name!r} of the file has values that are NaN or infinite.")
    return [
        encoding
        for axis in levels.channel_axes(weight.values.ndim)
        for encoding in profile.candidates(weight.values, axis)
        if encoding is not None
    ]


def pays(weight, encoding):
    """Whether decoding at every call is in proportion to what the operator computes."""
    if weight.values.size <= FEW_WEIGHTS or encoding.decode_cost <= CHEAP_DECODE:
        return True
    return encoding.decode_cost <= MAX_DECODE_SHARE * BUILTIN_COST * weight.num_uses


def _row(weight, encoding, reason):
    row = TensorRow.of(
        weight.values,
        name=weight.name,
        operators=weight.consumers,
        form=encoding.form if encoding else "float32",
        bits=encoding.bits if encoding else 32,
        bytes_after=encoding.num_bytes if encoding else weight.values.nbytes,
        reason=reason,
    )
    if encoding is None and row.num_levels is None:
        return dataclasses.replace(row, reason="not quantized: too many distinct values")
    return row
