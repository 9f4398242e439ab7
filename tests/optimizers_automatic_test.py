"""strength="auto": on the grid by the freeze, whatever the learning rate and the weights' size."""

import unittest

import keras
import numpy as np
from keras import ops

import tf_proxquant as pq
from tests.optimizers_cases import make_model, train, weights

PENALTIES = ("l1", "l2", "concave")


def pulled(optimizer, values, steps, gradient=0.0):
    """Returns the weights after `steps` updates with one gradient for all."""
    variable = keras.Variable(np.array(values, "float32"), name="kernel")
    optimizer.build([variable])
    for _ in range(steps):
        optimizer.apply([ops.full(variable.shape, gradient)], [variable])
    return ops.convert_to_numpy(variable)


def automatic(name, quantizer, learning_rate=0.01, freeze_step=20, **arguments):
    return pq.ProxQuant(
        keras.optimizers.SGD(learning_rate), quantizer, "auto", prox=name,
        freeze_step=freeze_step, **arguments,
    )  # fmt: skip


class ProxQuantTest(unittest.TestCase):
    VALUES = ((0.3, -0.02), (0.004, 0.2), (-0.7, -0.1))

    def test_the_pull_is_the_same_at_every_learning_rate(self):
        for name in PENALTIES:
            results = [
                pulled(automatic(name, pq.Binary("mean"), rate), self.VALUES, 7)
                for rate in (1e-4, 0.1, keras.optimizers.schedules.CosineDecay(0.1, 9))
            ]
            for result in results[1:]:
                np.testing.assert_array_equal(result, results[0])
            self.assertTrue((results[0] != np.array(self.VALUES, "float32")).any())

    def test_the_path_scales_with_each_group_of_weights(self):
        # A power of two, so that scaling rounds nothing.
        scales = np.array([1.0, 2.0**-9], "float32")
        for name in PENALTIES:
            one, other = (
                pulled(automatic(name, pq.Binary("mean", axis=-1)), values, 12)
                for values in (self.VALUES, self.VALUES * scales)
            )
            np.testing.assert_array_equal(one * scales, other)

    def test_the_pull_adds_up_to_the_total_in_half_distances(self):
        # One weight goes from 0.25 to its level at 1: three quarters of the half distance.
        for total, expected in ((0.5, 0.75), (0.6, 0.85), (2.0, 1.0)):
            strength = pq.schedules.TotalPull(steps=20, total=total)
            optimizer = pq.ProxQuant(keras.optimizers.SGD(0.1), pq.Binary(), strength)
            self.assertAlmostEqual(pulled(optimizer, [0.25], 20)[0], expected, places=5)
        # Levels {-4, 0, 4}: the half distance is 2.
        strength = pq.schedules.TotalPull(steps=20, total=0.25)
        optimizer = pq.ProxQuant(keras.optimizers.SGD(0.1), FixedTernary(), strength, prox="l1")
        self.assertAlmostEqual(pulled(optimizer, [1.5], 20)[0], 1.0, places=5)

    def test_auto_takes_the_total_of_each_penalty(self):
        for name, total in pq.ProxQuant.TOTAL_PULL.items():
            explicit = pq.ProxQuant(
                keras.optimizers.SGD(0.1), pq.Binary("mean"),
                pq.schedules.TotalPull(steps=20, total=total), prox=name,
            )  # fmt: skip
            np.testing.assert_allclose(
                pulled(automatic(name, pq.Binary("mean")), self.VALUES, 15),
                pulled(explicit, self.VALUES, 15),
                rtol=1e-6,
            )

    def test_against_a_steady_gradient_the_weights_arrive_before_the_snap(self):
        for name in ("l1", "concave"):
            for rate in (1e-3, 1e-2):
                optimizer = automatic(name, pq.Binary("mean"), rate, freeze_step=200)
                found = pulled(optimizer, self.VALUES, 199, gradient=0.1)
                np.testing.assert_allclose(found, pq.Binary("mean")(found), rtol=0.02)

    def test_a_model_ends_on_the_grid_and_the_config_survives(self):
        optimizer = automatic("concave", pq.Binary("mean", axis=-1), freeze_step=8)
        model = train(optimizer, epochs=3, model=make_model())
        kernel = weights(model)["hidden/kernel"]
        self.assertTrue((np.abs(kernel) == np.abs(kernel[:1])).all())
        again = pq.ProxQuant.from_config(optimizer.get_config())
        self.assertEqual(again.get_config(), optimizer.get_config())
        self.assertIsInstance(again.strength, pq.schedules.TotalPull)


class ProxConnectTest(unittest.TestCase):
    def test_auto_goes_all_the_way_to_the_freeze(self):
        for prox, first, last in (("l2", 0.0, 1.0), ("piecewise_affine", 1.0, 0.0)):
            optimizer = pq.ProxConnect("adam", pq.Binary(), "auto", prox=prox, freeze_step=30)
            self.assertAlmostEqual(float(optimizer.strength(0)), first)
            self.assertAlmostEqual(float(optimizer.strength(30)), last)
            self.assertNotIn(float(optimizer.strength(15)), (0.0, 1.0))


class RefusalTest(unittest.TestCase):
    def test_auto_without_a_freeze_is_refused(self):
        for freeze_step in (None, 0, 1):
            with self.assertRaisesRegex(ValueError, f"freeze_step={freeze_step}"):
                pq.ProxQuant("adam", pq.Binary(), "auto", freeze_step=freeze_step)

    def test_another_string_is_refused(self):
        with self.assertRaisesRegex(ValueError, "strength='automatic'"):
            pq.ProxQuant("adam", pq.Binary(), "automatic", freeze_step=9)

    def test_a_total_of_zero_is_refused(self):
        with self.assertRaisesRegex(ValueError, "total=0"):
            pq.schedules.TotalPull(steps=9, total=0)


@keras.saving.register_keras_serializable("tests")
class FixedTernary(pq.quantizers.Quantizer):
    """Levels {-4, 0, 4}, whatever the weights."""

    def fit(self, rows):
        return ops.ones((rows.shape[0], 1), rows.dtype) * ops.convert_to_tensor(
            [[-4.0, 0.0, 4.0]], rows.dtype
        )
