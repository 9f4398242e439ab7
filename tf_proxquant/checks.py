"""Checks of arguments: each returns the value in its plain type or raises ValueError.

A message says the name, what is expected and, last, what was received.
"""

import math
from typing import Any


def check_flag(name: str, value: Any) -> bool:
    """Returns `value` if it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return value


def check_choice(name: str, value: Any, choices: tuple) -> Any:
    """Returns `value` if it is one of `choices`."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        expected = " or ".join(", ".join(map(repr, choices)).rsplit(", ", 1)).replace("'", '"')
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")
    return value


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns `value`, an int or an integer of NumPy, as an int from `low` to `high`."""
    try:
        integer = value.__index__()
    except AttributeError:
        integer = None
    is_inside = integer is not None and low <= integer and (high is None or integer <= high)
    if integer is None or not is_inside or isinstance(value, bool):
        expected = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"`{name}` must be an integer {expected}. Received: {name}={value!r}")
    return integer


def check_number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """Returns `value`, a real number of Python or NumPy, as a finite float from `low` to `high`."""
    kind = getattr(getattr(value, "dtype", None), "kind", "O")
    is_scalar = getattr(value, "ndim", None) == 0 and kind in "iuf"
    is_number = (isinstance(value, (int, float)) and not isinstance(value, bool)) or is_scalar
    if not is_number:
        raise ValueError(f"`{name}` must be a number. Received: {name}={value!r}")
    number = float(value)
    if not math.isfinite(number) or not low <= number <= high:
        expected = f"at least {low:g}" + ("" if high == math.inf else f" and at most {high:g}")
        raise ValueError(f"`{name}` must be finite and {expected}. Received: {name}={value!r}")
    return number


def evaluation_data(data: Any, model: Any) -> dict:
    """The arguments of `model.evaluate` for `data`: its first one, or (x, y[, sample_weight]).

    A list of as many arrays as the model has inputs, two or more, is one argument.
    """
    num_inputs = len(getattr(model, "inputs", None) or ())
    is_inputs = isinstance(data, list) and len(data) == num_inputs > 1
    if is_inputs or not isinstance(data, (tuple, list)):
        return {"x": data}
    if not 1 <= len(data) <= 3:
        raise ValueError(
            "Data must be what `model.evaluate` takes first, (x, y) or (x, y, sample_weight). "
            f"Received: a {type(data).__name__} of {len(data)}."
        )
    return dict(zip(("x", "y", "sample_weight"), data, strict=False))
