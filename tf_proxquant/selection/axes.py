"""Output channels: which axes of a variable they are, for the layer that owns it.

Keras lays kernels out in many ways, and a variable does not know its layer. Here the layers that
are alive are asked which of them owns it.
"""

import copy
import gc
from typing import Any

import keras
from keras import layers

from tf_proxquant.typing import Axis

ROWS, LAST = 0, -1

_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


def with_channel_axes(pairs: list[tuple]) -> list[tuple]:
    """Resolves axis=-1, the output channel, in pairs of a variable and its quantizer.

    Args:
      pairs: list of (variable, quantizer).

    Returns: the list, in which a quantizer whose `axis` is -1 is replaced by a copy with the
      variable's own axes where these are others. One copy serves all variables of equal axes.
    """
    if not any(_means_channel(quantizer) for _, quantizer in pairs):
        return pairs
    owners = owning_layers([variable for variable, _ in pairs])
    copies, resolved = {}, []
    for variable, quantizer in pairs:
        if _means_channel(quantizer):
            axis = channel_axis(variable, owners[id(variable)])
            if axis != LAST:
                key = id(quantizer), axis
                if key not in copies:
                    copies[key] = copy.copy(quantizer)
                    copies[key].axis = axis
                quantizer = copies[key]
        resolved.append((variable, quantizer))
    return resolved


def channel_axis(variable: keras.Variable, owners: list[keras.Layer]) -> Axis:
    """Returns the axes of a variable along which the outputs of its layer differ.

        table of an embedding (rows, size)               0: a row for each entry
        kernel of Conv*Transpose (..., out, in)          the last but one
        depthwise kernel (..., in, multiplier)           both, for in x multiplier channels
        kernel of EinsumDense, as in attention layers    those that its equation gives the output
        everything else                                  -1: Dense, Conv*, pointwise and recurrent
                                                         kernels, with a column for each unit
                                                         of each gate; layers of one's own

    Args:
      variable: `keras.Variable`.
      owners: the layers that hold it, more than one where it is shared. A table that also makes
        the output (tied) counts by rows.

    Returns: int, tuple of ints, or None where no axis of a kernel reaches the output.
    """
    name = variable.name.rsplit("/", 1)[-1].split(":")[0]
    if name == "embeddings":
        return ROWS
    if name == "depthwise_kernel":
        return (-2, -1)
    if name != "kernel":
        return LAST
    for layer in owners:
        if isinstance(layer, _TRANSPOSED):
            return -2
        if isinstance(layer, _DEPTHWISE):
            return (-2, -1)
        if isinstance(layer, layers.EinsumDense):
            return _einsum_axes(layer.equation)
    return LAST


def owning_layers(variables: list[keras.Variable]) -> dict[int, list[keras.Layer]]:
    """Finds the layers whose own variables include these, among all that are alive.

    An optimizer is given variables and never the model, and Keras keeps no way from one to the
    other. One pass over the objects that the garbage collector tracks finds every layer: at any
    depth, in wrappers, in models that call other models. It takes .1 s for each half million
    objects and runs once for each build. Types are compared, not objects, for a proxy may answer
    for what it stands for.

    Args:
      variables: list of `keras.Variable`s.

    Returns: dict from the id of each variable to a list of layers, which is empty where the layer
      is gone, or was set aside by `gc.freeze`.
    """
    owners: dict[int, list] = {id(variable): [] for variable in variables}
    for variable, layer in _holdings():
        if id(variable) in owners:
            owners[id(variable)].append(layer)
    return owners


def _holdings():
    """Yields (variable, layer that holds it itself), for all that are alive.

    A generator: AutoGraph, which rewrites what a `tf.function` calls, leaves those alone.
    Rewritten, this loop would take seconds and meet objects of AutoGraph's own.
    """
    is_layer: dict[type, bool] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if kind not in is_layer:
            is_layer[kind] = issubclass(kind, keras.Layer)
        if is_layer[kind]:
            # Empty while the constructor of a layer has not begun.
            for name in ("_trainable_variables", "_non_trainable_variables"):
                yield from ((variable, thing) for variable in vars(thing).get(name, ()))


def _means_channel(quantizer: Any) -> bool:
    return getattr(quantizer, "axis", None) == LAST


def _einsum_axes(equation):
    """Axes of the kernel, the second operand, whose letters occur in the output."""
    kernel, output = equation.split(",")[1].split("->")
    axes = tuple(i for i, letter in enumerate(kernel) if letter in output)
    if axes == (len(kernel) - 1,):
        return LAST
    return axes[0] if len(axes) == 1 else axes or None
