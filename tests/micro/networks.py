"""Small networks as they run on microcontrollers: random weights on levels, several shapes."""

import keras
import numpy as np
from keras import layers

import tf_proxquant as pq


def _norm(x, cut=None):
    return layers.ReLU(cut)(layers.BatchNormalization(momentum=0.0)(x))


def ds_cnn():
    """Keyword spotting: 49 frames of 10 coefficients."""
    inputs = keras.Input((49, 10, 1))
    x = _norm(layers.Conv2D(32, (10, 4), 2, padding="same", use_bias=False)(inputs))
    for _ in range(2):
        x = _norm(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = _norm(layers.Conv2D(32, 1, use_bias=False)(x))
    x = layers.Dense(12)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Softmax()(x))


def resnet8():
    return pq.models.resnet(8, (32, 32, 3), 10, preprocessing=layers.Rescaling(1 / 127.5, -1))


def mlp():
    inputs = keras.Input((64,))
    x = inputs
    for _ in range(2):
        x = _norm(layers.Dense(96, use_bias=False)(x))
    return keras.Model(inputs, layers.Dense(4, activation="sigmoid")(x))


def vibrations():
    """One dimension: 3 axes of an accelerometer, 128 samples."""
    inputs = keras.Input((128, 3))
    x = _norm(layers.Conv1D(24, 9, strides=2, padding="same", use_bias=False)(inputs))
    x = layers.MaxPooling1D(2)(x)
    x = _norm(layers.Conv1D(40, 5, padding="causal", dilation_rate=2, use_bias=False)(x))
    x = _norm(layers.SeparableConv1D(32, 3, padding="same", use_bias=False)(x))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def odd():
    """Sizes that are multiples of nothing."""
    inputs = keras.Input((17, 13, 3))
    x = _norm(layers.Conv2D(7, (3, 2), strides=(2, 1), use_bias=False)(inputs), 6)
    y = layers.DepthwiseConv2D((1, 3), padding="same", use_bias=False)(x)
    x = layers.Concatenate()([x, _norm(y)])
    x = layers.AveragePooling2D((2, 3))(x)
    x = _norm(layers.Conv2D(19, 3, padding="same", use_bias=False)(x))
    x = layers.Dropout(0.1)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(3)(layers.LeakyReLU(0.1)(layers.Dense(11)(x))))


def autoencoder():
    """A picture in, a picture out."""
    return _there_and_back(layers.Resizing(16, 16, interpolation="nearest"))


def tiled():
    """An operator that tflite-micro has not."""
    return _there_and_back(layers.UpSampling2D(2))


def _there_and_back(up):
    inputs = keras.Input((16, 16, 1))
    x = _norm(layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(inputs))
    x = _norm(layers.Conv2D(24, 3, 2, padding="same", use_bias=False)(x))
    x = layers.Conv2DTranspose(16, 2, strides=2, padding="same", use_bias=False)(x)
    x = up(_norm(x))
    return keras.Model(inputs, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x))


def attended():
    """Squeeze and excitation, hard swish, an addition of two branches."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Activation("hard_swish")(layers.Conv2D(24, 3, 2, padding="same")(inputs))
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = layers.Conv2D(24, 1, activation="hard_sigmoid")(layers.Conv2D(8, 1, activation="relu")(y))
    x = layers.Add()([layers.Multiply()([x, y]), layers.Conv2D(24, 1)(x)])
    return keras.Model(inputs, layers.Dense(6)(layers.GlobalMaxPooling2D()(x)))


NETWORKS = {
    f.__name__: f for f in (ds_cnn, resnet8, mlp, vibrations, odd, autoencoder, tiled, attended)
}
QUANTIZERS = {
    "1 bit": pq.Binary("mean", axis=-1),
    "2 bits": pq.Uniform(2, axis=-1, mid_rise=True),
    "ternary": pq.Ternary(axis=-1),
}


def make(name, quantizer):
    """(model on the levels of a quantizer, 48 samples) of a network."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    model = NETWORKS[name]()
    for variable in model.variables:
        if variable.path.endswith(("beta", "bias")):
            variable.assign(generator.normal(0, 0.3, variable.shape))
        elif variable.path.endswith("gamma"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    pq.snap(model, QUANTIZERS[quantizer])
    shape = (48, *model.input_shape[1:])
    data = generator.normal(size=shape)
    if name == "resnet8":
        data = generator.uniform(0, 255, shape).round()
    data = data.astype(np.float32)
    model(data, training=True)  # sets the statistics
    return model, data
