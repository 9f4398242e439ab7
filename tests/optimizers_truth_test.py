"""What is said of the weights is read from the weights, whoever changed them."""

import os
import pathlib
import tempfile
import unittest
import warnings

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq
from tests.optimizers_cases import X, Y, make_model, train, weights

SAVED = pathlib.Path(__file__).parent / "golden" / "saved"
EPOCH = {"batch_size": 16, "shuffle": False, "verbose": 0}


def quant(freeze_step=8, quantizer=None, **arguments):
    quantizer = quantizer or pq.Ternary(axis=-1)
    return pq.ProxQuant(
        keras.optimizers.Adam(0.01), quantizer, freeze_step=freeze_step, **arguments
    )


METHODS = {
    "no memory": quant,
    "binary": lambda *args: quant(*args, quantizer=pq.Binary()),
    "memory": lambda *args: quant(*args, prox="piecewise_affine", memory=0.99),
    "BinaryConnect": lambda step=8: pq.ProxConnect(
        keras.optimizers.Adam(0.01), pq.Binary("mean"), freeze_step=step
    ),
}


def figures(model):
    monitor = pq.callbacks.QuantizationMonitor(
        [ops.convert_to_numpy(v) for v, _ in model.optimizer.quantized_variables]
    )
    monitor.set_model(model)
    return monitor.measure()


class ChangedWeightsTest(unittest.TestCase):
    def assert_off_then_on_the_grid(self, model):
        """Off the grid and said to be; on it after a snap, and after an update of fit."""
        optimizer = model.optimizer
        changed = model.get_weights()
        for repair in (lambda: pq.snap(model), lambda: model.fit(X, Y, epochs=1, **EPOCH)):
            model.set_weights(changed)
            self.assertFalse(optimizer.frozen)
            before = figures(model)
            self.assertLess(before["on_grid"], 1.0)
            self.assertGreater(before["quantization_error"], 0.0)
            repair()
            self.assertTrue(optimizer.frozen)
            after = figures(model)
            self.assertEqual((after["on_grid"], after["quantization_error"]), (1.0, 0.0))
            held = weights(model)
            model.fit(X, Y, epochs=1, **EPOCH)
            for path, value in weights(model).items():
                if path.endswith("kernel"):
                    np.testing.assert_array_equal(value, held[path])

    def test_early_stopping_restores_weights_from_before_the_freeze(self):
        for name, make in METHODS.items():
            if "inary" in name:  # on the grid already
                continue
            with self.subTest(name):
                model = make_model()
                model.compile(make(8), loss="mse")
                losses = iter([0.0, 1.0, 1.0, 1.0])
                model.fit(
                    X, Y, epochs=4, **EPOCH,
                    callbacks=[
                        keras.callbacks.LambdaCallback(
                            on_epoch_end=lambda epoch, logs, losses=losses: logs.update(
                                watched=next(losses)
                            )
                        ),
                        keras.callbacks.EarlyStopping(
                            "watched", patience=3, restore_best_weights=True, mode="min"
                        ),
                    ],
                )  # fmt: skip
                self.assertGreaterEqual(int(model.optimizer.iterations), 8)
                self.assert_off_then_on_the_grid(model)

    def test_loaded_weights_are_snapped_to_a_grid_of_their_own(self):
        """Not to the levels of the weights that were frozen, which may be quite others."""
        for name, make in METHODS.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "full.weights.h5")
                full = make_model(seed=3)
                full.get_layer("hidden").kernel.assign(full.get_layer("hidden").kernel * 7)
                full.save_weights(path)
                model = train(make(8), epochs=3)
                model.load_weights(path)
                self.assert_off_then_on_the_grid(model)
                kernel = weights(model)["hidden/kernel"]
                if name != "binary":
                    self.assertGreater(np.abs(kernel).max(), 1.5)

    def test_a_layer_that_was_not_trainable_at_the_freeze(self):
        for name, make in METHODS.items():
            with self.subTest(name):
                model = train(make(8), epochs=1)
                model.get_layer("hidden").trainable = False
                optimizer = model.optimizer
                model.compile(optimizer, loss="mse")
                kernel = model.get_layer("hidden").kernel
                kernel.assign(kernel * 1.01 + 0.003)
                model.fit(X, Y, epochs=2, **EPOCH)
                self.assertFalse(optimizer.frozen)
                self.assertLess(figures(model)["on_grid"], 1.0)
                head = weights(model)["head/kernel"]
                model.get_layer("hidden").trainable = True
                model.compile(optimizer, loss="mse")
                model.fit(X, Y, epochs=1, **EPOCH)
                self.assertTrue(optimizer.frozen)
                self.assertEqual(figures(model)["on_grid"], 1.0)
                np.testing.assert_array_equal(weights(model)["head/kernel"], head)

    def test_skip_frozen_gradients_waits_for_the_grid(self):
        model = train(quant(8), epochs=3)
        kernel = model.get_layer("hidden").kernel
        kernel.assign(kernel + 0.3)
        callback = pq.callbacks.SkipFrozenGradients()
        model.fit(X, Y, epochs=2, **EPOCH, callbacks=[callback])
        self.assertTrue(model.optimizer.frozen)

    def test_spectral_normalization_cannot_move_a_frozen_kernel(self):
        for quantizer in (pq.Binary(), pq.Ternary(axis=-1), pq.MultiBit(2)):
            with self.subTest(repr(quantizer)):
                keras.utils.set_random_seed(0)
                model = keras.Sequential(
                    [keras.Input((6,)), layers.SpectralNormalization(layers.Dense(8)),
                     layers.Dense(3)]
                )  # fmt: skip
                model.compile(quant(8, quantizer=quantizer), loss="mse")
                model.fit(X, Y, epochs=2, **EPOCH)
                kernel = ops.convert_to_numpy(model.layers[0].layer.kernel)
                for _ in range(3):
                    model.fit(X, Y, epochs=1, **EPOCH)
                    self.assertTrue(model.optimizer.frozen)
                    np.testing.assert_array_equal(
                        ops.convert_to_numpy(model.layers[0].layer.kernel), kernel
                    )


