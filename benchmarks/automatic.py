"""strength="auto" on five models that nobody tuned, at three learning rates.

    python -m benchmarks.automatic          # some minutes
    python -m benchmarks.automatic --toy    # seconds, shows that it runs

A multilayer perceptron, a plain and a separable convolutional network, an LSTM and a Transformer
learn digits (images, or sequences of their rows) in full precision by Adam 0.003 and
then go to binary levels per output channel by "concave", and to 2 bits by "l2", with
`strength="auto"`. Prints the accuracy on held-out training images before and after, and how far
the weights were from their grid an epoch before the freeze.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from absl import app, flags
from keras import layers, ops

import tf_proxquant as pq

_ONLY = flags.DEFINE_string("only", None, "Only this model, by the name of its function.")
_TOY = flags.DEFINE_bool("toy", False, "One model, one learning rate, two epochs.")
HELD_OUT = 360
LEARNING_RATES = (0.003, 0.01, 0.03)
EPOCHS, FREEZE = 30, 20


def perceptron(x):
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(128, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return x


def convolutional(x):
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.MaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    return layers.Flatten()(x)


def separable(x):
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    for filters in (32, 64):
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.GlobalMaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))


def recurrent(x):
    return layers.LSTM(64)(layers.Reshape((8, 8))(x))


def transformer(x):
    x = layers.Dense(32)(layers.Reshape((8, 8))(x)) + layers.Embedding(8, 32)(ops.arange(8))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(32)(layers.Dense(64, "gelu")(x)))
    return layers.Flatten()(x)


MODELS = (perceptron, convolutional, separable, recurrent, transformer)
SETTINGS = {
    "binary": {"quantizer": pq.Binary("mean", axis=-1), "regularizer": "concave"},
    "2 bits": {"quantizer": pq.MultiBit(2, axis=-1), "regularizer": "l2"},
}


def make_model(body, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, layers.Dense(10)(body(inputs)))


class BeforeFreeze(keras.callbacks.Callback):
    """Keeps the monitor's figures of the epoch before the one that freezes."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.logs = epoch, {}

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.logs = dict(logs)


def fit(model, optimizer, data, epochs, callbacks=()):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    x, y = data.x_train / 16.0, data.y_train
    history = model.fit(
        x[HELD_OUT:], y[HELD_OUT:], validation_data=(x[:HELD_OUT], y[:HELD_OUT]),
        batch_size=32, epochs=epochs, verbose=0, callbacks=list(callbacks),
    )  # fmt: skip
    return history.history


def main(_):
    data = pq.datasets.load("digits")
    bodies = [body for body in MODELS if _ONLY.value in (None, body.__name__)]
    rates, epochs, freeze = LEARNING_RATES, EPOCHS, FREEZE
    if _TOY.value:
        bodies, rates, epochs, freeze = MODELS[:1], LEARNING_RATES[:1], 4, 3
    steps = -(-(len(data.x_train) - HELD_OUT) // 32)
    print("| model, accuracy in full precision | levels | learning rate | accuracy "
          "| distance to the grid | on the grid |\n|---|---|---|---|---|---|")  # fmt: skip
    for body in bodies:
        model = make_model(body, seed=0)
        full = fit(model, keras.optimizers.Adam(0.003), data, epochs)["val_accuracy"][-1]
        warm = model.get_weights()
        for name, arguments in SETTINGS.items():
            for rate in rates:
                model.set_weights(warm)
                decay = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
                optimizer = pq.ProxQuant(
                    keras.optimizers.Adam(decay), strength="auto", freeze_step=freeze * steps,
                    **arguments,
                )  # fmt: skip
                before = BeforeFreeze(freeze - 2)
                watchers = [pq.callbacks.QuantizationMonitor(), before]
                history = fit(model, optimizer, data, epochs, watchers)
                print(
                    f"| {body.__name__}, {full:.3f} | {name} | {rate} "
                    f"| {history['val_accuracy'][-1]:.3f} "
                    f"| {before.logs['quantization_error']:.3f} | {before.logs['on_grid']:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    app.run(main)
