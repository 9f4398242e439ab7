"""Callbacks that watch the weights."""

import importlib.util
import pathlib
import tempfile
import unittest

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq
from tests import optimizers_cases as cases

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

    def test_strength_and_tau_are_those_of_the_next_update(self):
        strength = pq.schedules.Linear(2.0, every=4)
        model = make_model(pq.ProxQuant(keras.optimizers.SGD(0.25), pq.Binary(), strength))
        history = fit(model, pq.callbacks.QuantizationMonitor(), epochs=3)
        self.assertEqual(history["strength"], [2.0, 4.0, 6.0])
        self.assertEqual(history["tau"], [0.5, 1.0, 1.5])

    def test_a_strength_that_is_a_share_has_no_tau_and_the_hard_prox_has_no_strength(self):
        shared = make_model(pq.ProxConnect("adam", pq.Binary(), 0.5, prox="l2"))
        history = fit(shared, pq.callbacks.QuantizationMonitor(), epochs=1)
        self.assertEqual((history["strength"], "tau" in history), ([0.5], False))
        hard = make_model(pq.ProxConnect("adam", pq.Binary()))
        self.assertNotIn("strength", fit(hard, pq.callbacks.QuantizationMonitor(), epochs=1))

    def test_per_layer_it_logs_each_variable_and_the_total_is_over_all(self):
        model = make_model(pq.ProxQuant("adam", pq.Binary(), 5.0, select="kernel"))
        history = fit(model, pq.callbacks.QuantizationMonitor(per_layer=True), epochs=1)
        shares = [history[f"on_grid/{v.path}"][0] * v.shape[0] * v.shape[1]
                  for v, _ in model.optimizer.quantized_variables]  # fmt: skip
        self.assertEqual(len(shares), 2)
        self.assertAlmostEqual(history["on_grid"][0], sum(shares) / 48)

    def test_variables_of_one_path_have_figures_of_their_own(self):
        inputs = keras.Input((6,))
        halves = [keras.Model(inputs, layers.Dense(4, name="hidden")(inputs)) for _ in range(2)]
        model = keras.Model(inputs, layers.Add()([half(inputs) for half in halves]))
        model.compile(pq.ProxQuant("sgd", pq.Binary(), 0.0), "mse")
        halves[0].layers[-1].kernel.assign(np.ones((6, 4)))
        monitor = pq.callbacks.QuantizationMonitor(per_layer=True)
        monitor.set_model(model)
        monitor.on_train_begin()
        found = monitor.measure()
        first, second = (found[f"on_grid/hidden/kernel{number}"] for number in ("", "_1"))
        self.assertEqual((first, second), (1.0, 0.0))

    @unittest.skipIf(
        keras.backend.backend() != "tensorflow" or importlib.util.find_spec("tensorboard") is None,
        "needs TensorFlow and TensorBoard",
    )
    def test_the_standard_callbacks_write_the_figures_and_histograms(self):
        import tensorflow as tf

        model = make_model(pq.ProxQuant("adam", pq.Binary(), 5.0))
        with tempfile.TemporaryDirectory() as folder:
            table = pathlib.Path(folder, "log.csv")
            fit(
                model,
                pq.callbacks.QuantizationMonitor(per_layer=True),
                keras.callbacks.TensorBoard(folder, histogram_freq=1),
                keras.callbacks.CSVLogger(table),
                epochs=2,
            )
            events = next(pathlib.Path(folder, "train").glob("events*"))
            written = [
                value.tag
                for event in tf.compat.v1.train.summary_iterator(str(events))
                for value in event.summary.value
            ]
            header = table.read_text().splitlines()[0].split(",")
        for name in ("quantization_error", "sign_change", "on_grid"):
            for tag in (name, f"{name}/{model.get_layer('head').kernel.path}"):
                self.assertEqual(written.count(f"epoch_{tag}"), 2)
                self.assertIn(tag, header)
        self.assertEqual([written.count(f"epoch_{tag}") for tag in ("strength", "tau")], [2, 2])
        self.assertTrue(any("kernel" in tag and "histogram" in tag for tag in written), written)

    def test_it_needs_a_quantizing_optimizer(self):
        with self.assertRaisesRegex(ValueError, "compiled with pq.ProxQuant"):
            fit(make_model("adam"), pq.callbacks.QuantizationMonitor())


class StopOnNonFiniteTest(unittest.TestCase):
    def test_stop_ends_training_with_a_warning_that_names_the_variables(self):
        model = make_model("adam")
        x = X.copy()
        x[9, 0] = np.inf  # in the second of four batches
        with self.assertWarnsRegex(UserWarning, "batch 1 in 'hidden/kernel|sequential.*kernel"):
            history = model.fit(
                x, Y, batch_size=8, epochs=3, shuffle=False, verbose=0,
                callbacks=[pq.callbacks.StopOnNonFinite("stop")],
            ).history  # fmt: skip
        self.assertEqual(len(history["loss"]), 1)

    def test_a_weight_that_the_loss_does_not_show_yet_is_found_at_the_end_of_the_epoch(self):
        class Spoil(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 3:
                    kernel = self.model.get_layer("head").kernel
                    kernel.assign(kernel * np.nan)

        with self.assertRaisesRegex(ValueError, r"end of epoch 0.*head/kernel' \(18 values"):
            fit(make_model("adam"), Spoil(), pq.callbacks.StopOnNonFinite())

    def test_loss_scaling_skips_a_bad_update_and_nothing_but_it(self):
        def trained(x):
            optimizer = pq.ProxQuant(keras.optimizers.Adam(0.01), pq.Ternary(), 5.0)
            model = make_model(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0))
            model.fit(x, Y[: len(x)], batch_size=8, shuffle=False, verbose=0)
            inner = [ops.convert_to_numpy(v) for v in optimizer.variables]
            return [*model.get_weights(), *inner], int(optimizer.iterations)

        bad = X.copy()
        bad[-8:, 0] = np.nan
        found, steps = trained(bad)
        expected, expected_steps = trained(X[:-8])
        self.assertEqual((steps, expected_steps), (3, 3))
        for value, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(value, other)


