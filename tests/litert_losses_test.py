"""What stays float although it was trained on few levels is said, and nothing else is."""

import os
import pathlib
import tempfile
import unittest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from tf_proxquant import Binary, ProxQuant, Ternary, litert, snap


class Divided(keras.layers.Layer):
    """One kernel for three products, each input with a gain of its own."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 96), name="kernel")
        self.gain = self.add_weight(shape=(shape[-1], 1), initializer="uniform", name="gain")

    def call(self, x):
        parts = keras.ops.split(self.kernel * self.gain, 3, axis=1)
        a, b, c = (keras.ops.matmul(x, part) for part in parts)
        return a * keras.ops.sigmoid(b) + c


class LossesTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = self.folder / "model.tflite"

    def test_weights_on_the_way_to_their_levels_are_told_with_the_remedy(self):
        for memory, prox in ((0.0, "l2"), (0.9, "piecewise_affine")):
            model = keras.Sequential(
                [keras.layers.Input((64,)), keras.layers.Dense(16, name="one")]
            )
            optimizer = ProxQuant("sgd", Ternary(axis=-1), prox=prox, memory=memory, freeze_step=9)
            model.compile(optimizer, "mse")
            model.fit(np.ones((8, 64)), np.ones((8, 16)), batch_size=4, verbose=0)
            with self.assertWarnsRegex(UserWarning, "1 of 1.*one/kernel.*step 2 of freeze_step=9"):
                litert.export(model, self.path)
            with self.assertRaisesRegex(ValueError, "pq.snap.*strict=True"):
                litert.export(model, self.path, strict=True)
            snap(model)
            (row,) = litert.export(model, self.path, strict=True).rows
            self.assertEqual(row.form, "int8")

    def test_a_layer_that_was_not_quantized_is_not_called_lost(self):
        inputs = keras.Input((64,))
        hidden = keras.layers.Dense(128, use_bias=False, name="dense")(inputs)
        hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
        hidden = keras.layers.Dense(64, use_bias=False, name="dense_1")(hidden)
        hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
        model = keras.Model(inputs, keras.layers.Dense(10, name="dense_2")(hidden))
        random = np.random.default_rng(0)
        for select in (["dense/kernel"], ["dense_1/kernel"], ["dense/kernel", "dense_1/kernel"]):
            shapes = [w.shape for w in model.get_weights()]
            model.set_weights([random.uniform(0.1, 1, shape) for shape in shapes])
            snap(model, Binary("mean", axis=-1), select)
            for profile in ("fast", "small", "dynamic"):
                with self.subTest(profile, select=select):
                    litert.export(model, self.path, profile, strict=True)

    def test_levels_along_the_axis_that_batchnorm_does_not_scale_are_missed_loudly(self):
        model = keras.Sequential(
            [
                keras.Input((5, 5, 80)),
                keras.layers.Conv2DTranspose(16, 1, use_bias=False, name="up"),
                keras.layers.BatchNormalization(),
            ]
        )
        model.layers[1].gamma.assign(np.random.default_rng(0).uniform(0.5, 1.5, 16))
        kernel = model.layers[0].kernel  # (3, 3, outputs, inputs)
        kernel.assign(Binary("mean", axis=-1)(kernel))
        with self.assertWarnsRegex(UserWarning, "up.*another axis.*each output channel"):
            litert.export(model, self.path)
        with self.assertRaisesRegex(ValueError, "up.*strict=True"):
            litert.export(model, self.path, strict=True)
        kernel.assign(Binary("mean", axis=-2)(kernel))
        self.assertEqual(litert.export(model, self.path, strict=True).rows[0].form, "int8")

    def test_levels_of_a_kernel_that_its_layer_changes_are_missed_loudly(self):
        lora = keras.Sequential([keras.Input((32,)), keras.layers.Dense(32, lora_rank=2)])
        lora.layers[0].lora_kernel_b.assign(np.random.default_rng(0).normal(size=(2, 32)))
        divided = keras.Sequential([keras.Input((32,)), Divided()])
        for model, complaint in ((lora, "1 weight.*LoRA"), (divided, "3 weight.*multiplies")):
            snap(model, Binary("mean", axis=-1))
            for profile in ("fast", "small"):
                with self.assertRaisesRegex(ValueError, f"{complaint}.*strict=True"):
                    litert.export(model, self.path, profile, strict=True)

    def test_a_kernel_for_each_place_is_told_its_axis(self):
        """The remedies work."""
        parts = [keras.Input((6, 32)), keras.layers.EinsumDense("abc,bcd->abd", (6, 24))]
        model = keras.Sequential(parts)
        for axis, profile in ((-1, "small"), (2, "fast"), (None, "fast")):
            kernel = np.random.default_rng(0).normal(size=(6, 32, 24))
            model.layers[0].kernel.assign(kernel.astype("float32"))
            snap(model, Binary("mean", axis=axis), select="kernel")
            if axis == -1:
                with self.assertWarnsRegex(UserWarning, "each place.*axis=2.*small"):
                    litert.export(model, self.path, verify=False)
            litert.export(model, self.path, profile, strict=True)


if __name__ == "__main__":
    unittest.main()
