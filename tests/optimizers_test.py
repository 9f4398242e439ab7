"""ProxQuant and ProxConnect: what one step does, and what they refuse."""

import unittest

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq
from tests.optimizers_cases import INNER, X, Y, make_model, on_grid, train, weights


class ProxQuantStepTest(unittest.TestCase):
    def test_strength_zero_is_the_inner_optimizer_bit_for_bit(self):
        for name, inner in INNER.items():
            with self.subTest(name):
                plain = weights(train(inner()))
                wrapped = weights(train(pq.ProxQuant(inner(), pq.Binary(), 0.0)))
                for path, value in plain.items():
                    np.testing.assert_array_equal(value, wrapped[path])

    def test_one_step_is_the_inner_step_then_the_prox_then_the_clip(self):
        for quantizer, apply_prox in (
            (pq.Binary(), pq.prox.prox_l1),
            (pq.Ternary(), pq.prox.prox_l2),
        ):
            plain, pulled = make_model(), make_model()
            plain.compile(keras.optimizers.SGD(0.1), loss="mse")
            optimizer = pq.ProxQuant(keras.optimizers.SGD(0.1), quantizer, 3.0, clip=0.5)
            pulled.compile(optimizer, loss="mse")
            plain.train_on_batch(X, Y)
            pulled.train_on_batch(X, Y)
            stepped, found = weights(plain), weights(pulled)
            for path, value in stepped.items():
                if path.endswith("kernel"):
                    value = apply_prox(value, quantizer(value), 0.1 * 3.0)
                    value = ops.convert_to_numpy(ops.clip(value, -0.5, 0.5))
                np.testing.assert_allclose(found[path], value, atol=1e-6)

    def test_strength_and_learning_rate_are_those_of_the_step_before_it_moves_on(self):
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.25, 0.125])
        optimizer = pq.ProxQuant(
            keras.optimizers.SGD(rate), pq.Binary(), pq.schedules.Linear(0.1), clip=None
        )
        variable = keras.Variable([0.25, -0.25], name="kernel")
        optimizer.build([variable])
        pulls = []
        for _ in range(3):
            before = ops.convert_to_numpy(variable)[0]
            optimizer.apply([ops.zeros(2)], [variable])
            pulls.append(float(ops.convert_to_numpy(variable)[0] - before))
        np.testing.assert_allclose(pulls, [0.5 * 0.0, 0.25 * 0.1, 0.125 * 0.2], atol=1e-7)

    def test_levels_are_fitted_at_every_third_step_and_kept_in_between(self):
        variable = keras.Variable([1.0, -0.5], name="kernel")
        optimizer = pq.ProxQuant(
            keras.optimizers.SGD(1.0), pq.Binary(scale="mean"), 0.25, update_levels_every=3
        )
        optimizer.build([variable])
        levels = optimizer.variables[-1 - len(optimizer.inner_optimizer.variables)]
        seen = []
        for _ in range(4):
            optimizer.apply([ops.convert_to_tensor([-1.0, 0.0])], [variable])
            seen.append(float(ops.convert_to_numpy(levels)[1]))
        # Weights after the gradient: (2, -.5), (2.75, -.75), (3.5, -1), (4.25, -1.25).
        self.assertEqual(seen, [1.25, 1.25, 1.25, 2.75])

    def test_only_selected_variables_are_pulled(self):
        model = train(pq.ProxQuant("sgd", pq.Binary(), 1e6, select="hidden/kernel"), epochs=1)
        found = weights(model)
        self.assertTrue(on_grid(found["hidden/kernel"]))
        self.assertFalse(on_grid(found["head/kernel"]))
        self.assertFalse(on_grid(found["hidden/bias"]))

    def test_prox_overrides_the_quantizers_default(self):
        variable = keras.Variable([0.5], name="kernel")
        optimizer = pq.ProxQuant(keras.optimizers.SGD(1.0), pq.Binary(), 1.0, prox="l2")
        optimizer.apply_gradients([(ops.zeros(1), variable)])
        np.testing.assert_allclose(ops.convert_to_numpy(variable), [0.75])

    def test_the_fused_binary_step_is_the_general_one_bit_for_bit(self):
        start = np.random.default_rng(2).normal(size=500).astype("float32")
        for scale in (None, 0.5):
            clip = scale or 1.0
            fused = keras.Variable(start, name="kernel")
            optimizer = pq.ProxQuant(keras.optimizers.SGD(0.1), pq.Binary(scale), 3.0, clip=clip)
            optimizer.apply([ops.zeros(500)], [fused])
            expected = pq.prox.prox_l1(start, pq.Binary(scale)(start), 0.1 * 3.0)
            np.testing.assert_array_equal(
                ops.convert_to_numpy(fused), ops.convert_to_numpy(ops.clip(expected, -clip, clip))
            )

    def test_the_concave_prox_pushes_away_from_zero_by_the_factor_of_the_prox(self):
        variable = keras.Variable([0.25, -0.125, 0.9, 0.0], name="kernel")
        optimizer = pq.ProxQuant(
            keras.optimizers.SGD(1.0), pq.Binary(), 0.5, prox="concave", clip=1.0
        )
        optimizer.apply_gradients([(ops.zeros(4), variable)])
        np.testing.assert_allclose(ops.convert_to_numpy(variable), [0.5, -0.25, 1.0, 0.0])

    def test_graph_xla_and_steps_per_execution_agree(self):
        def optimizer():
            return pq.ProxQuant(keras.optimizers.Adam(0.01), pq.MultiBit(2), 5.0, freeze_step=9)

        reference = weights(train(optimizer()))
        for arguments in ({"jit_compile": True}, {"steps_per_execution": 2}, {"run_eagerly": True}):
            if "steps_per_execution" in arguments and keras.backend.backend() == "torch":
                continue  # Keras takes 1 only
            with self.subTest(arguments):
                found = weights(train(optimizer(), **arguments))
                for path, value in reference.items():
                    np.testing.assert_allclose(value, found[path], atol=2e-5)

    def test_custom_loop_with_apply_on_some_variables_pulls_only_these(self):
        first, second = keras.Variable([0.5], name="kernel"), keras.Variable([0.5], name="kernel")
        optimizer = pq.ProxQuant(keras.optimizers.SGD(1.0), pq.Binary(), 0.25)
        optimizer.build([first, second])
        optimizer.apply([ops.zeros(1)], [second])
        self.assertEqual(float(first[0]), 0.5)
        self.assertEqual(float(second[0]), 0.75)
        self.assertEqual(int(optimizer.iterations), 1)

    def test_a_tied_table_is_one_variable(self):
        table = layers.Embedding(5, 4, name="table")
        inputs = keras.Input((3,), dtype="int32")
        logits = ops.matmul(table(inputs), ops.transpose(table.embeddings))
        model = keras.Model(inputs, logits)
        model.compile(pq.ProxQuant("sgd", pq.Binary(), 1e6), loss="mse")
        model.fit(np.zeros((4, 3), "int32"), np.zeros((4, 3, 5), "float32"), verbose=0)
        self.assertEqual(len(model.optimizer.quantized_variables), 1)
        self.assertTrue(on_grid(ops.convert_to_numpy(table.embeddings)))


