"""Callbacks that watch the weights."""

import unittest

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq

RANDOM = np.random.default_rng(1)
X = RANDOM.normal(size=(32, 5)).astype("float32")
Y = RANDOM.integers(0, 3, 32)


def make_model(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(6, name="hidden"), layers.Dense(3, name="head")]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    return model


def fit(model, *callbacks, epochs=4):
    return model.fit(
        X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks)
    ).history


class QuantizationMonitorTest(unittest.TestCase):
    def test_it_logs_the_way_to_the_grid(self):
        model = make_model(pq.ProxQuant("adam", pq.Binary(), 10.0, freeze_step=16))
        before = np.concatenate([ops.convert_to_numpy(v).ravel() for v in model.trainable_variables
                                 if v.path.endswith("kernel")])  # fmt: skip
        history = fit(model, pq.callbacks.QuantizationMonitor())
        after = np.concatenate([ops.convert_to_numpy(v).ravel() for v in model.trainable_variables
                                if v.path.endswith("kernel")])  # fmt: skip
        self.assertGreater(history["quantization_error"][0], history["quantization_error"][2])
        self.assertEqual(history["quantization_error"][-1], 0.0)
        self.assertEqual(history["on_grid"][-1], 1.0)
        self.assertLess(history["on_grid"][0], 1.0)
        changed = np.mean((before >= 0) != (after >= 0))
        self.assertAlmostEqual(history["sign_change"][-1], changed)

    def test_frozen_levels_that_are_means_count_as_on_the_grid(self):
        model = make_model(pq.ProxQuant("adam", pq.Ternary(), 1.0, freeze_step=2))
        self.assertEqual(fit(model, pq.callbacks.QuantizationMonitor())["on_grid"][-1], 1.0)

    def test_sign_changes_count_from_the_first_fit(self):
        model = make_model(pq.ProxQuant(keras.optimizers.SGD(0.0), pq.Binary(), 0.0))
        monitor = pq.callbacks.QuantizationMonitor()
        fit(model, monitor, epochs=1)
        model.get_layer("hidden").kernel.assign(-model.get_layer("hidden").kernel)
        self.assertAlmostEqual(fit(model, monitor, epochs=1)["sign_change"][-1], 30 / 48)

    def test_it_needs_a_quantizing_optimizer(self):
        with self.assertRaisesRegex(ValueError, "compiled with pq.ProxQuant"):
            fit(make_model("adam"), pq.callbacks.QuantizationMonitor())


class QuantizedEvaluationTest(unittest.TestCase):
    def test_it_logs_what_the_snapped_model_scores(self):
        model = make_model(pq.ProxQuant(keras.optimizers.SGD(0.0), pq.Binary(), 0.0))
        history = fit(model, pq.callbacks.QuantizedEvaluation((X, Y)), epochs=1)
        plain = model.evaluate(X, Y, verbose=0)
        pq.snap(model)
        snapped = model.evaluate(X, Y, verbose=0)
        self.assertNotEqual(plain, snapped)
        found = history["quantized_loss"][0], history["quantized_accuracy"][0]
        np.testing.assert_allclose(found, snapped, rtol=1e-6)

    def test_training_is_the_same_with_and_without_it_bit_for_bit(self):
        def trained(*callbacks):
            model = make_model(pq.ProxQuant("adam", pq.Ternary(), 1.0, freeze_step=10))
            fit(model, *callbacks)
            return model.get_weights()

        watched = trained(
            pq.callbacks.QuantizedEvaluation((X, Y)), pq.callbacks.QuantizationMonitor()
        )
        for value, expected in zip(watched, trained(), strict=True):
            np.testing.assert_array_equal(value, expected)

    def test_weights_are_restored_after_an_exception(self):
        model = make_model(pq.ProxQuant("adam", pq.Binary(), 0.0))
        before = model.get_weights()
        with self.assertRaises(KeyError), pq.callbacks.snapped(model):
            self.assertTrue(set(np.unique(model.get_weights()[0])) <= {-1.0, 1.0})
            raise KeyError
        for value, expected in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(value, expected)
