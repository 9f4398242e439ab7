"""The memory: one update from ProxQuant to the lazy methods."""

import itertools
import unittest

import keras
import numpy as np
from keras import ops

import tf_proxquant as pq
from tests.optimizers_cases import X, Y, train, weights

MEMORIES = (0.0, 0.5, 0.99, 1.0)
STRENGTHS = {
    "l1": 0.5, "l2": 0.5, "concave": 0.5, "relax": 0.25, "piecewise_affine": 0.625, "hard": None,
}  # fmt: skip
CONNECTED = [name for name in STRENGTHS if name != "l2"]  # ProxConnect has no such map
RATE = 0.25
# Keras' optimizers round float64 gradients to float32 on PyTorch.
TOLERANCE = 1e-6 if keras.backend.backend() == "torch" else 1e-12
START = np.array([[0.7, -0.2, 1.9, -0.05], [-1.1, 0.3, 0.4, -0.6]])
GRADIENTS = np.random.default_rng(5).normal(size=(6, 2, 4))


def level_of(v):
    """Levels of `Binary("mean", axis=-1)`."""
    return np.abs(v).mean(axis=0, keepdims=True)


def numpy_prox(name, v, a):
    """The maps between -a and a, from their formulas."""
    nearest = np.where(v >= 0, a, -a)
    control = STRENGTHS[name]
    if name == "hard":
        return nearest
    if name == "relax":
        return (1 - control) * v + control * nearest
    if name == "piecewise_affine":
        return np.clip(v / control, -a, a)
    tau = RATE * control
    if name == "l2":
        return (v + tau * nearest) / (1 + tau)
    if name == "l1":
        return np.where(abs(v - nearest) <= tau, nearest, v - tau * np.sign(v - nearest))
    outside = nearest + (v - nearest) / (1 + tau)
    return np.where(abs(v) > a, outside, np.clip(v / (1 - tau), -a, a))


def by_hand(name, memory):
    """The weights after each update: leak, gradient, prox."""
    w = v = START
    if memory > 0:
        w = numpy_prox(name, v, level_of(v))
    for gradient in GRADIENTS:
        v = w + memory * (v - w)
        v = v - RATE * gradient
        w = numpy_prox(name, v, level_of(v))
        yield w


def run(make, gradients=GRADIENTS, compiled=False):
    """The weights after each update of an optimizer, float64."""
    variable = keras.Variable(START, dtype="float64", name="kernel")
    optimizer = make(keras.optimizers.SGD(RATE))
    optimizer.build([variable])

    def step(gradient):
        optimizer.apply([gradient], [variable])

    if compiled:
        import tensorflow as tf

        step = tf.function(step)
    for gradient in gradients:
        step(ops.convert_to_tensor(gradient, dtype="float64"))
        yield ops.convert_to_numpy(variable)


def quant(name, memory, **arguments):
    return lambda inner: pq.ProxQuant(
        inner, pq.Binary("mean", axis=-1), STRENGTHS[name], prox=name, memory=memory, **arguments
    )


def connect(name, memory, **arguments):
    prox = "l2" if name == "relax" else name
    return lambda inner: pq.ProxConnect(
        inner, pq.Binary("mean", axis=-1), STRENGTHS[name], prox=prox, memory=memory, **arguments
    )


