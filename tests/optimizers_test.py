"""ProxQuant and ProxConnect: steps, freeze, saving, refusals."""

import copy
import os
import tempfile
import unittest

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 6)).astype("float32")
Y = RANDOM.normal(size=(64, 3)).astype("float32")


def make_model(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(3, name="head"),
        ],
        name="net",
    )


def train(optimizer, epochs=3, seed=0, model=None, **compile_arguments):
    model = model or make_model(seed)
    model.compile(optimizer, loss="mse", **compile_arguments)
    model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return model


def weights(model):
    return {v.path.removeprefix("net/"): ops.convert_to_numpy(v) for v in model.trainable_variables}


def on_grid(values):
    return set(np.unique(values)) <= {-1.0, 1.0}


@keras.saving.register_keras_serializable("tests")
class ThirdPartyOptimizer(keras.optimizers.Optimizer):
    """Sign descent, an optimizer that Keras does not know."""

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * ops.sign(gradient))


INNER = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.05),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "lion": lambda: keras.optimizers.Lion(0.005),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "third_party": lambda: ThirdPartyOptimizer(learning_rate=0.01),
}


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

    def test_regularizer_overrides_the_quantizers_default(self):
        variable = keras.Variable([0.5], name="kernel")
        optimizer = pq.ProxQuant(keras.optimizers.SGD(1.0), pq.Binary(), 1.0, regularizer="l2")
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

    def test_the_concave_regularizer_pushes_away_from_zero_by_the_factor_of_the_prox(self):
        variable = keras.Variable([0.25, -0.125, 0.9, 0.0], name="kernel")
        optimizer = pq.ProxQuant(
            keras.optimizers.SGD(1.0), pq.Binary(), 0.5, regularizer="concave", clip=1.0
        )
        optimizer.apply_gradients([(ops.zeros(4), variable)])
        np.testing.assert_allclose(ops.convert_to_numpy(variable), [0.5, -0.25, 1.0, 0.0])

    def test_graph_xla_and_steps_per_execution_agree(self):
        def optimizer():
            return pq.ProxQuant(keras.optimizers.Adam(0.01), pq.MultiBit(2), 5.0, freeze_step=9)

        reference = weights(train(optimizer()))
        for arguments in ({"jit_compile": True}, {"steps_per_execution": 2}, {"run_eagerly": True}):
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


OPTIMIZERS = {
    "binary": lambda: pq.ProxQuant(
        keras.optimizers.Adam(0.01), pq.Binary(), pq.schedules.Linear(0.5), clip=1.0, freeze_step=14
    ),
    "ternary": lambda: pq.ProxQuant(
        keras.optimizers.SGD(0.01, momentum=0.9), pq.Ternary(), 1.0, select=["hidden", "head/k"]
    ),
    "mixed": lambda: pq.ProxQuant(
        "rmsprop", None, 0.5, select={"hidden/kernel": pq.MultiBit(2), "head": None}, freeze_step=2
    ),
    "scheduled": lambda: pq.ProxQuant(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 20)),
        pq.Uniform(3, axis=-1),
        2.0,
        regularizer="l1",
    ),
    "concave": lambda: pq.ProxQuant(
        "adam", pq.Binary(scale="mean", axis=-1), 5.0, regularizer="concave", freeze_step=12
    ),
    "kept_levels": lambda: pq.ProxQuant(
        "adam", pq.MultiBit(2, axis=-1), 2.0, update_levels_every=3, freeze_step=17
    ),
    "lazy_kept_levels": lambda: pq.ProxConnect(
        "adam", pq.Ternary(), update_levels_every=3, freeze_step=17
    ),
    "lazy": lambda: pq.ProxConnect(keras.optimizers.Adam(0.01), pq.Binary(), clip=1.0),
    "relaxed": lambda: pq.ProxConnect(
        "adam", pq.Ternary(), pq.schedules.Linear(0.05), prox="l2", freeze_step=18
    ),
    "parq": lambda: pq.ProxConnect(
        "adam", pq.MultiBit(2, axis=-1), pq.schedules.Sigmoid(2, 18), prox="piecewise_affine"
    ),
}


class SavingTest(unittest.TestCase):
    def test_fit_save_load_fit_equals_the_uninterrupted_run_bit_for_bit(self):
        for name, optimizer in OPTIMIZERS.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                whole = train(optimizer(), epochs=5)
                model = train(optimizer(), epochs=2)
                model.save(os.path.join(folder, "model.keras"))
                model = keras.saving.load_model(os.path.join(folder, "model.keras"))
                model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
                for path, value in weights(whole).items():
                    np.testing.assert_array_equal(value, weights(model)[path], path)

    def test_config_survives_a_round_trip(self):
        for name, optimizer in OPTIMIZERS.items():
            with self.subTest(name):
                config = keras.saving.serialize_keras_object(optimizer())
                # A copy: Keras revives an inner schedule inside the config it is given.
                again = keras.saving.deserialize_keras_object(copy.deepcopy(config))
                self.assertEqual(config, keras.saving.serialize_keras_object(again))

    def test_a_registered_predicate_is_saved(self):
        optimizer = pq.ProxQuant("adam", pq.Binary(), 1.0, select=is_hidden)
        config = keras.saving.serialize_keras_object(optimizer)
        again = keras.saving.deserialize_keras_object(config)
        self.assertIs(again.select, is_hidden)

    def test_the_file_holds_the_inner_state_once(self):
        model = train(pq.ProxQuant(keras.optimizers.Adam(0.01), pq.Binary(), 1.0))
        store = {}
        model.optimizer.save_own_variables(store)
        self.assertEqual(len(store), 2)


@keras.saving.register_keras_serializable("tests")
def is_hidden(variable):
    return variable.path == "net/hidden/kernel"


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
            "regularizer='l3'": lambda: pq.ProxQuant(adam(), pq.Binary(), 1.0, regularizer="l3"),
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
