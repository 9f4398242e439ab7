"""What the tests of the optimizers share: a small model, and inner optimizers."""

import keras
import numpy as np
from keras import layers, ops

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 6)).astype("float32")
Y = RANDOM.normal(size=(64, 3)).astype("float32")


def make_model(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(3, name="head"),
        ],
        name="net",
    )


def train(optimizer, epochs=3, seed=0, model=None, **compile_arguments):
    model = model or make_model(seed)
    model.compile(optimizer, loss="mse", **compile_arguments)
    model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return model


def weights(model):
    return {v.path.removeprefix("net/"): ops.convert_to_numpy(v) for v in model.trainable_variables}


def on_grid(values):
    return set(np.unique(values)) <= {-1.0, 1.0}


@keras.saving.register_keras_serializable("tests")
class ThirdPartyOptimizer(keras.optimizers.Optimizer):
    """Sign descent, an optimizer that Keras does not know."""

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * ops.sign(gradient))


INNER = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.05),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "lion": lambda: keras.optimizers.Lion(0.005),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "third_party": lambda: ThirdPartyOptimizer(learning_rate=0.01),
}