class ChangedMemoryTest(unittest.TestCase):
    def test_the_memory_begins_anew_where_others_changed_the_weights(self):
        """Not the latent weights of the weights that are gone: here these are of other signs."""
        for memory in (0.5, 1.0):
            first, second = (keras.Variable(np.full(20, 0.5), name=name) for name in "ab")
            optimizer = pq.ProxQuant(
                keras.optimizers.SGD(0.25), pq.Binary(), 0.5, prox="relax", memory=memory,
                select=lambda variable: True,
            )  # fmt: skip
            optimizer.build([first, second])
            for _ in range(3):
                optimizer.apply([ops.zeros(20)] * 2, [first, second])
            untouched = float(optimizer.latent_of(second)[0])
            first.assign(np.full(20, -0.75))
            optimizer.apply([ops.zeros(20)] * 2, [first, second])
            np.testing.assert_array_equal(optimizer.latent_of(first), np.full(20, -0.75))
            np.testing.assert_array_equal(first, np.full(20, -0.875))
            self.assertGreaterEqual(float(optimizer.latent_of(second)[0]), untouched)

    def test_a_factor_of_the_weights_is_one_of_what_is_remembered(self):
        """Of one weight, of joined kernels and of one that is alone."""
        for quantizer, shape in (
            (pq.Uniform(4), (1, 1)), (pq.Ternary(axis=-1), (6, 4)), (pq.Binary("mean"), (6, 4)),
        ):  # fmt: skip
            start = np.random.default_rng(1).normal(size=(2, *shape))
            scaled, other, alone = (
                keras.Variable(start[i], dtype="float32", name="kernel") for i in (0, 1, 0)
            )
            make = lambda q=quantizer: pq.ProxQuant(  # noqa: E731
                keras.optimizers.SGD(0.1), q, 0.5, prox="relax", memory=0.9
            )
            first, second = make(), make()
            first.build([scaled, other])
            second.build([alone])
            for factor in (1, 8):
                scaled.assign(factor * scaled)
                first.apply([ops.zeros(shape)] * 2, [scaled, other])
                second.apply([ops.zeros(shape)], [alone])
            with self.subTest(str(quantizer)):
                np.testing.assert_allclose(scaled, 8 * ops.convert_to_numpy(alone), rtol=1e-5)
                np.testing.assert_allclose(
                    first.latent_of(scaled),
                    8 * ops.convert_to_numpy(second.latent_of(alone)),
                    rtol=1e-5,
                )

    def test_weights_that_are_loaded_after_the_build_are_those_that_train_on(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "warm.weights.h5")
            warm = make_model(seed=5)
            warm.save_weights(path)
            for jit_compile in (False, True):
                models = [make_model(seed=5), make_model(seed=6)]
                for model in models:
                    optimizer = pq.ProxConnect(keras.optimizers.SGD(0.01), pq.Binary("mean"))
                    model.compile(optimizer, loss="mse", jit_compile=jit_compile)
                    optimizer.build(model.trainable_variables)
                models[1].load_weights(path)
                latents = []
                for model in models:
                    model.fit(X, Y, epochs=1, **EPOCH)
                    kernel = model.get_layer("head").kernel
                    latents.append(ops.convert_to_numpy(model.optimizer.latent_of(kernel)))
                signs = [latent >= 0 for latent in latents]
                self.assertGreater(np.mean(signs[0] == signs[1]), 0.9)