class UpdateTest(unittest.TestCase):
    def setUp(self):
        if keras.backend.backend() == "jax":
            self.skipTest("JAX has float64 only when JAX_ENABLE_X64 is set before it starts.")

    def test_each_map_with_each_memory_is_the_formula(self):
        for name, memory in itertools.product(STRENGTHS, MEMORIES):
            with self.subTest(name, memory=memory):
                for found, expected in zip(
                    run(quant(name, memory)), by_hand(name, memory), strict=True
                ):
                    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)

    @unittest.skipUnless(keras.backend.backend() == "tensorflow", "Keras compiles elsewhere")
    def test_and_so_it_is_compiled(self):
        for name, memory in itertools.product(STRENGTHS, (0.0, 0.99)):
            with self.subTest(name, memory=memory):
                make = quant(name, memory, jit_compile=True)
                for found, expected in zip(
                    run(make, compiled=True), by_hand(name, memory), strict=True
                ):
                    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)

    def test_prox_connect_takes_the_same_steps_bit_for_bit(self):
        cases = [(name, 0.5, {"freeze_step": 4, "update_levels_every": 2}) for name in CONNECTED]
        cases += [("relax", memory, {}) for memory in MEMORIES]
        cases += [("l1", memory, {"clip": 0.5}) for memory in MEMORIES]
        for name, memory, arguments in cases:
            with self.subTest(name, memory=memory, **arguments):
                for one, other in zip(
                    run(quant(name, memory, **arguments)),
                    run(connect(name, memory, **arguments)),
                    strict=True,
                ):
                    np.testing.assert_array_equal(one, other)

    def test_what_is_kept_is_clipped(self):
        variable = keras.Variable(START, dtype="float64", name="kernel")
        optimizer = quant("relax", 0.5, clip=0.5)(keras.optimizers.SGD(RATE))
        optimizer.apply([ops.zeros((2, 4), "float64")], [variable])
        latent = ops.convert_to_numpy(optimizer.latent_of(variable))
        np.testing.assert_array_equal(np.abs(latent).max(), 0.5)
        *_, last = run(quant("relax", 0.0, clip=0.5))
        self.assertLessEqual(np.abs(last).max(), 0.5)

    def test_the_residual_is_bounded_by_a_step_over_one_minus_memory(self):
        """Binary weights against a gradient that always points away from their level."""
        for memory in (0.5, 0.9):
            variable = keras.Variable(np.array([1.0]), dtype="float64", name="kernel")
            optimizer = pq.ProxConnect(keras.optimizers.SGD(0.125), pq.Binary(), memory=memory)
            optimizer.build([variable])
            residuals = []
            for _ in range(100):
                optimizer.apply([ops.convert_to_tensor([-1.0], dtype="float64")], [variable])
                latent = ops.convert_to_numpy(optimizer.latent_of(variable))
                residuals.append(float(latent[0]) - 1)
            self.assertLessEqual(max(residuals), 0.125 / (1 - memory))
            self.assertAlmostEqual(residuals[-1], 0.125 / (1 - memory), places=3)


