"""Checks and configs of the optimizers' arguments."""

import warnings

import keras

from tf_proxquant import checks, schedules
from tf_proxquant.optimizers import maps
from tf_proxquant.quantizers import Quantizer

_BELONGS_TO_INNER = (
    "learning_rate",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


def check_inner(outer, inner_optimizer, not_a):
    """Returns the inner optimizer, an instance that is not a `not_a`, or raises ValueError."""
    if isinstance(inner_optimizer, str):
        inner_optimizer = keras.optimizers.get(inner_optimizer)
    if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            f"{outer} wraps a keras.optimizers.Optimizer. Received: "
            f"inner_optimizer={inner_optimizer!r}. Pass for example keras.optimizers.Adam(0.01)."
        )
    if isinstance(inner_optimizer, not_a):
        raise ValueError(
            f"{outer} cannot wrap another quantizing optimizer. Received: inner_optimizer="
            f"{type(inner_optimizer).__name__}. Pass its own inner optimizer instead."
        )
    if isinstance(inner_optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"{outer} cannot wrap a LossScaleOptimizer, whose skipped steps it would not see. "
            f"Use the other order: LossScaleOptimizer({outer}(...))."
        )
    return inner_optimizer


def refuse(outer, kwargs):
    """Raises ValueError if there are arguments left; names the place of Keras' own."""
    for argument in kwargs:
        if argument in _BELONGS_TO_INNER:
            raise ValueError(
                f"{outer} does not take `{argument}`. Received: {argument}={kwargs[argument]!r}. "
                "Set it on the inner optimizer."
            )
    if kwargs:
        raise ValueError(f"{outer} does not know the arguments {sorted(kwargs)}.")


def check_quantizers(quantizer, select):
    """Raises ValueError unless `quantizer`, and the values of a dict, are quantizers."""
    chosen = [quantizer]
    if isinstance(select, dict):
        chosen = [q for q in [quantizer, *select.values()] if q is not None]
    for item in chosen:
        if not isinstance(item, Quantizer):
            raise ValueError(
                f"A quantizer must be a pq.quantizers.Quantizer. Received: {item!r}. "
                "Pass for example pq.Binary(), an instance."
            )


def check_prox(prox, kwargs):
    """Returns `prox`, or its former name taken out of `kwargs`; or raises ValueError."""
    regularizer = kwargs.pop("regularizer", None)
    for name, value in (("prox", prox), ("regularizer", regularizer)):
        if value is not None and value not in maps.NAMES:
            raise ValueError(
                f"`prox` must be one of {maps.NAMES} or None. Received: {name}={value!r}."
            )
    if regularizer is None:
        return prox
    if prox not in (None, regularizer):
        raise ValueError(
            "`regularizer` is the former name of `prox`. Received: "
            f"regularizer={regularizer!r} and prox={prox!r}. Pass `prox` only."
        )
    warnings.warn(
        f"`regularizer` is now called `prox`. Pass prox={regularizer!r}.",
        DeprecationWarning,
        stacklevel=3,
    )
    return regularizer


def as_schedule(strength, name, memory, freeze_step):
    """Returns the schedule of a map: a number as `Constant`, "auto" as `maps.automatic`.

    Args:
      strength: as the user gives it.
      name: name of the map, None for one that takes tau.
      memory: float in [0, 1].
      freeze_step: as the user gives it.

    Returns: a schedule or callable; None for "hard".
    Raises: ValueError: for what the map does not take, "auto" without a freeze to arrive at, other
      strings, and numbers out of range.
    """
    if isinstance(strength, str) and strength != "auto":
        raise ValueError(
            '`strength` must be a float >= 0, a schedule or "auto". '
            f"Received: strength={strength!r}."
        )
    if name == "hard":
        if strength is not None and strength != "auto":
            raise ValueError(f"prox='hard' takes no `strength`. Received: strength={strength!r}.")
        return None
    if strength is None:
        raise ValueError(
            f"prox={name!r} needs a `strength`: a float >= 0, a schedule such as "
            'pq.schedules.Linear(0.01), or "auto". Received: strength=None.'
        )
    if isinstance(strength, str):
        if freeze_step is None or checks.check_integer("freeze_step", freeze_step, 0) < 2:
            raise ValueError(
                'strength="auto" needs a `freeze_step` of at least 2, to be on the grid by then. '
                f"Received: freeze_step={freeze_step!r}."
            )
        return maps.automatic(name, memory, freeze_step)
    _check_share(strength, name)
    if callable(strength):
        return strength
    return schedules.Constant(checks.check_number("strength", strength))


def is_automatic(strength, name, memory, freeze_step):
    """Whether a schedule is the one that `as_schedule` makes from "auto"."""
    if strength is None or freeze_step is None or freeze_step < 2:
        return False
    return repr(strength) == repr(maps.automatic(name, memory, freeze_step))


def _check_share(strength, name):
    """Raises ValueError for what is no share where the map takes one."""
    if name in (None, *maps.WITH_TAU):
        return
    is_number = isinstance(strength, (int, float))
    if (is_number and not 0 <= strength <= 1) or getattr(strength, "is_pull", False):
        raise ValueError(
            f"prox={name!r} takes a strength in [0, 1], a float or a schedule. "
            f"Received: strength={strength!r}."
        )


def check_positive(name, value):
    """Returns `value` as a finite float > 0, or raises ValueError."""
    value = checks.check_number(name, value)
    if value == 0:
        raise ValueError(f"`{name}` must be greater than 0, or None. Received: {name}=0.")
    return value


def check_jit_compile(jit_compile):
    """Returns `jit_compile`, or raises ValueError."""
    if jit_compile not in (True, False, "auto"):
        raise ValueError(
            f'`jit_compile` must be True, False or "auto". Received: jit_compile={jit_compile!r}.'
        )
    return jit_compile


def serialize_select(select):
    """Returns `select` as a config."""
    serialize = keras.saving.serialize_keras_object
    if isinstance(select, dict):
        return {"choices": [[serialize(key), serialize(q)] for key, q in select.items()]}
    return serialize(select) if callable(select) else select


def deserialize(config, custom_objects):
    """Revives what `serialize_select` or Keras wrote."""

    def revive(item):
        return keras.saving.deserialize_keras_object(item, custom_objects=custom_objects)

    if set(config) == {"choices"}:
        return {revive(key): revive(item) for key, item in config["choices"]}
    if set(config) == {"patterns"}:  # of a file from before selections were keys
        return {key: revive(item) for key, item in config["patterns"].items()}
    return revive(config)