class ProxConnectTest(unittest.TestCase):
    def test_weights_are_on_the_grid_from_the_start_and_latents_are_not(self):
        model = make_model()
        start = weights(model)["hidden/kernel"]
        optimizer = pq.ProxConnect(keras.optimizers.SGD(0.1), pq.Binary())
        optimizer.build(model.trainable_variables)
        kernel = model.get_layer("hidden").kernel
        self.assertTrue(on_grid(ops.convert_to_numpy(kernel)))
        np.testing.assert_array_equal(ops.convert_to_numpy(optimizer.latent_of(kernel)), start)

    def test_the_gradient_is_added_to_the_latent_weights(self):
        variable = keras.Variable([0.25, -2.0], name="kernel")
        optimizer = pq.ProxConnect(keras.optimizers.SGD(0.5), pq.Binary(), clip=1.0)
        optimizer.build([variable])
        optimizer.apply([ops.convert_to_tensor([1.0, 0.0])], [variable])
        latent = ops.convert_to_numpy(optimizer.latent_of(variable))
        np.testing.assert_array_equal(latent, [-0.25, -1.0])
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), [-1.0, -1.0])

    def test_fit_moves_the_first_gradient_to_the_grid(self):
        model = make_model()
        start = weights(model)["hidden/kernel"]
        by_hand = make_model()
        by_hand.get_layer("hidden").kernel.assign(np.where(start >= 0, 1.0, -1.0))
        by_hand.compile(keras.optimizers.SGD(0.01), loss="mse")
        model.compile(
            pq.ProxConnect(keras.optimizers.SGD(0.01), pq.Binary(), select="hidden/kernel"),
            loss="mse",
        )
        by_hand.fit(X, Y, batch_size=64, verbose=0)
        model.fit(X, Y, batch_size=64, verbose=0)
        np.testing.assert_allclose(
            weights(model)["head/kernel"], weights(by_hand)["head/kernel"], atol=1e-7
        )

    def test_relaxation_is_the_mix_and_theta_one_is_the_quantized_value(self):
        for theta, expected in ((0.0, 0.3), (0.5, 0.65), (1.0, 1.0)):
            variable = keras.Variable([0.3], name="kernel")
            optimizer = pq.ProxConnect("sgd", pq.Binary(), theta, prox="l2")
            optimizer.build([variable])
            self.assertAlmostEqual(float(variable[0]), expected, places=6)

    def test_freeze_holds_the_weights(self):
        optimizer = pq.ProxConnect("adam", pq.Ternary(), 0.5, prox="l2", freeze_step=8)
        model = train(optimizer, epochs=2)
        frozen = weights(model)["hidden/kernel"]
        self.assertLessEqual(len(np.unique(frozen)), 3)
        model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
        np.testing.assert_array_equal(frozen, weights(model)["hidden/kernel"])


