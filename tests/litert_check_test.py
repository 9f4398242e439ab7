"""The verification: inputs that a model can take, and errors that name what is wrong."""

import os
import pathlib
import tempfile
import unittest
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl.testing import parameterized
from keras import layers, ops

from tf_proxquant import litert
from tf_proxquant.litert.check import inputs as drawn
from tf_proxquant.litert.check import outputs, runtime, verify
from tf_proxquant.litert.read import convert


class Positions(keras.layers.Layer):
    """Adds a table of 12 positions to a sequence."""

    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(12, 8)

    def build(self, shape):
        self.table.build(shape)

    def call(self, x):
        return x + self.table(ops.arange(ops.shape(x)[1]))


def skip_of_open_size():
    images = keras.Input((None, None, 3))
    first = layers.Conv2D(4, 3, strides=2, padding="same")(images)
    second = layers.Conv2D(4, 3, strides=2, padding="same")(first)
    back = layers.Conv2DTranspose(4, 2, strides=2)(second)
    return keras.Model(images, layers.Concatenate()([back, first]))


def text_of_open_length(kernel_size):
    words = keras.Input((None,), dtype="int32")
    x = layers.Conv1D(4, kernel_size)(layers.Embedding(50, 8)(words))
    return keras.Model(words, layers.GlobalMaxPooling1D()(x))


def twelve_positions():
    words = keras.Input((None,), dtype="int32")
    return keras.Model(words, layers.Dense(3)(Positions()(layers.Embedding(50, 8)(words))))


def logarithm_of(make):
    frames = keras.Input((10, 4))
    return keras.Model(frames, layers.Dense(3)(layers.Flatten()(ops.log(make(frames)))))


def numbers_as_floats():
    numbers = keras.Input((6,))
    return keras.Model(numbers, layers.Flatten()(layers.Embedding(9, 4)(numbers)))


def shifted_by_column():
    numbers = keras.Input((4,), dtype="int32")
    shifted = numbers + np.arange(0, 40, 10, dtype=np.int32)
    return keras.Model(numbers, layers.Embedding(40, 4)(shifted))


class InputsTest(parameterized.TestCase):
    @parameterized.parameters(
        skip_of_open_size,
        lambda: text_of_open_length(5),
        lambda: text_of_open_length(300),
        twelve_positions,
        lambda: logarithm_of(lambda x: x),
        lambda: logarithm_of(lambda x: 1 - x),
        numbers_as_floats,
        shifted_by_column,
    )
    def test_inputs_are_found_that_the_model_takes(self, make):
        with tempfile.TemporaryDirectory() as folder:
            report = litert.export(make(), pathlib.Path(folder, "model.tflite"))
        self.assertLess(report.max_error, 2e-5)

    def test_where_none_are_found_inputs_are_asked_for(self):
        frames = keras.Input((4,))
        model = keras.Model(frames, ops.log(-ops.abs(frames) - 1))
        with self.assertRaisesRegex(ValueError, r"pass inputs=.*\[-1, 4\].*NaN"):
            litert.export(model, "model.tflite")

    def test_inputs_that_the_model_does_not_take_are_refused_in_a_sentence(self):
        words = np.full((2, 5), 99, np.int32)
        with self.assertRaisesRegex(ValueError, "does not take `inputs`: .*99"):
            litert.export(text_of_open_length(5), "model.tflite", inputs=words)

    def test_integers_stay_within_the_table_that_they_reach(self):
        words, labels = keras.Input((7,), dtype="int32"), keras.Input((7,), dtype="int32")
        pairs = [layers.Embedding(500, 4)(words), layers.Embedding(3, 4)(labels)]
        content, _ = convert.convert(keras.Model([words, labels], layers.Add()(pairs)))
        found = list(drawn.random_inputs(content).values())
        self.assertGreater(found[0].max(), 100)
        self.assertLessEqual(found[1].max(), 2)

    def test_representative_data_are_what_a_static_file_is_verified_on(self):
        pixels = keras.Input((8, 8, 3))
        x = layers.Rescaling(1 / 127.5, -1)(pixels)
        x = layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(x))
        model = keras.Model(pixels, layers.Dense(5)(x))
        data = np.random.default_rng(0).uniform(0, 255, (60, 8, 8, 3))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.tflite")
            report = litert.export(model, path, "static", representative_data=data)
        self.assertLess(report.max_error, 0.03)


class ErrorsTest(unittest.TestCase):
    def setUp(self):
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([layers.Input((6,)), layers.Dense(4)])
        self.content, _ = convert.convert(self.model)
        self.other, _ = convert.convert(keras.Sequential([layers.Input((6,)), layers.Dense(4)]))

    def test_a_kernel_set_that_computes_something_else_is_named(self):
        def run(content, inputs, kernels):
            broken = content is not self.content and kernels == "builtin"
            return original(self.other if broken else content, inputs, kernels)

        original = outputs.run
        with (
            unittest.mock.patch.object(outputs, "run", run),
            self.assertRaisesRegex(verify.VerificationError, "on the builtin kernels.*other"),
        ):
            verify.check(bytes(bytearray(self.content)), self.content, {}, 0.1, self.model)

    def test_kernel_sets_that_differ_from_each_other_are_refused(self):
        def nudge(content, inputs, kernels):
            found = original(content, inputs, kernels)
            sign = 1 if kernels == "builtin" else -1
            is_float = content is self.content
            return found if is_float else {k: v + sign * 0.04 * v.max() for k, v in found.items()}

        original = outputs.run
        with (
            unittest.mock.patch.object(outputs, "run", nudge),
            self.assertRaisesRegex(verify.VerificationError, "between the kernel sets"),
        ):
            verify.check(bytes(bytearray(self.content)), self.content, {}, 0.1, self.model)

    def test_a_float_file_that_differs_from_the_model_is_said_to(self):
        with self.assertRaisesRegex(verify.VerificationError, "So do those of the float file"):
            verify.check(self.other, self.other, {}, 2e-5, self.model)

    def test_integer_outputs_count_by_the_share_that_differs(self):
        places = np.arange(10_000)
        flipped = np.where(places < 20, -1, places)
        self.assertEqual(outputs.relative_error({"a": flipped}, {"a": places}), 0.002)
        self.assertEqual(outputs.relative_error({"a": flipped[15:]}, {"a": places[15:]}), 0)

    def test_floats_go_into_integer_inputs_and_outputs_by_their_scale(self):
        details = {
            "dtype": np.int8,
            "quantization_parameters": {"scales": np.float32([0.5]), "zero_points": np.int32([3])},
        }
        codes = runtime.quantize(np.float32([-1, 0.6, 900]), details)
        np.testing.assert_array_equal(codes, [1, 4, 127])
        np.testing.assert_array_equal(
            runtime.dequantize(codes.astype(np.int8), details), np.float32([-1, 0.5, 62])
        )
        self.assertEqual(runtime.quantize(np.int8([5]), details), [5])


if __name__ == "__main__":
    unittest.main()
