"""From `select` to pairs of a variable and its quantizer."""

import re
from collections.abc import Callable

import keras

from tf_proxquant.selection.axes import with_channel_axes
from tf_proxquant.selection.kernels import (
    KernelSelection,
    as_patterns,
    is_kernel,
    nothing_selected,
    path,
)
from tf_proxquant.typing import Select


def resolve(
    select: Select, quantizer: Callable | None, variables: list[keras.Variable]
) -> list[tuple]:
    """Pairs the selected variables with their quantizers.

    A quantizer with axis=-1 gets levels for each output channel of the layer that a variable
    belongs to, whichever axes those are: see `channel_axis`. Any other axis is taken literally.

    Args:
      select: one of the forms that the module lists.
      quantizer: the quantizer of every selected variable; with a dict, of the
        kernels that no pattern matches, and then it may be None.
      variables: list of `keras.Variable`.

    Returns: list of (variable, quantizer), in the order of `variables`. The quantizer is the one
      given, or a copy of it with another `axis`.
    Raises: ValueError: if nothing is selected, a pattern matches nothing, two
      patterns disagree about a variable, or a selected variable is not float.
    """
    if isinstance(select, dict):
        pairs = _resolve_dict(select, quantizer, variables)
    elif select is None:
        pairs = [(v, quantizer) for v in variables if is_kernel(v)]
    else:
        pairs = [(v, quantizer) for v in _chosen(select, variables)]
    if not pairs:
        raise ValueError(nothing_selected(select, variables))
    for variable, _ in pairs:
        if not keras.backend.is_float_dtype(variable.dtype):
            raise ValueError(
                "Only floating-point variables can be quantized. Received: "
                f"'{path(variable)}' of dtype {variable.dtype}. Leave it out of `select`."
            )
    return with_channel_axes(pairs)


def validate(select: Select) -> None:
    """Raises ValueError unless `select` has one of the forms that the module lists."""
    if select is None or callable(select):
        return
    if isinstance(select, dict):
        select = [key for key in select if not isinstance(key, KernelSelection)]
    as_patterns(select, "select")


def _chosen(select, variables):
    """The variables that a selection, a callable, a regex or a list of regexes chooses."""
    if isinstance(select, KernelSelection):
        return select.among(variables)
    if callable(select):
        return [v for v in variables if select(v)]
    patterns = as_patterns(select, "select")
    for pattern in patterns:
        if not any(re.search(pattern, path(v)) for v in variables):
            raise ValueError(nothing_selected(pattern, variables))
    return [v for v in variables if any(re.search(p, path(v)) for p in patterns)]


def _resolve_dict(select, default, variables):
    validate(select)
    chosen = {key: {id(v) for v in _chosen(key, variables)} for key in select}
    pairs = []
    for variable in variables:
        matching = [key for key in select if id(variable) in chosen[key]]
        choices = [select[key] for key in matching]
        if any(choice is not choices[0] for choice in choices):
            raise ValueError(
                "Each variable must match patterns of one quantizer only. Received: "
                f"'{path(variable)}', which matches {matching}. Make the patterns disjoint."
            )
        quantizer = choices[0] if matching else default if is_kernel(variable) else None
        if quantizer is not None:
            pairs.append((variable, quantizer))
    return pairs
