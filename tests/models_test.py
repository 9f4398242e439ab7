"""Models."""

import math
import unittest

import numpy as np

import tf_proxquant as pq


class ResnetTest(unittest.TestCase):
    def test_trainable_parameters_are_the_papers(self):
        for depth, expected in ((20, 272474), (32, 466906), (44, 661338), (56, 855770)):
            model = pq.models.resnet(depth, (32, 32, 3), 10)
            self.assertEqual(sum(math.prod(v.shape) for v in model.trainable_variables), expected)

    def test_images_become_logits_on_small_and_odd_sizes(self):
        for shape in ((8, 8, 1), (7, 5, 3)):
            model = pq.models.resnet(8, shape, 4, width=2)
            logits = model(np.zeros((3, *shape), "float32"))
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
