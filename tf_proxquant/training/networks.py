"""The networks that an image run can train, all from pixels to logits."""

import importlib
import inspect
import os
import sys
import warnings

import keras
import numpy as np

from tf_proxquant.models import resnet
from tf_proxquant.training import classifier


def build(settings, shape, num_classes, mean, std):
    """Makes the network that the settings name.

    Args:
      settings: `ImageSettings`.
      shape: (height, width, channels) of the images.
      num_classes: int.
      mean: array (channels,), of the training images.
      std: array (channels,) > 0.

    Returns: (`keras.Model` from pixels to logits, whether its last layer is new and all others are
      not).
    Raises: ValueError: if it cannot be made, or does not fit the data.
    """
    if settings.depth:
        first = classifier.normalization(mean, std)
        model, is_begun = (
            resnet(settings.depth, shape, num_classes, width=settings.width, preprocessing=first),
            False,
        )
    elif settings.application:
        model, is_begun = _application(settings, shape, num_classes)
    elif settings.is_file:
        model, is_begun = with_head(load(settings.model), num_classes)
    else:
        model, is_begun = call(settings.model, shape, num_classes), False
    model = fitted(model, settings.model, shape, num_classes, mean, std)
    if settings.weights not in (None, "imagenet"):
        is_begun = load_weights(model, settings.weights)
    return model, is_begun


def fitted(model, name, shape, num_classes, mean, std):
    """A model from pixels to logits, of any that classifies such images.

    Raises: ValueError: if it does not take these images, or does not tell these classes apart.
    """
    if not hasattr(model, "outputs"):
        inputs = keras.Input(shape, name="image")
        model = keras.Model(inputs, model(inputs), name=model.name)
    expected = (None, *shape), (None, num_classes)
    found = tuple(model.input_shape), tuple(model.output_shape)
    takes = len(found[0]) == 4 and all(
        want in (None, have) for want, have in zip(found[0][1:], shape, strict=True)
    )
    if not takes or found[1] != expected[1]:
        raise ValueError(
            f"The model '{name}' does not fit the data. Received: input {found[0]}, output "
            f"{found[1]}. Expected: {expected[0]} and {expected[1]}. Another --image_size may do."
        )
    return classifier.from_pixels(classifier.with_logits(model), shape, mean, std)


def load(path):
    """Loads a .keras file.

    Raises: ValueError: naming the file, if it is none that can be read.
    """
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(f"'{path}' is not a readable Keras model. {error}") from error


def call(name, shape, num_classes):
    """Calls MODULE:FUNCTION for a model.

    Raises: ValueError: if there is no such function, or what it returns is no model.
    """
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"There is no function '{function_name}' in a module '{module_name}': {error}. "
            f"`model` takes MODULE:FUNCTION, and modules of the folder '{os.getcwd()}' are found."
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    try:
        inspect.signature(function).bind(tuple(shape), num_classes)
    except TypeError as error:
        raise ValueError(
            f"'{name}' must take (input_shape, num_classes), and return a keras.Model. Received: "
            f"a function for which this does not fit: {error}."
        ) from error
    model = function(tuple(shape), num_classes)
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"'{name}' must return a keras.Model for (input_shape, num_classes). "
            f"Received: {model!r}."
        )
    return model


def _application(settings, shape, num_classes):
    """(a network of keras.applications behind its own preprocessing, whether it has weights)."""
    inputs = keras.Input(shape, name="image")
    colored = inputs if shape[-1] != 1 else keras.layers.Concatenate()([inputs] * 3)
    make, weights = settings.application, settings.weights
    try:
        base = make(
            include_top=False,
            weights="imagenet" if weights == "imagenet" else None,
            input_tensor=preprocessed(make, colored),
            input_shape=(*shape[:2], 3),
            pooling="avg",
        )
    except Exception as error:
        hint = "Pass another --image_size."
        if weights == "imagenet":
            hint = "Where there is no network, pass a file of weights: --weights=FILE."
        raise ValueError(f"{settings.model} cannot be made: {error}. {hint}") from error
    logits = keras.layers.Dense(num_classes, name="head")(base.output)
    return keras.Model(inputs, logits, name=base.name), weights == "imagenet"


