"""Laws of the proximal operators, by brute force on the documented objectives."""

import unittest

import numpy as np
from keras import ops

from tf_proxquant import prox

SPECIAL = np.array([-3.0, -1.25, -1.0, -0.75, -0.1, -0.0, 0.0, 0.1, 0.75, 1.0, 1.25, 3.0])


def sample(seed=0, size=200):
    """Random weights, levels, near-levels, zeros and values far outside."""
    random = np.random.default_rng(seed).normal(size=size)
    return np.concatenate([random, SPECIAL]).astype("float32")


def nearest_of(weights, levels):
    levels = np.asarray(levels, "float32")
    return levels[np.argmin(np.abs(weights[:, None] - levels), axis=1)]


class ProxTest(unittest.TestCase):
    def test_l1_moves_by_at_most_tau_and_lands_exactly(self):
        weights = sample()
        quantized = nearest_of(weights, [-1.0, 0.25, 1.0])
        for tau in (1e-3, 0.25, 10.0):
            moved = np.array(prox.prox_l1(weights, quantized, tau))
            near = np.abs(weights - quantized) <= np.float32(tau)
            np.testing.assert_array_equal(moved[near], quantized[near])
            expected = weights - np.float32(tau) * np.sign(weights - quantized)
            np.testing.assert_array_equal(moved[~near], expected[~near])

    def test_tau_zero_is_the_identity_bit_for_bit(self):
        weights = sample()
        quantized = nearest_of(weights, [-1.0, 0.25, 1.0])
        for operator in (prox.prox_l1, prox.prox_l2):
            for tau in (0, 0.0, ops.convert_to_tensor(0.0)):
                same = np.array(operator(weights, quantized, tau))
                np.testing.assert_array_equal(same.view("int32"), weights.view("int32"))

    def test_box_form_equals_prox_then_clip(self):
        weights = sample()
        for scale, tau in ((1.0, 0.0), (1.0, 0.3), (0.25, 0.01), (0.5, 3.0)):
            quantized = np.where(weights >= 0, np.float32(scale), np.float32(-scale))
            two_steps = np.clip(np.array(prox.prox_l1(weights, quantized, tau)), -scale, scale)
            np.testing.assert_array_equal(prox.prox_l1_box(weights, scale, tau), two_steps)

    def test_l2_moves_a_fraction_of_the_way(self):
        weights = sample()
        quantized = nearest_of(weights, [-1.0, 0.0, 0.5])
        moved = np.array(prox.prox_l2(weights, quantized, 3.0))
        np.testing.assert_allclose(moved, weights + 0.75 * (quantized - weights), rtol=1e-6)


if __name__ == "__main__":
    unittest.main()
