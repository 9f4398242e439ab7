"""Other models of text train, freeze and export by what there is for all models."""

import os
import pathlib
import tempfile
import unittest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import tf_proxquant as pq

STEPS, WORDS = 5, 30


def recurrent_model():
    words = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(WORDS, 16)(words)
    x = layers.GRU(16, return_sequences=True, unroll=True)(x)
    return keras.Model(words, layers.Dense(WORDS)(x))


def transformer():
    words = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(WORDS, 16)(words)
    attended = layers.MultiHeadAttention(2, 8)(x, x, use_causal_mask=True)
    x = layers.LayerNormalization()(x + attended)
    wide = layers.Dense(16)(layers.Dense(32, activation="relu")(x))
    return keras.Model(words, layers.Dense(WORDS)(layers.LayerNormalization()(x + wide)))


class OtherModelsTest(unittest.TestCase):
    def check(self, model, num_quantized):
        """Trains to count up by 3, which takes more than the bias, and exports."""
        keras.utils.set_random_seed(0)
        random = np.random.default_rng(0)
        x = (random.integers(0, WORDS, (512, 1)) + 3 * np.arange(STEPS)) % WORDS
        y = (x + 3) % WORDS
        by_word, by_output = (pq.MultiBit(2, axis=axis) for axis in (0, -1))
        optimizer = pq.ProxQuant(
            keras.optimizers.Adam(0.01), by_output, "auto", freeze_step=90,
            select={"embeddings$": by_word, "kernel$": by_output},
        )  # fmt: skip
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, weighted_metrics=[pq.metrics.Perplexity()])
        model.fit(x, y, epochs=8, batch_size=32, verbose=0, shuffle=False)
        self.assertTrue(optimizer.frozen)
        pairs = optimizer.quantized_variables
        self.assertEqual(len(pairs), num_quantized)
        for variable, quantizer in pairs:
            rows = keras.ops.convert_to_numpy(variable)
            axes = np.atleast_1d(quantizer.axis)  # of attention, heads and their dimensions
            num_groups = np.prod([rows.shape[axis] for axis in axes])
            rows = np.moveaxis(rows, axes, range(len(axes))).reshape(num_groups, -1)
            counts = [len(np.unique(row)) for row in rows]
            self.assertLessEqual(max(counts), 4, variable.path)
        expected = model.evaluate(x, y, verbose=0, return_dict=True)["perplexity"]
        self.assertLess(expected, 4)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.tflite")
            report = pq.export(model, path, "small")
            self.assertLess(report.max_error, 2e-5)
            weights = [r for r in report.rows if r.operators[0] in ("GATHER", "FULLY_CONNECTED")]
            self.assertEqual(len(weights), num_quantized, str(report))
            self.assertNotIn("float32", [row.form for row in weights], str(report))
            logits = pq.litert.predict(path, x)
        metric = pq.metrics.Perplexity()
        metric.update_state(y, logits)
        self.assertAlmostEqual(float(metric.result()) / expected, 1, delta=1e-4)

    def test_a_stateful_model_is_refused_with_what_to_export_instead(self):
        model = pq.models.lstm_language_model(9, 4, 4, batch_size=2, steps=3, stateful=True)
        with self.assertRaisesRegex(ValueError, "lstm1.*with_states"):
            pq.export(model, "model.tflite")

    def test_a_gru(self):
        self.check(recurrent_model(), num_quantized=4)

    def test_a_transformer(self):
        self.check(transformer(), num_quantized=8)