class SkipFrozenGradientsTest(unittest.TestCase):
    def test_others_train_as_before_and_frozen_moments_stop(self):
        self.compare(use_ema=False, skips=True)

    def test_averages_of_the_weights(self):
        self.compare(use_ema=True, skips=keras.backend.backend() != "jax")

    def test_a_model_that_fit_builds(self):
        model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])
        model.compile(pq.ProxQuant("adam", pq.Binary(), 10.0, freeze_step=3), "mse")
        x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
        skips = pq.callbacks.SkipFrozenGradients()
        model.fit(x, x[:, :1], 4, epochs=2, verbose=0, callbacks=[skips])
        kernels = [v for v in model.trainable_variables if v.path.endswith("kernel")]
        sizes = np.concatenate([np.abs(ops.convert_to_numpy(v)).ravel() for v in kernels])
        np.testing.assert_array_equal(sizes, np.ones(16))

    def test_after_an_interruption_the_next_fit_makes_all_trainable_again(self):
        def interrupt(epoch, logs):
            if epoch == 1:
                raise KeyboardInterrupt

        model = cases.make_model()
        inner = keras.optimizers.Adam(0.01)
        model.compile(pq.ProxQuant(inner, pq.Ternary(), 0.1, freeze_step=3), "mse")
        stop = keras.callbacks.LambdaCallback(on_epoch_end=interrupt)
        count = len(model.trainable_variables)
        for callbacks in ([stop], []):
            callbacks.insert(0, pq.callbacks.SkipFrozenGradients())
            try:
                model.fit(cases.X, cases.Y, 16, epochs=2, verbose=0, callbacks=callbacks)
            except KeyboardInterrupt:
                self.assertLess(len(model.trainable_variables), count)
        self.assertEqual(len(model.trainable_variables), count)

    def compare(self, use_ema, skips):
        ends = []
        for watchers in ([], [pq.callbacks.SkipFrozenGradients()]):
            inner = keras.optimizers.Adam(0.01, use_ema=use_ema)
            optimizer = pq.ProxQuant(inner, pq.Ternary(), 0.1, freeze_step=6)
            model = cases.make_model()
            model.compile(optimizer, loss="mse")
            moments = []
            watch = keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs, inner=inner, moments=moments: moments.append(
                    {v.path: ops.convert_to_numpy(v) for v in inner.variables}
                )
            )
            model.fit(
                cases.X,
                cases.Y,
                16,
                epochs=4,
                shuffle=False,
                verbose=0,
                callbacks=[watch, *watchers],
            )
            self.assertTrue(all(v.trainable for v in model.trainable_variables))
            self.assertEqual(len(model.trainable_variables), 6)
            ends.append((cases.weights(model), moments))
        (plain, _), (skipped, moments) = ends
        for path, values in plain.items():
            np.testing.assert_allclose(skipped[path], values, rtol=1e-5, atol=1e-6)
            if path.endswith("kernel"):
                np.testing.assert_array_equal(skipped[path], values)
        for path, values in moments[1].items():  # after 8 of 16 steps, 2 of them frozen
            if "momentum" in path or "velocity" in path:
                is_same = np.array_equal(moments[3][path], values)
                self.assertEqual(is_same, skips and "kernel" in path, path)

    def test_fit_goes_on_afterwards(self):
        optimizer = pq.ProxQuant(keras.optimizers.Adam(0.01), pq.Binary(), 0.1, freeze_step=2)
        callback = pq.callbacks.SkipFrozenGradients()
        model = cases.make_model()
        model.compile(optimizer, loss="mse")
        for _ in range(2):
            before = cases.weights(model)
            model.fit(cases.X, cases.Y, epochs=2, verbose=0, callbacks=[callback])
        after = cases.weights(model)
        np.testing.assert_array_equal(after["head/kernel"], before["head/kernel"])
        self.assertTrue(np.any(after["head/bias"] != before["head/bias"]))
        model.fit(cases.X, cases.Y, epochs=1, verbose=0)
        self.assertEqual(int(optimizer.iterations), 10)

    def test_without_a_freeze_nothing_changes(self):
        model = cases.make_model()
        model.compile(pq.ProxQuant("adam", pq.Binary(), 0.1), loss="mse")
        watch = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda *_: self.assertEqual(len(model.trainable_variables), 6)
        )
        callbacks = [pq.callbacks.SkipFrozenGradients(), watch]
        model.fit(cases.X, cases.Y, epochs=2, verbose=0, callbacks=callbacks)


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
