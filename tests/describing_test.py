"""What optimizers and callbacks say of themselves in a notebook."""

import unittest

import keras
import numpy as np

import tf_proxquant as pq


class OptimizerTest(unittest.TestCase):
    def test_it_says_what_it_wraps_and_what_differs_from_the_defaults(self):
        optimizer = pq.ProxQuant(
            keras.optimizers.Adam(0.1), pq.Binary("mean", axis=-1), memory=0.5, freeze_step=300
        )
        self.assertEqual(
            repr(optimizer),
            "ProxQuant(Adam(learning_rate=0.1), Binary(scale='mean', axis=-1), memory=0.5, "
            "freeze_step=300)",
        )

    def test_an_automatic_strength_is_called_auto_where_it_is_not_the_default(self):
        optimizer = pq.ProxConnect("sgd", pq.Ternary(), "auto", prox="l2", freeze_step=9)
        self.assertIn("'auto', prox='l2', freeze_step=9)", repr(optimizer).replace("strength=", ""))
        optimizer = pq.ProxQuant("sgd", pq.Ternary(), pq.schedules.Linear(0.5), freeze_step=9)
        self.assertIn("strength=Linear(rate=0.5, every=1)", repr(optimizer))

    def test_schedules_of_the_rate_functions_and_selections_are_readable(self):
        def is_kernel(variable):
            return variable.name == "kernel"

        rate = keras.optimizers.schedules.CosineDecay(0.05, 675)
        optimizer = pq.ProxConnect(keras.optimizers.Adam(rate), pq.Binary(), select=is_kernel)
        self.assertIn("Adam(learning_rate=CosineDecay(initial_learning_rate=0.05, decay_steps=675",
                      repr(optimizer))  # fmt: skip
        self.assertIn("select=is_kernel", repr(optimizer))
        optimizer = pq.ProxConnect("adam", pq.Binary(), select={"head": None, "": pq.Uniform(4)})
        self.assertIn("select={'head': None, '': Uniform(", repr(optimizer))

    def test_an_inner_optimizer_without_a_config_does_not_raise(self):
        class Own(keras.optimizers.SGD):
            def get_config(self):
                raise NotImplementedError

        self.assertIn("ProxConnect(Own(...), Binary(", repr(pq.ProxConnect(Own(), pq.Binary())))

    def test_the_same_line_comes_back_after_saving(self):
        optimizer = pq.ProxQuant("adam", pq.MultiBit(2), prox="concave", clip=1.0, freeze_step=7)
        again = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(optimizer)
        )
        self.assertEqual(repr(again), repr(optimizer))
        self.assertIn("prox='concave', clip=1.0, freeze_step=7)", repr(optimizer))


class CallbackTest(unittest.TestCase):
    def test_a_callback_says_its_arguments_and_arrays_their_shapes(self):
        callbacks = pq.callbacks
        data = (np.zeros((3, 8)), np.zeros(3))
        for callback, text in (
            (callbacks.QuantizationMonitor(), "QuantizationMonitor()"),
            (callbacks.QuantizationMonitor(per_layer=True), "QuantizationMonitor(per_layer=True)"),
            (callbacks.StopOnNonFinite("stop"), "StopOnNonFinite(action='stop')"),
            (callbacks.SkipFrozenGradients(), "SkipFrozenGradients()"),
            (callbacks.ResetStates(), "ResetStates()"),
            (
                callbacks.QuantizedEvaluation(data, 64, [callbacks.ResetStates()]),
                "QuantizedEvaluation((<ndarray (3, 8)>, <ndarray (3,)>), batch_size=64, "
                "callbacks=[ResetStates()])",
            ),
            (
                callbacks.QuantizationMonitor([np.zeros(1)] * 20),
                "QuantizationMonitor(reference=<list of 20>)",
            ),
        ):
            self.assertEqual(repr(callback), text)


if __name__ == "__main__":
    unittest.main()
