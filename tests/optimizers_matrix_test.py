"""Precision, compilation, and what else Keras users combine with an optimizer."""

import unittest

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq
from tests.optimizers_cases import X, Y, make_model, on_grid, train, weights


def quant(inner=None, **arguments):
    arguments = {"freeze_step": 6, **arguments}
    return pq.ProxQuant(inner or keras.optimizers.Adam(0.01), pq.Binary(), 1.0, **arguments)


class CompilationTest(unittest.TestCase):
    def tearDown(self):
        keras.mixed_precision.set_global_policy("float32")

    def test_every_precision_and_compilation_ends_with_float32_weights_on_the_grid(self):
        for policy in ("mixed_float16", "mixed_bfloat16"):
            for arguments in ({"jit_compile": True}, {"steps_per_execution": 3}):
                with self.subTest(policy, **arguments):
                    keras.mixed_precision.set_global_policy(policy)
                    optimizer = quant()
                    model = train(optimizer, epochs=2, **arguments)
                    kernel = model.get_layer("hidden").kernel
                    self.assertEqual(kernel.dtype, "float32")
                    self.assertTrue(on_grid(ops.convert_to_numpy(kernel)))
                    skipped = 8 - int(optimizer.iterations)
                    self.assertLessEqual(skipped, 2)

    def test_skipped_steps_count_as_none_for_strength_and_freeze(self):
        # float16 overflows at this scale of the loss until it has been halved often enough.
        inner = quant(keras.optimizers.SGD(0.01), freeze_step=3)
        scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**20)
        keras.mixed_precision.set_global_policy("mixed_float16")
        model = train(scaled, epochs=1)
        done = int(inner.iterations)
        self.assertLess(done, 4)
        model.fit(X, Y, batch_size=16, epochs=5, shuffle=False, verbose=0)
        self.assertTrue(inner.frozen)
        self.assertTrue(on_grid(weights(model)["hidden/kernel"]))

    def test_accumulation_over_two_batches_is_the_step_of_their_mean(self):
        def inner(steps=None):
            return keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps)

        for arguments in ({}, {"jit_compile": True}):
            with self.subTest(**arguments):
                found, expected = make_model(), make_model()
                for layer in (found, expected):
                    layer.get_layer("norm").trainable = False
                halves = quant(inner(2), freeze_step=3)
                found.compile(halves, loss="mse", **arguments)
                found.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0)
                expected.compile(quant(inner(), freeze_step=3), loss="mse", **arguments)
                expected.fit(X, Y, batch_size=32, epochs=2, shuffle=False, verbose=0)
                self.assertEqual(int(halves.iterations), 4)
                for path, value in weights(expected).items():
                    np.testing.assert_allclose(value, weights(found)[path], atol=2e-6)


class InnerOptimizerTest(unittest.TestCase):
    def test_variables_are_excluded_from_the_decay_of_the_inner_optimizer(self):
        kernel, bias = keras.Variable(np.ones((2, 3)), name="kernel"), keras.Variable(np.ones(3))
        optimizer = pq.ProxQuant(keras.optimizers.AdamW(0.1, weight_decay=0.5), pq.Binary(), 0.0)
        optimizer.exclude_from_weight_decay(var_list=[bias])
        optimizer.build([kernel, bias])
        optimizer.apply([np.zeros((2, 3)), np.zeros(3)])
        self.assertLess(float(kernel[0, 0]), 1)
        self.assertEqual(float(bias[0]), 1)

    def test_clipnorm_and_weight_decay_act_before_the_prox(self):
        for arguments in ({"clipnorm": 0.01}, {"weight_decay": 0.5}, {"global_clipnorm": 0.01}):
            with self.subTest(**arguments):
                plain = make_model()
                plain.compile(keras.optimizers.SGD(0.1, **arguments), loss="mse")
                plain.train_on_batch(X, Y)
                stepped = weights(plain)["hidden/kernel"]
                optimizer = quant(keras.optimizers.SGD(0.1, **arguments), freeze_step=None)
                pulled = make_model()
                pulled.compile(optimizer, loss="mse")
                pulled.train_on_batch(X, Y)
                expected = pq.prox.prox_l1(stepped, pq.Binary()(stepped), 0.1)
                np.testing.assert_allclose(
                    weights(pulled)["hidden/kernel"], ops.convert_to_numpy(expected), atol=1e-6
                )

    def test_averages_are_back_on_the_grid_after_fit(self):
        inner = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
        model = train(quant(inner, freeze_step=None), epochs=2, jit_compile=True)
        self.assertTrue(on_grid(weights(model)["hidden/kernel"]))

    def test_a_callback_that_lowers_the_learning_rate_lowers_the_pull(self):
        optimizer = quant(keras.optimizers.SGD(0.0625), freeze_step=None)
        plateau = keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.5, patience=1, min_delta=1e9, cooldown=0
        )
        model = make_model()
        model.compile(optimizer, loss="mse")
        monitor = pq.callbacks.QuantizationMonitor()
        history = model.fit(
            X, Y, batch_size=16, epochs=4, verbose=0, callbacks=[plateau, monitor]
        ).history
        self.assertEqual(history["tau"], [0.0625, 0.03125, 0.015625, 0.0078125])
        self.assertEqual(float(optimizer.inner_optimizer.learning_rate), 0.0078125)

    def test_two_optimizers_of_one_multi_optimizer_keep_their_own_grids(self):
        if not hasattr(keras.optimizers, "MultiOptimizer"):
            self.skipTest("This Keras has no MultiOptimizer.")
        model = make_model()
        head = pq.ProxQuant("sgd", pq.Ternary(), 1.0, freeze_step=6)
        parts = keras.optimizers.OptimizerMap(quant(), {".*head.*": head})
        model.compile(keras.optimizers.MultiOptimizer(parts), loss="mse")
        model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
        self.assertTrue(on_grid(weights(model)["hidden/kernel"]))
        self.assertEqual(len(head.quantized_variables), 1)
        self.assertEqual(len(np.unique(weights(model)["head/kernel"])), 3)


