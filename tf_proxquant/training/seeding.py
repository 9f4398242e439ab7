"""Layers that draw random numbers, such as Dropout, in a run that may be interrupted."""

import keras
import numpy as np


class SeedRandomLayers(keras.callbacks.Callback):
    """Makes what random layers draw in an epoch depend on (seed, layer, epoch) only.

    A saved model does not hold the state of their generators.

    Args:
      seed: int >= 0.
    """

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        for numbers, generator in _generators(self.model):
            drawn = np.random.default_rng((self.seed, *numbers, epoch)).integers(2**32, size=2)
            generator.state.assign(drawn.astype("uint32"))


def _generators(model):
    """Yields (place of the layer, generator of random numbers) of all layers, at any depth."""
    for number, layer in enumerate(model.layers):
        if isinstance(layer, keras.Model):
            yield from (((number, *inner), generator) for inner, generator in _generators(layer))
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                yield (number,), value
