"""The quantizing optimizer that a model is compiled with."""

import keras

from tf_proxquant.optimizers.base import QuantizingOptimizer


def is_quantizing(model: keras.Model) -> bool:
    """Whether the model is compiled with ProxQuant or ProxConnect."""
    return _unwrapped(model) is not None


def _unwrapped(model):
    optimizer = getattr(model, "optimizer", None)
    while optimizer is not None and not isinstance(optimizer, QuantizingOptimizer):
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return optimizer


def find_optimizer(model: keras.Model) -> QuantizingOptimizer:
    """Returns the model's ProxQuant or ProxConnect, unwrapped of loss scaling.

    Raises: ValueError: if the model is not compiled with one of them.
    """
    optimizer = _unwrapped(model)
    if optimizer is None:
        raise ValueError(
            "The model must be compiled with pq.ProxQuant or pq.ProxConnect. Received a model "
            f"with optimizer {getattr(model, 'optimizer', None)!r}."
        )
    return optimizer


def built_optimizer(model: keras.Model) -> QuantizingOptimizer:
    """Returns `find_optimizer(model)`, built on the model's trainable variables.

    Raises: ValueError: if the model is not compiled with one, or not built itself.
    """
    optimizer = find_optimizer(model)
    if not optimizer.built:
        if not model.built:
            raise ValueError(
                f"The model must be built, to know its weights. Received: {model!r}. Call it on "
                "data or `model.build(input_shape)` first."
            )
        optimizer.build(model.trainable_variables)
    return optimizer


def snap(model: keras.Model) -> None:
    """Rounds the model's selected weights to their grid now, in place.

    Once, with no promise for later steps: to hold them there, give the optimizer a
    `freeze_step`. Weights that are frozen already stay bit-identical.

    Args:
      model: a model compiled with `ProxQuant` or `ProxConnect`.

    Raises: ValueError: if it is not, or not built.
    """
    built_optimizer(model).snap()