class ModelTest(unittest.TestCase):
    def test_layers_not_trainable_before_training_stay_in_full_precision(self):
        model = make_model()
        model.get_layer("hidden").trainable = False
        before = ops.convert_to_numpy(model.get_layer("hidden").kernel)
        train(quant(), model=model)
        np.testing.assert_array_equal(
            before, ops.convert_to_numpy(model.get_layer("hidden").kernel)
        )
        self.assertTrue(on_grid(weights(model)["head/kernel"]))

    def test_layers_made_not_trainable_later_stay_as_they_are(self):
        model = train(quant(freeze_step=None), epochs=1)
        model.get_layer("hidden").trainable = False
        before = ops.convert_to_numpy(model.get_layer("hidden").kernel)
        train(quant(freeze_step=4), model=model, epochs=2)
        np.testing.assert_array_equal(
            before, ops.convert_to_numpy(model.get_layer("hidden").kernel)
        )
        self.assertTrue(on_grid(weights(model)["head/kernel"]))

    def test_a_model_built_by_its_first_batch_takes_the_steps_of_one_built_before(self):
        optimizers = {
            "lazy": lambda: pq.ProxConnect("adam", pq.Ternary(), update_levels_every=3),
            "frozen from the start": lambda: quant(freeze_step=0),
        }
        for name, optimizer in optimizers.items():
            states = []
            for build_first in (True, False):
                keras.utils.set_random_seed(0)
                model = keras.Sequential([layers.Dense(8), layers.Dense(3)])
                if build_first:
                    model.build((None, 6))
                train(optimizer(), model=model, epochs=1)
                states.append([*model.get_weights(), *map(np.array, model.optimizer.variables)])
            for one, other in zip(*states, strict=True):
                np.testing.assert_array_equal(one, other, name)

    def test_a_layer_used_twice_in_nested_models_is_one_variable(self):
        shared = layers.Dense(6, name="shared")
        block = keras.Sequential([keras.Input((6,)), shared, layers.ReLU()], name="block")
        inputs = keras.Input((6,))
        model = keras.Model(inputs, layers.Dense(3, name="head")(shared(block(inputs))))
        optimizer = quant()
        train(optimizer, model=model)
        self.assertEqual(len(optimizer.quantized_variables), 2)
        self.assertTrue(on_grid(ops.convert_to_numpy(shared.kernel)))

    def test_two_optimizers_take_turns_as_in_a_gan(self):
        generator, critic = make_model(0), make_model(1)
        optimizers = [quant(freeze_step=3), pq.ProxConnect("adam", pq.Ternary(), freeze_step=4)]
        for optimizer, model in zip(optimizers, (generator, critic), strict=True):
            optimizer.build(model.trainable_variables)
        for step in range(10):
            turn = step % 2
            model = (generator, critic)[turn]
            gradients = [ops.ones(v.shape) * 0.1 for v in model.trainable_variables]
            optimizers[turn].apply(gradients, model.trainable_variables)
        self.assertTrue(on_grid(weights(generator)["hidden/kernel"]))
        self.assertLessEqual(len(np.unique(weights(critic)["hidden/kernel"])), 3)
        self.assertEqual([int(o.iterations) for o in optimizers], [5, 5])


if __name__ == "__main__":
    unittest.main()
