"""Quantizers and weights that several tests share."""

import keras
import numpy as np
from keras import ops

from tf_proxquant.quantizers import Binary, MultiBit, Ternary, Uniform

QUANTIZERS = [
    Binary(),
    Binary(0.5, axis=(2, 3)),
    *(Binary("mean", axis) for axis in (None, -1, (2, 3))),
    Binary("median", axis=-1),
    Ternary(),
    Ternary(axis=-1),
    Ternary(symmetric=True, axis=(0, -1)),
    Ternary(0.05, axis=(2, 3), relative_to="max"),
    Ternary(optimal=True),
    Ternary(symmetric=True, optimal=True, axis=-1),
    Ternary(optimal=True, axis=-1, integer_ratios=False),
    MultiBit(1, axis=0),
    *(MultiBit(bits) for bits in (2, 3, 4)),
    MultiBit(3, axis=-1, integer_ratios=False),
    MultiBit(2, optimal=True, axis=-1),
    *(Uniform(bits) for bits in (2, 4, 8)),
    Uniform(3, axis=-1, narrow_range=False),
    Uniform(1, axis=0, mid_rise=True),
    Uniform(3, mid_rise=True),
]
STORABLE = [
    Binary("mean", axis=-1),
    Binary(0.3),
    *(Ternary(optimal=optimal, axis=-1) for optimal in (False, True)),
    Ternary(0.05, axis=0, relative_to="max"),
    Ternary(symmetric=True),
    *(MultiBit(bits, axis=-1) for bits in (1, 2, 3, 4)),
    *(MultiBit(bits, optimal=True, axis=-1) for bits in (2, 3)),
    *(Uniform(bits, axis=-1) for bits in range(2, 9)),
    *(Uniform(bits, axis=-1, mid_rise=True) for bits in range(1, 8)),
]
GRAPHS = [
    Binary(),
    Binary("mean", axis=-1),
    Binary("median", axis=-1),
    Ternary(axis=-1),
    Ternary(0.05, axis=-1, relative_to="max"),
    Ternary(optimal=True, axis=-1),
    MultiBit(2, axis=-1),
    MultiBit(3),
    MultiBit(2, optimal=True),
    Uniform(3, axis=-1),
]
if keras.backend.backend() != "tensorflow":
    # Eager JAX compiles every operation for every shape, for minutes: one of each algorithm.
    QUANTIZERS = [*GRAPHS, Ternary(symmetric=True, axis=(0, -1)), Uniform(1, axis=0, mid_rise=True)]
    STORABLE = [*GRAPHS[1:], Uniform(4, axis=-1), Uniform(4, axis=-1, mid_rise=True)]


def kernel(seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_t(4, size=(3, 3, 4, 6)).astype(dtype)


def grids(quantizer, weights):
    """The levels, one row per group."""
    levels = ops.convert_to_numpy(quantizer.levels(weights))
    return levels.reshape(-1, levels.shape[-1])


def compiled(function):
    """The function as a graph of the backend at hand, through XLA."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    import jax

    return jax.jit(function)