class LoadingTest(unittest.TestCase):
    def test_models_of_the_first_version_load_and_go_on(self):
        """Saved after 2 or 3 epochs; `later` holds the weights three epochs on."""
        for name in ("quant_frozen", "connect", "parq", "relax"):
            with self.subTest(name):
                model = keras.saving.load_model(SAVED / f"{name}.keras")
                saved = np.load(SAVED / f"{name}.npz")
                for i, value in enumerate(model.get_weights()):
                    np.testing.assert_array_equal(value, saved[f"w{i}"])
                is_frozen = name in ("quant_frozen", "relax")
                self.assertEqual(model.optimizer.frozen, is_frozen)
                model.fit(X, Y, epochs=3, **EPOCH)
                self.assertTrue(model.optimizer.frozen)
                for i, value in enumerate(model.get_weights()):
                    np.testing.assert_allclose(value, saved[f"later{i}"], atol=2e-3)
                    if is_frozen and f"w{i}" in ("w0", "w6"):  # the kernels
                        np.testing.assert_array_equal(value, saved[f"w{i}"])

    def test_an_optimizer_that_is_not_built_says_so(self):
        for make in METHODS.values():
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "model.weights.h5")
                trained = train(make(8), epochs=3)
                trained.save_weights(path)
                model = make_model(seed=1)
                model.compile(make(8), loss="mse")
                with self.assertRaisesRegex(ValueError, "optimizer.build"):
                    model.load_weights(path)
                model.optimizer.build(model.trainable_variables)
                model.load_weights(path)
                self.assertTrue(model.optimizer.frozen)
                before = weights(trained)
                model.fit(X, Y, epochs=1, **EPOCH)
                np.testing.assert_array_equal(
                    weights(model)["hidden/kernel"], before["hidden/kernel"]
                )

    def test_a_legacy_h5_file_brings_its_optimizer(self):
        for name, make in METHODS.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "model.h5")
                whole = make_model()
                whole.compile(make(11), loss=keras.losses.MeanSquaredError())
                whole.fit(X, Y, epochs=2, **EPOCH)
                whole.save(path)
                model = keras.saving.load_model(path)
                for each in (whole, model):
                    each.fit(X, Y, epochs=2, **EPOCH)
                self.assertEqual(int(model.optimizer.iterations), 16)
                self.assertTrue(model.optimizer.frozen)
                for path, value in weights(whole).items():
                    np.testing.assert_array_equal(value, weights(model)[path], path)


