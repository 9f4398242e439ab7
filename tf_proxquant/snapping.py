"""Snapping a model's weights to their grid, once."""

import keras

from tf_proxquant import optimizers, selection
from tf_proxquant.optimizers import arguments
from tf_proxquant.quantizers import Quantizer
from tf_proxquant.typing import Select


def snap(
    model: keras.Model, quantizer: Quantizer | None = None, select: Select = None
) -> list[tuple]:
    """Rounds a model's weights to their grid now, in place.

    Without a quantizer: the weights that the model's `ProxQuant` or `ProxConnect` has selected, to
    the grid of its quantizers. Weights that are frozen already stay bit-identical. With one: the
    weights of any model, compiled or not, trainable or not, as post-training quantization. Either
    way there is no promise for later steps of training: to hold the weights there, give the
    optimizer a `freeze_step`.

    Args:
      model: a built `keras.Model`.
      quantizer: `Quantizer`; axis=-1 means the output channel of each layer. None takes the
        optimizer's, or those of the dict in `select`.
      select: which variables, in one of the forms of `tf_proxquant.selection`. None = every
        kernel and embedding table.

    Returns: list of (variable, quantizer) of the snapped weights.
    Raises: ValueError: if there is neither a quantizer nor a quantizing optimizer, the model is not
      built, nothing is selected, or a weight is NaN or inf; then no weight has been moved.

    Example:
      >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
      >>> [(variable, quantizer)] = snap(model, Uniform(4, axis=-1))
    """
    if quantizer is None and not isinstance(select, dict):
        if select is not None:
            raise ValueError(
                "`select` needs a quantizer for what it selects. Received: quantizer=None, "
                f"select={select!r}. Pass for example pq.Uniform(4, axis=-1)."
            )
        optimizers.snap(model)
        return optimizers.find_optimizer(model).quantized_variables
    arguments.check_quantizers(quantizer, select)
    if not getattr(model, "built", False):
        raise ValueError(
            f"`snap` needs a built model, to know its weights. Received: {model!r}. Call it on "
            "data or `model.build(input_shape)` first."
        )
    pairs = selection.resolve(select, quantizer, model.weights)
    for variable, values in [(v, _quantized(v, q)) for v, q in pairs]:
        variable.assign(values)
    return pairs


def _quantized(variable, quantizer):
    try:
        return quantizer(variable)
    except ValueError as error:
        raise ValueError(f"'{selection.path(variable)}': {error}") from error
