"""Classifiers from pixels to scores."""

import unittest

import keras
import numpy as np
from keras import layers

from tf_proxquant import datasets, models, training
from tf_proxquant.training import classifier
from tf_proxquant.training.images import ImageTask

MEAN, STD = np.float32([100.0, 50.0, 20.0]), np.float32([60.0, 30.0, 7.0])
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype("float32")


def network(*last, first=()):
    keras.utils.set_random_seed(0)
    body = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((8, 8, 3)), *first, *body, *(last or [layers.Dense(3)])])


class FromPixelsTest(unittest.TestCase):
    def test_a_network_of_normalized_images_gives_the_same_from_pixels(self):
        model = network()
        found = classifier.from_pixels(model, (8, 8, 3), MEAN, STD)(PIXELS)
        np.testing.assert_allclose(found, model((PIXELS - MEAN) / STD), rtol=1e-5, atol=1e-5)

    def test_a_network_that_scales_its_pixels_is_left_alone_at_any_depth(self):
        rescaled = network(first=[layers.Rescaling(1 / 255)])
        nested = keras.Sequential([keras.Input((8, 8, 3)), rescaled])
        normalized = classifier.from_pixels(network(), (8, 8, 3), MEAN, STD)
        for model in (rescaled, nested, normalized):
            self.assertIs(classifier.from_pixels(model, (8, 8, 3), MEAN, STD), model)

    def test_a_border_of_mean_is_a_border_of_zeros_behind_the_normalization(self):
        images = PIXELS.astype("uint8")
        batches = datasets.Batches(images, np.zeros(5), 5, pad=2, fill=MEAN, seed=1)
        normalized = datasets.Batches(images, np.zeros(5), 5, pad=2, seed=1, mean=MEAN, std=STD)
        found = np.asarray(classifier.normalization(MEAN, STD)(batches[0][0]))
        np.testing.assert_allclose(found, normalized[0][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found == 0, normalized[0][0] == 0)
        self.assertGreater(np.mean(found == 0), 0.05)


class WithLogitsTest(unittest.TestCase):
    def test_the_softmax_at_the_end_is_taken_away_in_each_of_its_forms(self):
        reference = network()
        forms = {
            "none": network(),
            "of Dense": network(layers.Dense(3, activation="softmax")),
            "Softmax": network(layers.Dense(3), layers.Softmax()),
            "Activation": network(layers.Dense(3), layers.Activation("softmax")),
            "with_scores": classifier.with_scores(network()),
        }
        inputs = keras.Input((8, 8, 3))
        forms["an operation"] = keras.Model(inputs, keras.ops.softmax(network()(inputs)))
        for name, model in forms.items():
            with self.subTest(name):
                model.set_weights(reference.get_weights())
                found = classifier.with_logits(model)(PIXELS)
                np.testing.assert_allclose(found, reference(PIXELS), rtol=1e-5, atol=1e-5)

    def test_scores_sum_to_one_and_rank_as_the_logits(self):
        model = network()
        scores = np.asarray(classifier.with_scores(model)(PIXELS))
        np.testing.assert_allclose(scores.sum(axis=-1), 1, rtol=1e-6)
        np.testing.assert_array_equal(scores.argmax(-1), np.asarray(model(PIXELS)).argmax(-1))


class AdoptTest(unittest.TestCase):
    def test_a_model_saved_before_models_took_pixels_starts_from_what_it_had_learned(self):
        digits = datasets.load("digits")
        task = ImageTask(training.Settings(), digits)
        old = models.resnet(8, (8, 8, 1), 10)
        pixels = digits.x_test[:5].astype("float32")
        found = task.adopt(old)(pixels)
        np.testing.assert_allclose(found, old((pixels - task.mean) / task.std), atol=1e-4)

    def test_a_model_for_other_images_is_refused_with_both_shapes(self):
        task = ImageTask(training.Settings(), datasets.load("digits"))
        with self.assertRaisesRegex(ValueError, r"\(None, 8, 8, 3\).*\(None, 8, 8, 1\)"):
            task.adopt(network())