class StateTest(unittest.TestCase):
    def test_memory_zero_keeps_no_copy_and_any_other_keeps_one(self):
        variable = keras.Variable([0.5], name="kernel")
        for memory, copies in ((0.0, 0), (0.25, 1), (1.0, 1)):
            optimizer = pq.ProxQuant("sgd", pq.Binary(), 1.0, memory=memory)
            optimizer.build([variable])
            latents = [v for v in optimizer.variables if "latent" in v.path]
            self.assertEqual(len(latents), copies)
        self.assertIs(pq.ProxQuant("sgd", pq.Binary(), 1.0).latent_of(variable), variable)

    def test_under_accumulation_only_real_updates_leak(self):
        """Two halves of a gradient against their sum, at memory 1/2 and strength that rises."""
        ends = []
        for parts in (1, 2):
            variable = keras.Variable([0.5, -0.75], name="kernel")
            inner = keras.optimizers.SGD(
                0.5, gradient_accumulation_steps=None if parts == 1 else parts
            )
            optimizer = pq.ProxQuant(
                inner, pq.Binary(), pq.schedules.Linear(0.125), prox="relax", memory=0.5,
                freeze_step=5,
            )  # fmt: skip
            optimizer.build([variable])
            seen = []
            for gradient in (1.0, -0.5, 0.25, 0.125):
                for _ in range(parts):
                    before = (
                        ops.convert_to_numpy(variable),
                        ops.convert_to_numpy(optimizer.latent_of(variable)),
                    )
                    optimizer.apply([ops.convert_to_tensor([gradient, gradient])], [variable])
                    after = (
                        ops.convert_to_numpy(variable),
                        ops.convert_to_numpy(optimizer.latent_of(variable)),
                    )
                    seen.append((before, after))
            if parts == 2:
                for before, after in seen[::2]:
                    np.testing.assert_array_equal(before, after)
            ends.append(seen[-1][1])
        np.testing.assert_allclose(*ends, atol=1e-6)

    @unittest.skipIf(
        keras.backend.backend() == "jax", "Keras' LossScaleOptimizer.apply is not for JAX."
    )
    def test_a_step_that_loss_scaling_skips_leaks_nothing(self):
        optimizer = pq.ProxQuant(
            keras.optimizers.SGD(1.0), pq.Binary(), 0.5, prox="relax", memory=0.5
        )
        scaled = keras.optimizers.LossScaleOptimizer(optimizer)
        variable = keras.Variable([0.5], name="kernel")
        scaled.build([variable])
        before = [float(x[0]) for x in (variable, optimizer.latent_of(variable))]
        self.assertEqual(before, [0.75, 0.5])
        scaled.apply([ops.convert_to_tensor([float("inf")])], [variable])
        after = [float(x[0]) for x in (variable, optimizer.latent_of(variable))]
        self.assertEqual(after, before)
        scaled.apply([ops.zeros(1)], [variable])
        self.assertEqual(float(optimizer.latent_of(variable)[0]), 0.625)

    def test_frozen_weights_hold_with_every_memory(self):
        for memory in MEMORIES:
            optimizer = pq.ProxQuant(
                keras.optimizers.Adam(0.01), pq.Binary("mean", axis=-1), prox="piecewise_affine",
                memory=memory, freeze_step=6,
            )  # fmt: skip
            model = train(optimizer, epochs=2)
            before = weights(model)
            model.fit(X, Y, batch_size=16, epochs=1, verbose=0)
            self.assertTrue(optimizer.frozen)
            kernel = before["hidden/kernel"]
            np.testing.assert_array_equal(np.abs(kernel), np.abs(kernel[:1]).repeat(6, axis=0))
            np.testing.assert_array_equal(kernel, weights(model)["hidden/kernel"])


class OthersTest(unittest.TestCase):
    """What others do to the weights between two updates is done to what is remembered, too."""

    def test_another_optimizer_of_the_same_kernel_moves_it_as_if_it_were_alone(self):
        start = np.random.default_rng(1).normal(size=(16, 8)).astype("float32")
        gradient = 0.005 * np.random.default_rng(2).normal(size=(16, 8)).astype("float32")
        for make in (
            lambda: pq.ProxConnect(keras.optimizers.SGD(0.0), pq.Binary("mean", axis=-1)),
            lambda: pq.ProxQuant(
                keras.optimizers.SGD(0.0), pq.Ternary(), 0.0, prox="l2", memory=1.0
            ),
        ):
            variable = keras.Variable(start, name="kernel")
            mine, other = make(), keras.optimizers.SGD(1.0)
            mine.build([variable])
            other.build([variable])
            for _ in range(20):
                other.apply([ops.convert_to_tensor(gradient)], [variable])
                mine.apply([ops.zeros((16, 8))], [variable])
            latent = ops.convert_to_numpy(mine.latent_of(variable))
            np.testing.assert_allclose(latent, start - 20 * gradient, atol=1e-5)

    def test_a_change_of_one_weight_of_many_is_seen(self):
        start = np.random.default_rng(1).normal(size=(64, 50)).astype("float32")
        variables = [keras.Variable(start, name="kernel") for _ in range(2)]
        optimizer = pq.ProxConnect(keras.optimizers.SGD(0.0), pq.Binary("mean", axis=-1))
        optimizer.build(variables)
        before = [ops.convert_to_numpy(optimizer.latent_of(v)) for v in variables]
        values = ops.convert_to_numpy(variables[0]).copy()
        values[7, 13] += 0.25
        variables[0].assign(values)
        optimizer.apply([ops.zeros((64, 50))] * 2, variables)
        after = [ops.convert_to_numpy(optimizer.latent_of(v)) for v in variables]
        np.testing.assert_array_equal(after[1], before[1])
        changed = after[0] - before[0]
        self.assertAlmostEqual(float(changed[7, 13]), 0.25, places=6)
        self.assertEqual(np.count_nonzero(changed), 1)