@keras.saving.register_keras_serializable("tests")
class Scaled(pq.quantizers.Quantizer):
    """Levels -scale and scale, and no `get_config` that says so."""

    def __init__(self, scale=1.0, axis=None):
        super().__init__(axis)
        self.scale = scale

    def fit(self, rows):
        return ops.ones_like(rows[:, :1]) * ops.convert_to_tensor(
            [[-self.scale, self.scale]], rows.dtype
        )


class OwnQuantizerTest(unittest.TestCase):
    def test_its_own_values_are_used_for_kernels_that_are_joined(self):
        first, second = (keras.Variable(np.ones((4, 3)), name="kernel") for _ in range(2))
        for quantizers in ([Scaled(3.0)], [Scaled(3.0), Scaled(2.0)]):
            chosen = dict(zip(("a/", "b/"), quantizers * 2, strict=False))
            first._path, second._path = "a/kernel", "b/kernel"
            optimizer = pq.ProxQuant("sgd", None, select=chosen, prox="hard")
            optimizer.build([first, second])
            optimizer.apply([ops.zeros((4, 3))] * 2, [first, second])
            found = [float(np.abs(ops.convert_to_numpy(v)).max()) for v in (first, second)]
            self.assertEqual(found, [quantizers[0].scale, quantizers[-1].scale])


class FarSnapTest(unittest.TestCase):
    def test_a_freeze_that_moves_weights_far_warns_with_the_figure(self):
        for compile_arguments in ({}, {"jit_compile": True}):
            optimizer = pq.ProxQuant(
                keras.optimizers.SGD(0.0), pq.Ternary(axis=-1), 0.0, freeze_step=6
            )
            model = make_model()
            kernels = (model.get_layer(name).kernel for name in ("hidden", "head"))
            before = [ops.convert_to_numpy(v) for v in kernels]
            error = pq.metrics.quantization_error(
                before, [ops.convert_to_numpy(pq.Ternary(axis=-1)(v)) for v in before]
            )
            with self.assertWarnsRegex(UserWarning, rf"{error:.2f} of their norm.*strength"):
                train(optimizer, model=model, epochs=2, **compile_arguments)

    def test_weights_that_are_not_finite_at_the_freeze_are_told_with_the_remedy(self):
        optimizer = pq.ProxQuant(keras.optimizers.SGD(0.1), pq.Ternary(), freeze_step=3)
        model = make_model()
        model.compile(optimizer, loss="mse")
        with self.assertWarnsRegex(UserWarning, "NaN or infinite.*StopOnNonFinite"):
            model.fit(np.full_like(X, np.nan), Y, epochs=1, **EPOCH)

    def test_it_warns_once_and_at_the_end_of_the_epoch_with_the_monitor(self):
        model = make_model()
        model.compile(
            pq.ProxQuant(keras.optimizers.SGD(0.0), pq.Binary(), 0.0, freeze_step=3), loss="mse"
        )
        seen = []

        def count(epoch, logs):
            seen.append(sum("The snap moved" in str(w.message) for w in caught))

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(
                X, Y, epochs=3, **EPOCH,
                callbacks=[pq.callbacks.QuantizationMonitor(),
                           keras.callbacks.LambdaCallback(on_epoch_end=count)],
            )  # fmt: skip
        self.assertEqual(seen, [1, 1, 1])

    def test_a_snap_by_hand_warns_too_and_returns_the_distance(self):
        model = train(pq.ProxQuant("adam", pq.Binary(), 0.0), epochs=1)
        with self.assertWarnsRegex(UserWarning, "The snap moved"):
            pq.snap(model)

    def test_a_freeze_from_near_does_not_warn(self):
        for name, make in METHODS.items():
            with self.subTest(name), warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                train(make(80), epochs=22)


if __name__ == "__main__":
    unittest.main()
