"""Image classifiers from pixels to scores: what stands before and behind a network's own layers.

In training a classifier ends in logits, which the loss takes exactly; saved and exported it ends in
a softmax. It begins with pixels as the data have them, always.
"""

import keras

_SCALING = (keras.layers.Rescaling, keras.layers.Normalization)


def normalization(mean, std):
    """The layer that takes the mean of each channel away and divides by its deviation."""
    variance = [float(each) ** 2 for each in std]
    return keras.layers.Normalization(
        mean=[float(each) for each in mean], variance=variance, name="normalization"
    )


def takes_pixels(model):
    """Whether a model scales its pixels itself: a Rescaling or Normalization layer is in it."""
    return any(
        isinstance(layer, _SCALING) or (isinstance(layer, keras.Model) and takes_pixels(layer))
        for layer in model.layers
    )


def from_pixels(model, shape, mean, std):
    """`model`, or where it does not scale its pixels a model that does so before it.

    Args:
      model: `keras.Model` from images, (batch, height, width, channels).
      shape: (height, width, channels) of the images.
      mean: array (channels,), of the training images.
      std: array (channels,) > 0.
    """
    if takes_pixels(model) and tuple(model.input_shape[1:]) == tuple(shape):
        return model
    inputs = keras.Input(shape, name="image")
    if takes_pixels(model):
        return keras.Model(inputs, model(inputs), name=model.name)
    return keras.Model(inputs, model(normalization(mean, std)(inputs)), name=model.name)


def with_logits(model):
    """`model` without the softmax that it may end in: its last activation is then none.

    A layer of `model` that applies a softmax itself, such as Dense, is changed in place.
    """
    last = model.outputs[0]._keras_history.operation
    if type(last).__name__ == "Softmax":
        return keras.Model(model.inputs[0], last.input, name=model.name)
    if getattr(last, "activation", None) is keras.activations.softmax:
        last.activation = keras.activations.linear
    return model


def with_scores(model):
    """A model that gives the scores of `model`'s classes: a softmax behind its logits.

    It shares the layers of `model`, and its optimizer if it is compiled.
    """
    scores = keras.layers.Softmax(name="scores")(model.outputs[0])
    scored = keras.Model(model.inputs[0], scores, name=model.name)
    if model.compiled:
        scored.compile(model.optimizer, "sparse_categorical_crossentropy", ["accuracy"])
    return scored
