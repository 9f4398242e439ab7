"""Selection: which variables are quantized, and with which quantizer.

`select` takes one of five forms, the same for every optimizer of the package:

    None                       every trainable kernel and embedding table
    "regex" or ["regex", ...]  `re.search` on `variable.path`
    callable                   callable(variable) -> bool
    {"regex": quantizer}       mixed precision; None keeps full precision
"""

import re
from typing import Any

import keras

from tf_proxquant.typing import Select

DEFAULT_NAMES = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel", "embeddings")


def resolve(select: Select, quantizer: Any, variables: list[keras.Variable]) -> list[tuple]:
    """Pairs the selected variables with their quantizers.

    Args:
      select: one of the forms above.
      quantizer: the quantizer of every selected variable; with a dict, of the
        kernels that no pattern matches, and then it may be None.
      variables: list of `keras.Variable`.

    Returns: list of (variable, quantizer), in the order of `variables`.
    Raises: ValueError: if nothing is selected, a pattern matches nothing, two
      patterns disagree about a variable, or a selected variable is not float.
    """
    if isinstance(select, dict):
        pairs = _resolve_patterns(select, quantizer, variables)
    else:
        pairs = [(v, quantizer) for v in variables if _predicate(select, variables)(v)]
    if not pairs:
        raise ValueError(_nothing_selected(select, variables))
    for variable, _ in pairs:
        if not keras.backend.is_float_dtype(variable.dtype):
            raise ValueError(
                "Only floating-point variables can be quantized. Received: "
                f"'{path(variable)}' of dtype {variable.dtype}. Leave it out of `select`."
            )
    return pairs


def select_kernels(
    model: keras.Model,
    skip_first: bool = False,
    skip_last: bool = False,
    skip: str | list[str] | tuple[str, ...] = (),
) -> list[str]:
    """Selects a built model's kernels and embedding tables by their paths within the model.

    Args:
      model: a built `keras.Model` or `keras.Layer`.
      skip_first: True leaves the first of them in full precision.
      skip_last: True leaves the last one in full precision.
      skip: regex or list of regexes; what they match (`re.search` on the path)
        is left in full precision.

    Returns: list of regexes, one per variable, for an optimizer's `select`. The
      order is that of `model.trainable_variables`.
    Raises: ValueError: if the model is not built or nothing is left.

    Example:
      >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden"),
      ...                           keras.layers.Dense(2, name="head")])
      >>> select_kernels(model, skip_last=True)
      ['(^|/)hidden/kernel$']
    """
    if not getattr(model, "built", False):
        raise ValueError(
            f"`select_kernels` needs a built model, to know its variables. Received: {model!r}. "
            "Call it on data or `model.build(input_shape)` first."
        )
    kernels = [v for v in model.trainable_variables if is_kernel(v)]
    kernels = kernels[1 if skip_first else 0 :]
    kernels = kernels[: -1 if skip_last else None]
    patterns = _patterns(skip, "skip")
    kept = [v for v in kernels if not any(re.search(p, path(v)) for p in patterns)]
    if not kept:
        raise ValueError(_nothing_selected(None, model.trainable_variables))
    # Without the model's own name, which Keras numbers anew in each process.
    names = [path(v).removeprefix(f"{model.name}/") for v in kept]
    return [f"(^|/){re.escape(name)}$" for name in names]


def is_kernel(variable: keras.Variable) -> bool:
    """True for what `select=None` selects: kernels and embedding tables."""
    return path(variable).rsplit("/", 1)[-1] in DEFAULT_NAMES


def path(variable: keras.Variable) -> str:
    """The variable's path; of a native variable, its name."""
    return getattr(variable, "path", None) or variable.name


def validate(select: Select) -> None:
    """Raises ValueError unless `select` has one of the five forms."""
    if select is None or callable(select):
        return
    _patterns(list(select) if isinstance(select, dict) else select, "select")


def _predicate(select, variables):
    if select is None:
        return is_kernel
    if callable(select):
        return select
    patterns = _patterns(select, "select")
    _check_all_match(patterns, variables)
    return lambda variable: any(re.search(p, path(variable)) for p in patterns)


def _resolve_patterns(select, default, variables):
    patterns = _patterns(list(select), "select")
    _check_all_match(patterns, variables)
    pairs = []
    for variable in variables:
        matching = [p for p in patterns if re.search(p, path(variable))]
        choices = [select[p] for p in matching]
        if any(choice is not choices[0] for choice in choices):
            raise ValueError(
                "Each variable must match patterns of one quantizer only. Received: "
                f"'{path(variable)}', which matches {matching}. Make the patterns disjoint."
            )
        chosen = choices[0] if matching else default if is_kernel(variable) else None
        if chosen is not None:
            pairs.append((variable, chosen))
    return pairs


def _patterns(value, name):
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
        raise ValueError(
            f"`{name}` must be a regex or a list of regexes"
            + (", a callable, a dict or None. " if name == "select" else ". ")
            + f"Received: {name}={value!r}."
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`{name}` holds an invalid regex ({error}). Received: {pattern!r}."
            ) from error
    return list(patterns)


def _check_all_match(patterns, variables):
    for pattern in patterns:
        if not any(re.search(pattern, path(v)) for v in variables):
            raise ValueError(_nothing_selected(pattern, variables))


def _nothing_selected(select, variables):
    candidates = "\n".join(f"  {path(v)} {tuple(v.shape)}" for v in variables)
    return (
        f"Nothing to quantize: no trainable variable matches. Received: select={select!r}. "
        f"The trainable variables are:\n{candidates}"
    )
