"""Which form each weight gets, and why: one file for each profile."""

import dataclasses
from collections.abc import Callable
from typing import get_args

from tf_proxquant.litert.plan import balanced, dynamic, fast, half, portable, small, static
from tf_proxquant.litert.plan.plan import IO, WEIGHTS, Change, Plan, Request
from tf_proxquant.typing import Constants


@dataclasses.dataclass(frozen=True)
class Profile:
    """What an export under this name does.

    Attributes:
      plan: function (`flatbuffer.Model`, `Request`) -> `Plan`, of nothing else: no clock.
      error_limit: largest output error, relative to the largest output, that passes.
      names: whether all tensors get names, or only weights.
      is_integer: whether the plan starts from the converter's integer file, see `static`.
    """

    plan: Callable
    error_limit: float = 2e-5
    names: bool = True
    is_integer: bool = False


CONSTANTS = (None, *get_args(Constants))

# Where activations have 8 bits, what passes is no longer rounding, only short of a wrong kernel.
PROFILES = {
    "fast": Profile(fast.plan),
    "portable": Profile(portable.plan),
    "small": Profile(small.plan, names=False),
    "balanced": Profile(balanced.plan),
    "dynamic": Profile(dynamic.plan, error_limit=0.1),
    "static": Profile(static.plan, error_limit=0.1, is_integer=True),
}


# In place of "fast" where constants="float16" is asked for.
HALF = Profile(half.plan, error_limit=0.01)


def get(name, constants=None):
    """The profile called `name`.

    Raises: ValueError: listing the names, if there is none, or if it takes no such constants.
    """
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {sorted(PROFILES)}. Received: {name!r}")
    if constants not in CONSTANTS:
        raise ValueError(f"constants must be one of {CONSTANTS}. Received: {constants!r}")
    if constants is None:
        return PROFILES[name]
    if name != "fast":
        raise ValueError(
            f"constants={constants!r} stores every weight so, in place of the codes of a profile: "
            f'leave the profile out, or "fast". Received: profile={name!r}'
        )
    return HALF


__all__ = [
    "CONSTANTS",
    "IO",
    "PROFILES",
    "WEIGHTS",
    "Change",
    "Plan",
    "Profile",
    "Request",
    "get",
]
