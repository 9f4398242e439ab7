"""The quantizer of CONTRIBUTING.md, from outside of the package: trained, saved, exported."""

import pathlib
import re
import tempfile
import unittest

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq

PAGE = pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md"


def class_of_the_page():
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names = {"keras": keras, "pq": pq}
    exec(compile(code, PAGE.name, "exec"), names)
    return names["Powers"]


Powers = class_of_the_page()


def distinct(values):
    """Values of each output channel, divided by the largest, as sets."""
    columns = values.reshape(-1, values.shape[-1]).T
    return [set(np.round(column / np.abs(column).max(), 6)) for column in columns]


class OutsideTest(unittest.TestCase):
    def setUp(self):
        keras.utils.set_random_seed(0)
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.x = np.random.default_rng(0).normal(size=(64, 32)).astype("float32")
        self.y = self.x[:, :4] - self.x[:, 4:8]

    def trained(self):
        model = keras.Sequential(
            [keras.Input((32,)), layers.Dense(64, "relu"), layers.Dense(4, use_bias=False)]
        )
        optimizer = pq.ProxQuant(keras.optimizers.Adam(0.02), Powers(0.8, axis=-1), freeze_step=12)
        model.compile(optimizer, "mse")
        model.fit(self.x, self.y, batch_size=16, epochs=4, verbose=0)
        return model

    def test_levels_are_those_of_its_formula_for_each_group(self):
        weights = np.float32([[1.0, -4.0], [-2.0, 0.5]])
        levels = ops.convert_to_numpy(Powers(0.5, axis=-1).levels(weights))
        np.testing.assert_array_equal(levels, [[-1, -0.5, 0.5, 1], [-2, -1, 1, 2]])
        self.assertEqual(ops.convert_to_numpy(Powers()(weights)).tolist(), [[2, -4], [-2, 2]])

    def test_levels_may_come_in_any_order_but_not_in_any_shape(self):
        class Ends(pq.quantizers.Quantizer):
            def fit(self, rows):
                ends = [ops.max(rows, axis=1), ops.min(rows, axis=1)]
                return ops.stack(ends, axis=1)

        class Flat(Ends):
            def fit(self, rows):
                return super().fit(rows)[0]

        class Nothing(Ends):
            def fit(self, rows):
                return None

        weights = np.float32([[-2, 1], [1.5, 0], [4, -3]])
        found = ops.convert_to_numpy(Ends(axis=-1)(weights))
        np.testing.assert_array_equal(found, [[-2, 1], [4, 1], [4, -3]])
        for quantizer, received in ((Flat(axis=-1), r"shape \(2,\)"), (Nothing(), "NoneType")):
            with self.assertRaisesRegex(ValueError, f"fit must return.*{received}"):
                quantizer.levels(weights)

    def test_it_trains_freezes_saves_and_exports_exactly(self):
        model = self.trained()
        self.assertTrue(model.optimizer.frozen)
        kernels = [ops.convert_to_numpy(v) for v, _ in model.optimizer.quantized_variables]
        for kernel in kernels:
            for found in distinct(kernel):
                self.assertLessEqual(found, {-1.0, -0.5, 0.5, 1.0})
        model.save(self.folder / "model.keras")
        again = keras.saving.load_model(self.folder / "model.keras")
        self.assertEqual(again.optimizer.quantizer.get_config(), {"share": 0.8, "axis": -1})
        again.fit(self.x, self.y, epochs=1, verbose=0)
        for (variable, _), kernel in zip(again.optimizer.quantized_variables, kernels, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(variable), kernel)

    @unittest.skipUnless(keras.backend.backend() == "tensorflow", "the export needs TensorFlow")
    def test_its_levels_are_stored_in_few_bits_by_every_float_profile(self):
        model = self.trained()
        for profile, bits in (("fast", 8), ("portable", 8), ("small", 4)):
            path = self.folder / f"{profile}.tflite"
            report = pq.export(model, path, profile, strict=True)
            stored = [row for row in report.rows if row.num_levels]
            self.assertTrue(stored, profile)
            self.assertLessEqual(max(row.bits for row in stored if row.form != "float32"), bits)
            np.testing.assert_allclose(
                pq.litert.predict(path, self.x), model.predict(self.x, verbose=0), atol=1e-5
            )

    def test_it_snaps_a_model_after_training(self):
        model = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
        pq.snap(model, Powers(axis=-1))
        for found in distinct(ops.convert_to_numpy(model.layers[0].kernel)):
            self.assertLessEqual(found, {-1.0, -0.5, 0.5, 1.0})


if __name__ == "__main__":
    unittest.main()
