"""RestartedAdam against a Keras Adam that is made anew."""

import unittest

import keras
import numpy as np
from keras import ops

import tf_proxquant as pq
from tests.optimizers_cases import X, Y, make_model, train, weights

EVERY = 3
OPTIONS = {
    "plain": {},
    "amsgrad": {"amsgrad": True, "beta_1": 0.5, "epsilon": 1e-3},
    "decayed and clipped": {"weight_decay": 0.1, "clipnorm": 0.5},
    "accumulating": {"gradient_accumulation_steps": 2},
}


def trajectory(make_optimizer, num_updates, gradients, micro_steps=1):
    """Weights after each call; `make_optimizer(update)` gives the optimizer, or None to keep it."""
    variable = keras.Variable(np.linspace(-1, 1, 5).astype("float32"), name="w")
    optimizer, values = None, []
    for update in range(num_updates):
        optimizer = make_optimizer(update) or optimizer
        for micro_step in range(micro_steps):
            gradient = ops.convert_to_tensor(gradients[update, micro_step])
            optimizer.apply([gradient], [variable])
            values.append(ops.convert_to_numpy(variable))
    return np.array(values), optimizer


class RestartedAdamTest(unittest.TestCase):
    def test_updates_are_those_of_an_adam_made_anew(self):
        gradients = np.random.default_rng(0).normal(size=(8, 2, 5)).astype("float32")
        for name, options in OPTIONS.items():
            with self.subTest(name):
                micro_steps = options.get("gradient_accumulation_steps", 1)

                def restarted(update, options=options):
                    if update == 0:
                        return pq.optimizers.RestartedAdam(0.1, every=EVERY, **options)

                def anew(update, options=options):
                    if update % EVERY == 0:
                        return keras.optimizers.Adam(0.1, **options)

                found, optimizer = trajectory(restarted, 8, gradients, micro_steps)
                expected, _ = trajectory(anew, 8, gradients, micro_steps)
                np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
                self.assertEqual(int(ops.copy(optimizer.iterations)), 8)

    def test_in_fit_each_epoch_is_that_of_a_new_adam(self):
        restarted = train(pq.optimizers.RestartedAdam(0.01, every=4), epochs=3)
        model = make_model()
        for _ in range(3):
            train(keras.optimizers.Adam(0.01), epochs=1, model=model)
        for path, value in weights(model).items():
            np.testing.assert_allclose(value, weights(restarted)[path], rtol=1e-5, atol=1e-6)

    def test_the_freeze_around_it_counts_all_steps(self):
        inner = pq.optimizers.RestartedAdam(0.01, every=4)
        model = train(pq.ProxQuant(inner, pq.Binary(), 0.0, freeze_step=9), epochs=2)
        self.assertGreater(len(np.unique(weights(model)["hidden/kernel"])), 2)
        model.fit(X, Y, batch_size=16, epochs=1, shuffle=False, verbose=0)
        self.assertEqual(set(np.unique(weights(model)["hidden/kernel"])), {-1.0, 1.0})

    def test_a_period_out_of_range_is_refused(self):
        for every in (0, 2.5, None):
            with self.assertRaisesRegex(ValueError, f"`every`.*Received: every={every}"):
                pq.optimizers.RestartedAdam(every=every)
