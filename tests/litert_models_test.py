"""Any model that Keras builds reaches a file, or a sentence says why not."""

import os
import pathlib
import tempfile
import unittest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl.testing import parameterized
from keras import layers, ops

from tf_proxquant import litert
from tf_proxquant.litert.check import runtime
from tf_proxquant.litert.read import convert, flatbuffer

GENERATOR = np.random.default_rng(0)


def normal(*shape):
    return GENERATOR.normal(size=shape).astype(np.float32)


class TwoTowers(keras.Model):
    """A subclassed model over what `pick` takes out of its argument."""

    def __init__(self, pick):
        super().__init__()
        self.pick, self.user, self.item = pick, layers.Dense(4), layers.Dense(4)

    def call(self, inputs):
        user, item = self.pick(inputs)
        return self.user(user) - 2 * self.item(item)


class Words(keras.Model):
    """A subclassed model called with word numbers, whose dtype Keras does not keep."""

    def __init__(self):
        super().__init__()
        self.table, self.head = layers.Embedding(30, 8), layers.Dense(3)

    def call(self, words):
        return self.head(ops.mean(self.table(words), axis=1))


class Wrapped(keras.layers.Layer):
    """A custom layer that hides a recurrent one."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def build(self, shape):
        self.inner.build(shape)

    def call(self, inputs):
        return self.inner(inputs)


class Waves(keras.layers.Layer):
    """Adds a sine of each position, of many turns."""

    def call(self, x):
        places = ops.cast(ops.arange(ops.shape(x)[1]), "float32")
        return x + ops.sin(1e3 * places)[:, None]


class ModelsTest(parameterized.TestCase):
    def setUp(self):
        self.path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "model.tflite"

    def check(self, model, inputs, profile="fast", atol=2e-5, **options):
        """Exports a model and compares the file with it on both kernel sets."""
        report = litert.export(model, self.path, profile, **options)
        expected = keras.tree.flatten(model(inputs, training=False))
        for kernels in runtime.KERNELS:
            outputs = litert.predict(self.path, inputs, kernels=kernels)
            outputs = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
            for output, reference in zip(outputs, expected, strict=True):
                scale = np.abs(reference).max()
                np.testing.assert_allclose(output, reference, rtol=0, atol=atol * scale)
        return report

    @parameterized.parameters(layers.LSTM, layers.GRU, layers.SimpleRNN)
    def test_a_sequential_model_with_a_recurrent_layer(self, kind):
        model = keras.Sequential([layers.Input((20, 8)), kind(16), layers.Dense(3)])
        report = self.check(model, normal(4, 20, 8))
        self.assertIn("batch fixed at 1", report.notes[0])

    def test_a_sequential_model_with_a_fixed_batch(self):
        model = keras.Sequential([layers.Input((8,)), layers.Dense(3)])
        report = self.check(model, normal(4, 8), batch_size=2)
        self.assertEqual(report.notes, ())
        self.assertEqual(runtime.Runner(self.path.read_bytes()).inputs["args_0"]["shape"][0], 2)

    def test_a_list_of_inputs_comes_in_the_order_of_the_model(self):
        user, item = keras.Input((5,), name="user"), keras.Input((5,), name="item")
        hidden = layers.Dense(4, name="z")(user), layers.Dense(4, name="a")(item)
        model = keras.Model([user, item], [hidden[0] - 2 * hidden[1], *hidden])
        self.check(model, [normal(3, 5), normal(3, 5)], "small")
        names = runtime.Runner(self.path.read_bytes()).input_names
        self.assertEqual(names, ["user", "item"])

    def test_names_of_inputs_are_those_of_the_model_whatever_they_are(self):
        inputs = {name: keras.Input((5,), name=name) for name in ("class", "x-y z", "1")}
        merged = layers.Concatenate()(list(inputs.values()))
        model = keras.Model(
            inputs, {"while": layers.Dense(3)(merged), "b": layers.Dense(2)(merged)}
        )
        arrays = {name: normal(3, 5) for name in inputs}
        self.check(model, arrays)
        self.assertEqual(set(litert.predict(self.path, arrays)), {"while", "b"})

    def test_twelve_outputs_come_in_the_order_of_the_model(self):
        inputs = keras.Input((5,))
        model = keras.Model(inputs, [layers.Dense(2)(inputs) for _ in range(12)])
        self.check(model, normal(3, 5))

    def test_a_subclassed_model_called_with_a_dict_a_list_or_words(self):
        arrays = {"user": normal(3, 5), "item": normal(3, 5)}
        for pick, inputs in (
            (lambda x: (x["user"], x["item"]), arrays),
            (lambda x: x, list(arrays.values())),
        ):
            model = TwoTowers(pick)
            model(inputs)
            self.check(model, inputs)
        model, words = Words(), np.arange(12, dtype=np.int32).reshape(3, 4)
        model(words)
        self.check(model, words)
        (details,) = runtime.Runner(self.path.read_bytes()).inputs.values()
        self.assertEqual(details["dtype"], np.int32)

    def test_a_signature_of_the_users_own(self):
        model = TwoTowers(lambda x: x)
        inputs = [normal(2, 5), normal(2, 5)]
        model(inputs)
        specs = [keras.InputSpec(shape=(2, 5), dtype="float32", name=name) for name in "ab"]
        self.check(model, inputs, input_signature=[specs])
        self.assertEqual(runtime.Runner(self.path.read_bytes()).input_names, ["a", "b"])

    def test_what_a_model_takes_is_asked_for_where_nothing_tells_it(self):
        class Two(keras.Model):
            def call(self, x, y):
                return x + y

        model = Two()
        model(normal(2, 5), normal(2, 5))
        with self.assertRaisesRegex(ValueError, "missing a required argument: 'y'"):
            litert.export(model, self.path)

    @parameterized.parameters("mixed_float16", "mixed_bfloat16", "float16", "float64")
    def test_another_precision_is_exported_as_float32_with_its_weights(self, policy):
        images = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, dtype=policy)(images)
        x = layers.LSTM(4, dtype=policy)(layers.Reshape((36, 4), dtype=policy)(x))
        model = keras.Model(images, layers.Dense(2, dtype=policy)(x))
        report = litert.export(model, self.path)
        self.assertLess(report.max_error, 2e-5)
        self.assertEqual(model.layers[1].dtype_policy.name, policy)
        content = flatbuffer.Model(convert.convert(model)[0])
        stored = {
            content.array(tensor).tobytes()
            for graph in content.subgraphs
            for tensor in graph.tensors
            if content.constant(tensor) is not None
        }
        for layer, order in ((model.layers[1], (3, 0, 1, 2)), (model.layers[-1], (1, 0))):
            kernel = layer.kernel.numpy().astype(np.float32)
            self.assertIn(kernel.transpose(order).tobytes(), stored)

    def test_a_stateful_layer_is_found_at_any_depth(self):
        inputs = keras.Input((6, 4), batch_size=2)

        def recurrent():
            return layers.LSTM(3, stateful=True, name="hidden_state")

        for layer in (
            Wrapped(recurrent()),
            keras.Sequential([recurrent()]),
            keras.Sequential([Wrapped(Wrapped(recurrent()))]),
        ):
            model = keras.Model(inputs, layer(inputs))
            with self.assertRaisesRegex(ValueError, "stateful layer.*hidden_state.*stateful=False"):
                litert.export(model, self.path)

    def test_an_open_batch_that_is_refused_is_tried_at_one_and_said(self):
        images = keras.Input((8, 8, 3))
        model = keras.Model(images, ops.roll(layers.Conv2D(4, 3)(images), 1, axis=1))
        report = self.check(model, normal(3, 8, 8, 3))
        self.assertRegex(report.notes[0], "batch fixed at 1: .*Roll")

    def test_masks_with_new_axes_over_two_open_dimensions(self):
        words = keras.Input((None,), dtype="int32")
        x = layers.Embedding(20, 8)(words)
        mask = ops.not_equal(words, 0)
        mask = ops.logical_and(mask[:, None, :], mask[..., None])
        model = keras.Model(words, layers.MultiHeadAttention(2, 4)(x, x, attention_mask=mask))
        self.check(model, GENERATOR.integers(0, 20, (3, 7)).astype(np.int32))

    def test_operators_that_the_converter_knows_in_another_form_only(self):
        numbers = keras.Input((4,), dtype="int32")
        table = layers.Embedding(40, 3)
        rows = keras.Input((6, 5))
        for model, inputs in (
            (
                keras.Model(numbers, table(numbers + np.arange(0, 40, 10, dtype=np.int32))),
                np.arange(8, dtype=np.int32).reshape(2, 4),
            ),
            (keras.Model(rows, rows + np.arange(6, dtype=np.float32)[:, None]), normal(2, 6, 5)),
            (keras.Model(rows, ops.argmax(layers.Dense(7)(rows), axis=-1)), normal(2, 6, 5)),
        ):
            self.check(model, inputs)

    def test_a_refusal_is_a_sentence_with_operators_layers_and_a_way_out(self):
        text, table = layers.TextVectorization(vocabulary=["a"]), layers.Embedding(9, 4)
        sentence = keras.Input((), dtype="string")
        number = keras.Input((4,), dtype="int32")
        picture = keras.Input((8, 8, 3))
        many = layers.CategoryEncoding(10, name="many", output_mode="multi_hot")
        bicubic = ops.image.resize(picture, (5, 5), interpolation="bicubic")
        for model, message in (
            (keras.Model(sentence, table(text(sentence))), "String.*text_vectorization.*numbers"),
            (keras.Model(number, many(number)), "DenseBincount.*layers: many.*other operators"),
            (keras.Model(picture, bicubic), "ResizeBicubic"),
        ):
            with self.assertRaisesRegex(ValueError, message) as caught:
                litert.export(model, self.path)
            self.assertLess(len(str(caught.exception)), 400)
            self.assertNotRegex(str(caught.exception), "loc\\(|tensor<|\\n")

    @parameterized.parameters(
        lambda: layers.LSTM(8),
        lambda: layers.GRU(8, return_sequences=True),
        lambda: layers.Bidirectional(layers.LSTM(8)),
        lambda: layers.RNN([layers.LSTMCell(8), layers.GRUCell(8)]),
        lambda: Wrapped(layers.LSTM(8)),
    )
    def test_static_takes_looped_layers(self, make):
        frames = keras.Input((12, 6))
        model = keras.Model(frames, layers.Dense(3)(make()(layers.Dense(8)(frames))))
        data = normal(16, 12, 6)
        report = self.check(model, data, "static", atol=0.05, representative_data=data)
        self.assertIn("int8 static", [row.form for row in report.rows])

    def test_static_takes_a_looped_convolution(self):
        frames = keras.Input((3, 8, 8, 2))
        model = keras.Model(frames, layers.Conv2D(2, 3)(layers.ConvLSTM2D(4, 3)(frames)))
        data = normal(4, 3, 8, 8, 2)
        self.check(model, data, "static", atol=0.05, representative_data=data)

    def test_static_keeps_attention_behind_a_mask_of_large_negative_numbers(self):
        frames = keras.Input((12, 16))
        scores = layers.Dot(axes=(2, 2))([layers.Dense(16)(frames), layers.Dense(16)(frames)])
        hidden = np.triu(np.ones((12, 12), np.float32), 1)
        weights = layers.Softmax()(scores - 1e9 * hidden)
        model = keras.Model(frames, layers.Dot(axes=(2, 1))([weights, frames]))
        data = normal(32, 12, 16)
        report = self.check(model, data, "static", atol=0.1, representative_data=data)
        self.assertLess(report.max_error, 0.1)

    def test_static_leaves_what_depends_on_shapes_alone_in_float(self):
        frames = keras.Input((None, 8))
        model = keras.Model(frames, layers.Dense(4)(Waves()(frames)))
        data = normal(16, 100, 8)
        self.check(model, data, "static", atol=0.05, representative_data=data)

    def test_static_takes_a_float_file(self):
        model = keras.Sequential([layers.Input((6,)), layers.Dense(8), layers.Dense(3)])
        data, file = normal(16, 6), self.path.with_name("float.tflite")
        file.write_bytes(convert.convert(model)[0])
        litert.export(file, self.path, "static", representative_data=data)
        outputs, expected = litert.predict(self.path, data), model(data)
        np.testing.assert_allclose(outputs, expected, atol=0.05 * np.abs(expected).max())

    def test_static_refuses_data_that_are_not_finite(self):
        model = keras.Sequential([layers.Input((6,)), layers.Dense(3)])
        data = np.full((4, 6), np.nan)
        with self.assertRaisesRegex(ValueError, "NaN or infinite"):
            litert.export(model, self.path, "static", representative_data=data)

    def test_static_refuses_outputs_that_vanish(self):
        model = keras.Sequential([layers.Input((6,)), layers.Rescaling(1e-12), layers.Dense(3)])
        with self.assertRaisesRegex(ValueError, "outputs vanish.*output_0.*e-1"):
            litert.export(model, self.path, "static", representative_data=normal(8, 6))


class PredictTest(unittest.TestCase):
    def test_a_batch_of_no_samples_is_refused(self):
        for batch_size in (0, -1, 2.0):
            with self.assertRaisesRegex(ValueError, "`batch_size` must be an int >= 1"):
                litert.predict(b"", normal(3, 2), batch_size=batch_size)

    def test_inputs_of_different_length_are_refused(self):
        a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
        content, _ = convert.convert(keras.Model([a, b], a + b))
        with self.assertRaisesRegex(ValueError, "same number of samples.*'a': 3, 'b': 1"):
            litert.predict(content, [normal(3, 2), normal(1, 2)])

    def test_a_graph_whose_first_dimensions_differ_is_run_once(self):
        nodes = keras.Input(batch_shape=(5, 3), name="nodes")
        edges = keras.Input(batch_shape=(4, 5), name="edges")
        model = keras.Model([nodes, edges], ops.matmul(edges, nodes))
        specs = [keras.InputSpec(shape=x.shape, dtype=x.dtype, name=x.name) for x in model.inputs]
        content, _ = convert.convert(model, input_signature=[specs])
        arrays = [normal(5, 3), normal(4, 5)]
        np.testing.assert_allclose(
            litert.predict(content, arrays), arrays[1] @ arrays[0], atol=1e-5
        )


if __name__ == "__main__":
    unittest.main()