class RefusalTest(unittest.TestCase):
    def test_bad_arguments_are_refused_with_what_was_received(self):
        adam = keras.optimizers.Adam
        cases = {
            "inner_optimizer=3": lambda: pq.ProxQuant(3, pq.Binary(), 1.0),
            "another quantizing optimizer": lambda: pq.ProxQuant(
                pq.ProxQuant(adam(), pq.Binary(), 1.0), pq.Binary(), 1.0
            ),
            "LossScaleOptimizer": lambda: pq.ProxQuant(
                keras.optimizers.LossScaleOptimizer(adam()), pq.Binary(), 1.0
            ),
            "quantizer must be": lambda: pq.ProxQuant(adam(), "binary", 1.0),
            "an instance": lambda: pq.ProxQuant(adam(), pq.Binary, 1.0),
            "strength=-1": lambda: pq.ProxQuant(adam(), pq.Binary(), -1.0),
            "strength=nan": lambda: pq.ProxQuant(adam(), pq.Binary(), float("nan")),
            "strength=None": lambda: pq.ProxQuant(adam(), pq.Binary(), None),
            "prox='l3'": lambda: pq.ProxQuant(adam(), pq.Binary(), 1.0, prox="l3"),
            "clip=0": lambda: pq.ProxQuant(adam(), pq.Binary(), 1.0, clip=0),
            "clip=-1": lambda: pq.ProxQuant(adam(), pq.Binary(), 1.0, clip=-1),
            "freeze_step=-1": lambda: pq.ProxQuant(adam(), pq.Binary(), 1.0, freeze_step=-1),
            "freeze_step=1.5": lambda: pq.ProxQuant(adam(), pq.Binary(), 1.0, freeze_step=1.5),
            "weight_decay.*inner": lambda: pq.ProxQuant(adam(), pq.Binary(), 1.0, weight_decay=0.1),
            "clipnorm.*inner": lambda: pq.ProxConnect(adam(), pq.Binary(), clipnorm=1.0),
            "update_levels_every=0": lambda: pq.ProxQuant(
                adam(), pq.Binary(), 1.0, update_levels_every=0
            ),
            "does not know": lambda: pq.ProxQuant(adam(), pq.Binary(), 1.0, colour="red"),
            "select=3": lambda: pq.ProxQuant(adam(), pq.Binary(), 1.0, select=3),
            "invalid regex": lambda: pq.ProxQuant(adam(), pq.Binary(), 1.0, select="("),
            "takes no `strength`": lambda: pq.ProxConnect(adam(), pq.Binary(), 1.0),
            "needs a `strength`": lambda: pq.ProxConnect(adam(), pq.Binary(), prox="l2"),
            "prox='soft'": lambda: pq.ProxConnect(adam(), pq.Binary(), prox="soft"),
            r"in \[0, 1\]": lambda: pq.ProxConnect(adam(), pq.Binary(), 1.5, prox="l2"),
        }
        for pattern, make in cases.items():
            with self.subTest(pattern), self.assertRaisesRegex(ValueError, pattern):
                make()

    def test_apply_without_variables_before_build_is_refused(self):
        with self.assertRaisesRegex(ValueError, "build"):
            pq.ProxQuant("adam", pq.Binary(), 1.0).apply([ops.zeros(1)])

    def test_a_selection_that_matches_nothing_lists_the_candidates(self):
        optimizer = pq.ProxQuant("adam", pq.Binary(), 1.0, select="conv")
        with self.assertRaisesRegex(ValueError, r"(?s)conv.*net/hidden/kernel \(6, 8\)"):
            optimizer.build(make_model().trainable_variables)