class AutomaticStrengthTest(unittest.TestCase):
    def test_every_map_arrives_before_the_snap_with_every_memory(self):
        """Without gradients; "l2" and "relax" never arrive quite."""
        for name, memory in itertools.product(STRENGTHS, MEMORIES):
            steps = 100 if name == "relax" else 40
            variable = keras.Variable(
                np.random.default_rng(3).normal(size=(40, 5)).astype("float32"), name="kernel"
            )
            optimizer = pq.ProxQuant(
                keras.optimizers.SGD(0.1), pq.Binary("mean"), prox=name, memory=memory,
                freeze_step=None if name == "hard" else steps,
            )  # fmt: skip
            optimizer.build([variable])
            for _ in range(steps - 1):
                optimizer.apply([ops.zeros(variable.shape)], [variable])
            values = ops.convert_to_numpy(variable)
            with self.subTest(name, memory=memory):
                error = pq.metrics.quantization_error(values, pq.Binary("mean")(values))
                self.assertLess(error, 0.03)

    def test_hard_takes_none(self):
        for strength in ("auto", None):
            self.assertIsNone(pq.ProxQuant("adam", pq.Binary(), strength, prox="hard").strength)


class ArgumentsTest(unittest.TestCase):
    def test_regularizer_is_the_former_name_of_prox(self):
        with self.assertWarnsRegex(DeprecationWarning, "prox='concave'"):
            optimizer = pq.ProxQuant("adam", pq.Binary(), 1.0, regularizer="concave")
        self.assertEqual((optimizer.prox, optimizer.regularizer), ("concave", "concave"))
        config = optimizer.get_config()
        self.assertEqual(config["prox"], "concave")
        old = {k: v for k, v in config.items() if k not in ("prox", "memory")}
        again = pq.ProxQuant.from_config({**old, "regularizer": "concave"})
        self.assertEqual(again.get_config(), config)

    def test_two_names_with_two_values_are_refused(self):
        with self.assertRaisesRegex(ValueError, "regularizer='l1' and prox='l2'"):
            pq.ProxQuant("adam", pq.Binary(), 1.0, prox="l2", regularizer="l1")

    def test_what_a_map_does_not_take_is_refused(self):
        pull = pq.schedules.TotalPull(steps=9)
        for pattern, make in {
            r"memory=1\.5": lambda: pq.ProxQuant("adam", pq.Binary(), 1.0, memory=1.5),
            "memory=-1": lambda: pq.ProxConnect("adam", pq.Binary(), memory=-1.0),
            "memory=nan": lambda: pq.ProxConnect("adam", pq.Binary(), memory=float("nan")),
            "memory='long'": lambda: pq.ProxConnect("adam", pq.Binary(), memory="long"),
            "prox='soft'": lambda: pq.ProxQuant("adam", pq.Binary(), 1.0, prox="soft"),
            "takes no": lambda: pq.ProxQuant("adam", pq.Binary(), 1.0, prox="hard"),
            r"in \[0, 1\].*TotalPull": lambda: pq.ProxQuant(
                "adam", pq.Binary(), pull, prox="relax"
            ),
        }.items():
            with self.subTest(pattern), self.assertRaisesRegex(ValueError, pattern):
                make()

    def test_config_keeps_memory_and_prox(self):
        for optimizer in (
            pq.ProxQuant("adam", pq.Binary(), prox="relax", memory=0.9, freeze_step=9),
            pq.ProxConnect("adam", pq.Binary(), memory=0.99),
        ):
            again = type(optimizer).from_config(optimizer.get_config())
            self.assertEqual(again.get_config(), optimizer.get_config())
            self.assertEqual(again.memory, optimizer.memory)


if __name__ == "__main__":
    unittest.main()
