"""The freeze, the snap, and steps that change nothing."""

import unittest

import keras
import numpy as np
from keras import ops

import tf_proxquant as pq
from tests.optimizers_cases import INNER, X, Y, make_model, on_grid, train, weights


class FreezeTest(unittest.TestCase):
    def freeze_and_train_on(self, inner, quantizer, **arguments):
        """Trains to the freeze, then on; returns the weights at both moments."""
        optimizer = pq.ProxQuant(inner, quantizer, 1.0, freeze_step=8, **arguments)
        model = train(optimizer, epochs=2)
        self.assertTrue(optimizer.frozen)
        frozen = weights(model)
        model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
        return frozen, weights(model)

    def test_frozen_weights_are_on_the_grid_and_never_move_whatever_is_inside(self):
        for name, inner in INNER.items():
            with self.subTest(name):
                frozen, later = self.freeze_and_train_on(inner(), pq.Binary())
                kernels = [path for path in frozen if path.endswith("kernel")]
                for path in kernels:
                    self.assertTrue(on_grid(frozen[path]), path)
                    np.testing.assert_array_equal(frozen[path], later[path])
                others = set(frozen) - set(kernels)
                self.assertTrue(any(np.any(frozen[p] != later[p]) for p in others))

    def test_frozen_levels_that_are_means_do_not_drift_by_an_ulp(self):
        for quantizer in (pq.Ternary(), pq.MultiBit(2), pq.Binary(scale="mean", axis=-1)):
            with self.subTest(repr(quantizer)):
                frozen, later = self.freeze_and_train_on(keras.optimizers.Adam(0.01), quantizer)
                kernel = frozen["hidden/kernel"]
                columns = kernel if quantizer.axis == -1 else kernel.reshape(-1, 1)
                most = max(len(np.unique(columns[:, i])) for i in range(columns.shape[1]))
                self.assertLessEqual(most, 4)
                np.testing.assert_array_equal(kernel, later["hidden/kernel"])

    def test_the_update_before_the_freeze_step_does_not_snap(self):
        variable = keras.Variable([0.5, -0.5], name="kernel")
        optimizer = pq.ProxQuant(keras.optimizers.SGD(0.0), pq.Binary(), 0.0, freeze_step=2)
        optimizer.apply([ops.zeros(2)], [variable])
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), [0.5, -0.5])
        optimizer.apply([ops.zeros(2)], [variable])
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), [1.0, -1.0])

    def test_freeze_step_zero_snaps_before_the_first_step(self):
        model = make_model()
        expected = np.where(weights(model)["hidden/kernel"] >= 0, 1.0, -1.0)
        train(pq.ProxQuant("adam", pq.Binary(), 0.0, freeze_step=0), model=model)
        np.testing.assert_array_equal(weights(model)["hidden/kernel"], expected)

    def test_averaging_of_weights_leaves_frozen_ones_alone_and_snaps_others(self):
        for freeze_step in (4, None):
            for overwrite in (None, 2):
                inner = keras.optimizers.SGD(
                    0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=overwrite
                )
                optimizer = pq.ProxQuant(inner, pq.Binary(), 1.0, freeze_step=freeze_step)
                model = train(optimizer, epochs=2)
                before = weights(model)["hidden/kernel"]
                self.assertTrue(on_grid(before))
                if freeze_step:
                    model.fit(X, Y, batch_size=16, verbose=0)
                    np.testing.assert_array_equal(before, weights(model)["hidden/kernel"])

    def test_averages_of_weights_on_their_way_to_the_freeze_stay_as_they_are(self):
        trained = {}
        for name in ("bare", "pulled"):
            optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
            if name == "pulled":
                optimizer = pq.ProxQuant(optimizer, pq.Binary(), 0.0, freeze_step=100)
            model = make_model()
            model.compile(optimizer, "mse")
            # Once: on JAX Keras' own cannot train on afterwards.
            model.fit(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False)
            trained[name] = weights(model)["hidden/kernel"]
        np.testing.assert_allclose(trained["pulled"], trained["bare"], atol=1e-6)

    def test_averages_that_a_callback_swaps_in_end_on_the_levels(self):
        inner = keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.9)
        optimizer = pq.ProxQuant(
            inner, pq.Binary("mean", axis=-1), prox="piecewise_affine", memory=0.9, freeze_step=8
        )
        model = make_model()
        model.compile(optimizer, "mse")
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        model.fit(X, Y, batch_size=16, epochs=3, verbose=0, callbacks=[swap])
        self.assertTrue(optimizer.frozen)
        for column in weights(model)["hidden/kernel"].T:
            self.assertLessEqual(len(np.unique(column)), 2)

    def test_gradient_accumulation_pulls_on_real_updates_only(self):
        variable = keras.Variable([0.5], name="kernel")
        inner = keras.optimizers.SGD(1.0, gradient_accumulation_steps=3)
        optimizer = pq.ProxQuant(inner, pq.Binary(), pq.schedules.Linear(0.125), freeze_step=4)
        optimizer.build([variable])
        seen = []
        for _ in range(12):
            optimizer.apply([ops.zeros(1)], [variable])
            seen.append(float(ops.convert_to_numpy(variable)[0]))
        self.assertEqual(seen, [0.5] * 5 + [0.625] * 3 + [0.875] * 3 + [1.0])


