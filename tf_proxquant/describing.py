"""One line about an object: its class, and the arguments that differ from their defaults."""

import inspect
from typing import Any

import keras

_MAX_ITEMS = 4
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def describe(thing: Any, **values: Any) -> str:
    """Returns "Class(needed, name=value)" with the optional arguments that are not the default.

    Args:
      thing: object whose constructor's arguments are attributes of the same names; one that is
        none is left out.
      **values: of arguments that were given otherwise than the attribute says.
    """
    parts = []
    for name, parameter in _parameters(thing):
        value = values.get(name, getattr(thing, name, parameter.default))
        if parameter.default is parameter.empty:
            parts += [] if value is parameter.empty else [_text(value)]
        elif not _is_same(value, parameter.default):
            parts.append(f"{name}={_text(value)}")
    return f"{type(thing).__name__}({', '.join(parts)})"


def describe_by_config(thing: Any) -> str:
    """Returns the same of an object of Keras, whose `get_config` says what it was made from."""
    try:
        config = thing.get_config()
    except Exception:  # debuggers and error messages read this: it must not raise
        return f"{type(thing).__name__}(...)"
    parts = []
    for name, parameter in _parameters(thing):
        value = _rounded(config.get(name, parameter.default))
        if name != "name" and not _is_same(value, parameter.default):
            parts.append(f"{name}={_text(value)}")
    return f"{type(thing).__name__}({', '.join(parts)})"


def _parameters(thing):
    signature = inspect.signature(type(thing).__init__)
    return [
        (name, parameter)
        for name, parameter in signature.parameters.items()
        if name != "self" and parameter.kind not in _VARIADIC
    ]


def _is_same(value, default):
    is_plain = isinstance(value, (bool, int, float, str))
    return value is default or (is_plain and value == default)


def _rounded(value):
    """A learning rate was float32 in between: 0.1 comes back as 0.10000000149."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _text(value):
    if isinstance(value, keras.optimizers.Optimizer) and "__repr__" not in _own_names(value):
        return describe_by_config(value)
    if isinstance(value, dict) and isinstance(value.get("config"), dict):  # a serialized object
        shown = {k: v for k, v in value["config"].items() if k != "name" and v is not None}
        parts = [f"{k}={_text(_rounded(v))}" for k, v in shown.items()]
        return f"{value['class_name']}({', '.join(parts)})"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{type(value).__name__} {tuple(value.shape)}>"
    if isinstance(value, (list, tuple)):
        if len(value) > _MAX_ITEMS:
            return f"<{type(value).__name__} of {len(value)}>"
        inner = ", ".join(map(_text, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return getattr(value, "__name__", None) or repr(value)


def _own_names(value):
    """Names that a class defines itself, rather than Keras."""
    classes = [c for c in type(value).__mro__ if c.__module__.split(".")[0] != "keras"]
    return {name for c in classes if c is not object for name in vars(c)}