def preprocessed(make, pixels):
    """What the family of a keras.applications model does with pixels from 0 to 255, as layers.

    All of them scale and shift each channel, and some turn RGB into BGR: found by asking.
    """
    ask = sys.modules[make.__module__].preprocess_input
    probe = np.zeros((4, 1, 1, 3), "float32")
    probe[[1, 2, 3], 0, 0, [0, 1, 2]] = 255
    answers = np.asarray(ask(probe, data_format="channels_last"), "float64")[:, 0, 0]
    matrix = (answers[1:] - answers[0]) / 255
    if matrix[0, 2]:
        pixels, matrix = keras.ops.flip(pixels, axis=-1), matrix[::-1]
    scale, offset = np.diag(matrix), answers[0]
    if np.all(scale == 1) and not offset.any():
        return pixels
    return keras.layers.Rescaling(scale.tolist(), offset.tolist(), name="preprocessing")(pixels)


def with_head(model, num_classes):
    """(`model` with a last dense layer for so many classes, whether that is new)."""
    if model.output_shape[-1] == num_classes:
        return model, False
    heads = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    behind = model.layers[model.layers.index(heads[-1]) + 1 :] if heads else model.layers
    if any(layer.weights for layer in behind):
        raise ValueError(
            f"A model for other classes must end in a Dense layer, which is replaced. Received: "
            f"{model.output_shape[-1]} outputs for {num_classes} classes, last layers "
            f"{[layer.name for layer in model.layers[-3:]]}."
        )
    logits = keras.layers.Dense(num_classes, name="new_head")(heads[-1].input)
    return keras.Model(model.inputs[0], logits, name=model.name), True


def load_weights(model, path):
    """Loads weights from a file: all, or all but those of the last layer.

    Args:
      model: from pixels to logits.
      path: of a .keras model of the same layers, or of a .h5 file of weights of the model or of
        its layers before the last one.

    Returns: whether the weights of the last layer are still new.
    Raises: ValueError: naming the file, if it does not fit.
    """
    head = head_of(model)
    if path.endswith(".keras"):
        return _copy(load(path).weights, model.weights, head.weights, path)
    problems = []
    for part in (model, keras.Model(model.inputs[0], head.input)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Keras warns of layers that it passes over
                part.load_weights(path)
        except Exception as error:
            problems.append(error)
        else:
            return part is not model
    raise ValueError(f"The weights of '{path}' do not fit the model: {problems[0]}")


def _copy(given, weights, of_head, path):
    shapes = [[tuple(w.shape) for w in side] for side in (given, weights)]
    is_head = [any(w is h for h in of_head) for w in weights]
    fits = len(given) == len(weights) and all(
        one == other or new for one, other, new in zip(*shapes, is_head, strict=False)
    )
    if not fits:
        raise ValueError(
            f"The weights of '{path}' do not fit the model. Received: {len(given)} arrays, the "
            f"first of shapes {shapes[0][:4]}. Expected: {len(weights)}, {shapes[1][:4]}."
        )
    is_new = False
    for source, target in zip(given, weights, strict=True):
        if source.shape == target.shape:
            target.assign(source)
        else:
            is_new = True
    return is_new


def head_of(model):
    """The last layer that has weights."""
    for layer in reversed(model.layers):
        if isinstance(layer, keras.Model) and layer.weights:
            return head_of(layer)
        if layer.weights:
            return layer
    raise ValueError(f"The model '{model.name}' has no layer with weights.")


def leaves(model):
    """All layers of a model that are no models themselves."""
    for layer in model.layers:
        yield from leaves(layer) if isinstance(layer, keras.Model) else (layer,)


def freeze_all_but_head(model):
    """Lets only the last layer learn; BatchNorm layers before it keep their statistics."""
    head = head_of(model)
    for layer in leaves(model):
        layer.trainable = layer is head


def unfreeze(model):
    """Lets every layer learn."""
    for layer in leaves(model):
        layer.trainable = True