class SnapTest(unittest.TestCase):
    def test_snap_rounds_selected_weights_in_place(self):
        model = train(pq.ProxQuant("adam", pq.Binary(), 0.0, select="hidden"), epochs=1)
        before = weights(model)
        pq.snap(model)
        after = weights(model)
        signs = np.where(before["hidden/kernel"] >= 0, 1.0, -1.0)
        np.testing.assert_array_equal(after["hidden/kernel"], signs)
        np.testing.assert_array_equal(after["head/kernel"], before["head/kernel"])

    def test_snap_works_before_any_step_and_through_loss_scaling(self):
        model = make_model()
        inner = pq.ProxQuant("adam", pq.Binary(), 0.0)
        model.compile(keras.optimizers.LossScaleOptimizer(inner), loss="mse")
        pq.snap(model)
        self.assertTrue(on_grid(weights(model)["hidden/kernel"]))

    def test_snap_leaves_frozen_weights_bit_identical(self):
        model = train(pq.ProxQuant("adam", pq.Ternary(), 1.0, freeze_step=4), epochs=2)
        before = weights(model)["hidden/kernel"]
        pq.snap(model)
        np.testing.assert_array_equal(before, weights(model)["hidden/kernel"])

    def test_snap_refuses_a_model_with_another_optimizer(self):
        model = make_model()
        model.compile("adam", loss="mse")
        with self.assertRaisesRegex(ValueError, "compiled with pq.ProxQuant"):
            pq.snap(model)


class MixedPrecisionTest(unittest.TestCase):
    def tearDown(self):
        keras.mixed_precision.set_global_policy("float32")

    def test_float16_policy_keeps_float32_weights_on_the_grid(self):
        for policy in ("mixed_float16", "mixed_bfloat16"):
            with self.subTest(policy):
                keras.mixed_precision.set_global_policy(policy)
                model = train(pq.ProxQuant("adam", pq.Binary(), 1.0, freeze_step=6), epochs=2)
                kernel = model.get_layer("hidden").kernel
                self.assertEqual(kernel.dtype, "float32")
                self.assertTrue(on_grid(ops.convert_to_numpy(kernel)))

    @unittest.skipIf(
        keras.backend.backend() == "jax", "Keras' LossScaleOptimizer.apply is not for JAX."
    )
    def test_a_step_that_loss_scaling_skips_does_not_pull(self):
        optimizer = pq.ProxQuant(keras.optimizers.SGD(1.0), pq.Binary(), 0.25)
        scaled = keras.optimizers.LossScaleOptimizer(optimizer)
        variable = keras.Variable([0.5], name="kernel")
        scaled.build([variable])
        scaled.apply([ops.convert_to_tensor([float("inf")])], [variable])
        self.assertEqual(float(variable[0]), 0.5)
        scaled.apply([ops.zeros(1)], [variable])
        self.assertEqual(float(variable[0]), 0.75)
