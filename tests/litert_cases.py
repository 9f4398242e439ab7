"""Models for the tests of the export."""

import keras
import numpy as np
from keras import layers

import tf_proxquant as pq

KERNELS = ("kernel", "embeddings")


def on_levels(model, levels, seed=0):
    """Draws every kernel and table from `levels`, and the statistics of BatchNorm at random."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        shape = variable.shape
        if variable.path.endswith(KERNELS):
            variable.assign(generator.choice(np.float32(levels), shape))
        elif variable.path.endswith("gamma"):
            variable.assign(generator.uniform(0.5, 1.5, shape) * generator.choice([-1, 1], shape))
        elif variable.path.endswith("moving_variance"):
            variable.assign(generator.uniform(0.5, 2, shape))
        elif variable.dtype == "float32":
            variable.assign(generator.normal(0, 0.1, shape))
    return model


def small_cnn(quantizer):
    """A convolution and a dense layer on the grid of a quantizer, not trained."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(8, 3), layers.ReLU(), layers.Flatten(),
         layers.Dense(3)]
    )  # fmt: skip
    pq.snap(model, quantizer)
    return model


def exported(model, path, profile):
    """The bytes of the file that an export without checks writes to `path`."""
    pq.export(model, path, profile, verify=False)
    return path.read_bytes()
