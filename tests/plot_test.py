"""Pictures of weights."""

import pathlib
import tempfile
import unittest

import keras
import numpy as np
from keras import layers

import tf_proxquant as pq


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8,)), layers.Dense(6), layers.Dense(4)])


class WeightsTest(unittest.TestCase):
    def test_it_draws_each_selected_variable_with_its_levels(self):
        model = make_model()
        model.compile(pq.ProxQuant("adam", pq.Ternary(), 1.0, select="dense_?[0-9]*/kernel"), "mse")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "weights.png")
            figure = pq.plot.weights(model, path)
            self.assertEqual(path.read_bytes()[:4], b"\x89PNG")
            self.assertEqual([p.name for p in pathlib.Path(folder).iterdir()], ["weights.png"])
        first = figure.axes[0]
        kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
        lines = [line.get_xdata()[0] for line in first.lines]
        levels = keras.ops.convert_to_numpy(pq.Ternary().levels(kernel))
        np.testing.assert_allclose(lines, levels, rtol=1e-6)
        self.assertEqual(sum(bar.get_height() for bar in first.patches), kernel.size)

    def test_without_a_quantizing_optimizer_it_draws_the_kernels_alone(self):
        figure = pq.plot.weights(make_model(), max_panels=1)
        self.assertEqual((len(figure.axes), len(figure.axes[0].lines)), (1, 0))


if __name__ == "__main__":
    unittest.main()
