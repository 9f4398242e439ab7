"""Metrics of weights."""

import unittest

import numpy as np
from keras import ops

from tf_proxquant import metrics


class MetricsTest(unittest.TestCase):
    def test_quantization_error_is_the_relative_distance_over_all_tensors(self):
        weights = [np.array([3.0, 0.0], "float32"), ops.convert_to_tensor([[4.0]])]
        quantized = [np.array([0.0, 0.0], "float32"), ops.convert_to_tensor([[4.0]])]
        self.assertAlmostEqual(metrics.quantization_error(weights, quantized), 3 / 5)
        self.assertEqual(metrics.quantization_error(np.zeros(3), np.zeros(3)), 0.0)
        self.assertEqual(metrics.quantization_error(np.zeros(3), np.ones(3)), np.inf)

    def test_zero_counts_as_positive(self):
        self.assertEqual(metrics.sign_changes([0.0, -0.0, -1.0], [1.0, 1.0, 0.0]), 1 / 3)

    def test_share_on_grid_allows_for_rounding_only(self):
        quantized = np.full(4, 0.7, "float32")
        weights = quantized + np.array([0, 6e-8, 2e-6, 0.1], "float32")
        self.assertEqual(metrics.share_on_grid(weights, quantized), 0.5)

    def test_different_shapes_are_refused(self):
        for metric in (metrics.quantization_error, metrics.sign_changes, metrics.share_on_grid):
            with self.assertRaisesRegex(ValueError, r"\(2,\).*\(3,\)"):
                metric(np.zeros(2), np.zeros(3))


class PerplexityTest(unittest.TestCase):
    def test_words_of_weight_zero_do_not_count_and_batches_count_by_their_words(self):
        random = np.random.default_rng(0)
        logits, words = random.normal(size=(5, 3, 7)), random.integers(0, 7, (5, 3))
        weights = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]], "float32")
        metric = metrics.Perplexity()
        for rows in (slice(0, 1), slice(1, 5)):
            metric.update_state(words[rows], logits[rows], weights[rows])
        likelihood = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        nats = -np.log(np.take_along_axis(likelihood, words[..., None], -1)[..., 0])
        expected = np.exp(nats[weights > 0].mean())
        self.assertAlmostEqual(float(metric.result()), expected, places=4)
