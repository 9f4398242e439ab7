"""Models."""

import math
import unittest

import keras
import numpy as np
from keras import ops

import tf_proxquant as pq


class ResnetTest(unittest.TestCase):
    def test_trainable_parameters_are_the_papers(self):
        for depth, expected in ((20, 272474), (56, 855770)):
            model = pq.models.resnet(depth, (32, 32, 3), 10)
            self.assertEqual(sum(math.prod(v.shape) for v in model.trainable_variables), expected)

    def test_images_of_a_small_and_odd_size_become_logits(self):
        model = pq.models.resnet(8, (7, 5, 3), 4, width=2)
        logits = model(np.zeros((3, 7, 5, 3), "float32"))
        self.assertEqual(tuple(logits.shape), (3, 4))

    def test_bad_arguments_are_refused(self):
        for pattern, arguments in {
            "depth=21": (21, (8, 8, 1), 10),
            "depth=2": (2, (8, 8, 1), 10),
            "num_classes": (8, (8, 8, 1), 1),
            "input_shape": (8, (8, 8), 10),
        }.items():
            with self.assertRaisesRegex(ValueError, pattern):
                pq.models.resnet(*arguments)


class LstmLanguageModelTest(unittest.TestCase):
    def test_trainable_parameters_are_the_papers(self):
        for tied, expected in ((False, 6731200), (True, 10_000 * 300 + 2 * 300 * 1200 + 1200)):
            model = pq.models.lstm_language_model(10_000, tied=tied)
            self.assertEqual(sum(math.prod(v.shape) for v in model.trainable_variables), expected)

    def test_a_stateful_model_goes_on_where_it_stopped_until_it_is_reset(self):
        words = np.random.default_rng(0).integers(0, 9, (2, 8))
        model = pq.models.lstm_language_model(9, 4, 5, layers=2, batch_size=2, stateful=True)
        whole = ops.convert_to_numpy(model(words))
        reset = pq.callbacks.ResetStates()
        reset.set_model(model)
        for _ in range(2):
            reset.on_epoch_begin(0)
            parts = [ops.convert_to_numpy(model(words[:, i : i + 4])) for i in (0, 4)]
            np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-4, atol=1e-6)

    def test_a_stateful_layer_is_reset_at_any_depth(self):
        inputs = keras.Input((6, 4), batch_size=2)
        cells = [keras.layers.LSTMCell(3), keras.layers.GRUCell(3)]
        for layer in (
            keras.Sequential([keras.layers.GRU(3, stateful=True)]),
            keras.layers.Bidirectional(keras.layers.LSTM(3, stateful=True)),
            keras.layers.RNN(cells, stateful=True),
        ):
            model = keras.Model(inputs, layer(inputs))
            model.compile(loss="mse")
            x, y = np.ones((4, 6, 4)), np.ones((4, *model.output_shape[1:]))
            callbacks = [pq.callbacks.ResetStates()]
            losses = [
                model.evaluate(x, y, batch_size=2, verbose=0, callbacks=callbacks) for _ in range(2)
            ]
            self.assertEqual(*losses)

    def test_with_states_step_by_step_gives_what_the_whole_sequence_gives(self):
        words = np.random.default_rng(0).integers(0, 9, (2, 4)).astype("int32")
        names = ("hidden1", "cell1", "hidden2", "cell2")
        for tied, steps, unroll, rows in ((True, 1, True, slice(2)), (False, 2, False, slice(1))):
            model = pq.models.lstm_language_model(9, 5, 5, layers=2, tied=tied)
            expected = ops.convert_to_numpy(model(words))
            copy = pq.models.with_states(model, steps, unroll)
            states = {name: ops.zeros((len(words[rows]), 5)) for name in names}
            logits = []
            for first in range(0, 4, steps):
                part = ops.array(words[rows, first : first + steps])
                outputs = copy({"words": part, **states})
                logits.append(ops.convert_to_numpy(outputs.pop("logits")))
                states = outputs
            found = np.concatenate(logits, axis=1)
            np.testing.assert_allclose(found, expected[rows], rtol=1e-4, atol=1e-6)

    def test_bad_arguments_are_refused(self):
        build = pq.models.lstm_language_model
        for pattern, arguments in {
            "vocabulary=1": {"vocabulary": 1},
            "hidden=0": {"hidden": 0},
            "embedding=4, hidden=5": {"embedding": 4, "hidden": 5, "tied": True},
            "dropout": {"dropout": 1.0},
            "batch_size": {"stateful": True},
            "steps": {"unroll": True},
        }.items():
            with self.subTest(pattern), self.assertRaisesRegex(ValueError, pattern):
                build(**{"vocabulary": 9, **arguments})
        with self.assertRaisesRegex(ValueError, "lstm_language_model"):
            pq.models.with_states(pq.models.resnet(8, (8, 8, 1), 4, width=2))
