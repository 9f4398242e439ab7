"""Small networks to feed to readers: random weights on levels, BatchNorm statistics of the data."""

import keras
import numpy as np
from keras import layers

import tf_proxquant as pq
from benchmarks.zoo import two_towers

IMAGE = (32, 32, 3)
LABELS = [f"class {number}" for number in range(10)]


def resnet():
    inputs = keras.Input(IMAGE)
    x = _conv(layers.Rescaling(1 / 127.5, -1)(inputs), 16)
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = _conv(_conv(x, filters, strides), filters, cut=None)
        if strides > 1:
            x = _conv(x, filters, strides, size=1, cut=None)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dense(64, activation="relu")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, _scores(x))


def mobile():
    inputs = keras.Input(IMAGE)
    x = _conv(layers.Rescaling(1 / 127.5, -1)(inputs), 16, 2, cut=6)
    for filters, strides in ((16, 1), (32, 2), (32, 1), (64, 2)):
        y = _conv(x, 6 * x.shape[-1], size=1, cut=6)
        y = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(y)
        y = _conv(layers.ReLU(6)(_norm(y)), filters, size=1, cut=None)
        x = layers.Add()([x, y]) if x.shape == y.shape else y
    x = _conv(x, 128, size=1, cut=6)
    return keras.Model(inputs, _scores(layers.GlobalAveragePooling2D()(x)))


def unet():
    inputs, skips = keras.Input(IMAGE), []
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    for filters in (16, 32):
        x = _conv(x, filters)
        skips.append(x)
        x = layers.MaxPool2D()(x)
    x = _conv(x, 64)
    for filters, skip in ((32, skips[1]), (16, skips[0])):
        x = layers.Conv2DTranspose(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = _conv(layers.Concatenate()([layers.ReLU()(_norm(x)), skip]), filters)
    return keras.Model(inputs, layers.Conv2D(4, 1)(x))


def text():
    words = keras.Input((32,), dtype="int32")
    x = layers.Embedding(1000, 32)(words)
    x = layers.MaxPool1D(2)(layers.Conv1D(64, 5, padding="same", activation="relu")(x))
    x = layers.Conv1D(64, 3, padding="causal", dilation_rate=2, activation="relu")(x)
    return keras.Model(words, _scores(layers.Dense(64)(layers.GlobalMaxPooling1D()(x))))


def recurrent():
    words = keras.Input((12,), dtype="int32")
    x = layers.LSTM(48, unroll=True)(layers.Embedding(1000, 32)(words))
    return keras.Model(words, _scores(x))


def transformer():
    words = keras.Input((16,), dtype="int32")
    x = layers.Embedding(1000, 32)(words)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 16)(x, x))
    wide = layers.Dense(32)(layers.Dense(64, activation="relu")(x))
    x = layers.LayerNormalization()(x + wide)
    return keras.Model(words, _scores(layers.GlobalAveragePooling1D()(x)))


NETWORKS = {
    "resnet": resnet,
    "mobile": mobile,
    "unet": unet,
    "two_towers": two_towers,
    "text": text,
    "recurrent": recurrent,
    "transformer": transformer,
}


def make(name):
    """(model on ternary levels, inputs for 64 samples) of a network."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    model = NETWORKS[name]()
    for variable in model.variables:
        if variable.path.endswith("gamma"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("beta", "bias")):
            variable.assign(generator.normal(0, 0.3, variable.shape))
        elif variable.path.endswith(("kernel", "embeddings")):
            variable.assign(pq.Ternary(symmetric=True, axis=_axis(variable))(variable))
    data = [_samples(tensor, generator) for tensor in model.inputs]
    model(data[0] if len(data) == 1 else data, training=True)  # sets the statistics
    return model, data


def _axis(variable):
    """The axis of the channels that get their own scale in the file; rows of a table."""
    layer, name = variable.path.split("/")[-2:]
    if name == "embeddings":
        return 0
    if "depthwise" in layer or "transpose" in layer:
        return (-2, -1) if "depthwise" in layer else -2
    return None if len(variable.shape) == 3 and "conv1d" not in layer else -1


def _samples(tensor, generator, count=64):
    shape = (count, *tensor.shape[1:])
    if "int" in tensor.dtype:
        return generator.integers(0, 900, shape, dtype=np.int32)
    coarse = generator.uniform(0, 255, (count, 4, 4, 3)).astype(np.float32)
    smooth = keras.ops.image.resize(coarse, shape[1:3], "bilinear")
    return np.rint(keras.ops.convert_to_numpy(smooth)).clip(0, 255)


def _conv(x, filters, strides=1, size=3, cut=np.inf):
    x = _norm(layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x))
    if cut is None:
        return x
    return layers.ReLU(6 if cut == 6 else None)(x)


def _norm(x):
    return layers.BatchNormalization(momentum=0.0)(x)


def _scores(x):
    wide = keras.initializers.RandomNormal(stddev=0.1)
    return layers.Dense(len(LABELS), activation="softmax", kernel_initializer=wide)(x)
