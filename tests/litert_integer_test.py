"""Files of the static profile whose inputs and outputs are integers too."""

import contextlib
import dataclasses
import pathlib
import tempfile
import unittest.mock
import warnings
from io import StringIO

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from ai_edge_litert.schema_py_generated import TensorType
from keras import layers

import tf_proxquant as pq
from tf_proxquant import litert
from tf_proxquant.litert import __main__ as command
from tf_proxquant.litert import plan as plans
from tf_proxquant.litert.read import flatbuffer, integer

PIXELS = (12, 12, 3)


def pictures():
    inputs = keras.Input(PIXELS, name="picture")
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(x)))
    x = layers.GlobalAveragePooling2D()(layers.ReLU(6)(layers.DepthwiseConv2D(3)(x)))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


def words():
    inputs = keras.Input((10,), dtype="int32")
    x = layers.LayerNormalization()(layers.Embedding(50, 16)(inputs))
    x = layers.GlobalMaxPooling1D()(layers.Conv1D(16, 3, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(4)(x))


def towers():
    inputs = [keras.Input((), dtype="int32", name=name) for name in ("user", "item")]
    sides = [layers.Dense(8)(layers.Embedding(60, 16)(number)) for number in inputs]
    sides = [layers.UnitNormalization()(side) for side in sides]
    return keras.Model(inputs, layers.Dot(axes=1)(sides))


def two_in_two_out():
    inputs = keras.Input((8,), name="b"), keras.Input((8,), name="a")
    x = layers.Add()([layers.Dense(8)(each) for each in inputs])
    return keras.Model(inputs, [layers.Dense(3)(x), layers.Dense(5, activation="sigmoid")(x)])


MODELS = {f.__name__: f for f in (pictures, words, towers, two_in_two_out)}


def data_of(model, count=32):
    generator = np.random.default_rng(0)
    arrays = []
    for tensor in model.inputs:
        shape, is_image = (count, *tensor.shape[1:]), len(tensor.shape) == 4
        if "int" in tensor.dtype:
            arrays.append(generator.integers(0, 50, shape, dtype=np.int32))
        elif is_image:
            arrays.append(generator.integers(0, 256, shape).astype(np.float32))
        else:
            arrays.append(generator.normal(size=shape).astype(np.float32))
    if arrays[0].ndim == 4:
        arrays[0][0, 0, 0, 0], arrays[0][0, 0, 0, 1] = 0, 255
    return arrays if len(arrays) > 1 else arrays[0]


class IntegerEdgesTest(parameterized.TestCase):
    def setUp(self):
        keras.utils.set_random_seed(0)
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = self.folder / "model.tflite"

    def export(self, model, io, data=None, **options):
        data = data_of(model) if data is None else data
        path = self.folder / f"{io}.tflite"
        report = pq.export(model, path, "static", representative_data=data, io=io, **options)
        return path, report

    def operators(self, path):
        """(names of operators, types of tensors) of a file."""
        file = flatbuffer.Model(path.read_bytes())
        (graph,) = file.subgraphs
        names = [file.operator_name(operator) for operator in graph.operators]
        return names, {tensor.type for tensor in graph.tensors}

    @parameterized.parameters(*MODELS)
    def test_no_float_is_left_with_integers_at_the_edges(self, name):
        model = MODELS[name]()
        pq.snap(model, pq.Ternary(axis=-1))
        expected = [edge.name for edge in self.export(model, "float32")[1].inputs]
        for io in ("int8", "uint8"):
            path, report = self.export(model, io)
            names, types = self.operators(path)
            self.assertNotIn(TensorType.FLOAT32, types)
            self.assertNotIn("DEQUANTIZE", names)
            edges = [e for e in (*report.inputs, *report.outputs) if e.dtype != "int32"]
            self.assertEqual({edge.dtype for edge in edges}, {io})
            self.assertEqual(names.count("QUANTIZE"), len(edges) if io == "uint8" else 0)
            self.assertEqual([e.name for e in report.inputs], expected)
            self.assertNotIn("in floats", "".join(report.notes))

    @parameterized.parameters(*MODELS)
    def test_the_codes_are_those_that_the_file_computes_with(self, name):
        """Floats in, floats out: the same bits whatever the type of the edges."""
        model = MODELS[name]()
        data = data_of(model)
        path, report = self.export(model, "float32", data)
        expected = keras.tree.flatten(litert.predict(path, data))
        for io in ("int8", "uint8"):
            path, report = self.export(model, io, data)
            found = keras.tree.flatten(litert.predict(path, data))
            for codes, edge, values in zip(found, report.outputs, expected, strict=True):
                self.assertEqual(codes.dtype, io)
                real = np.float32(edge.scale) * (codes.astype(np.float32) - edge.zero_point)
                np.testing.assert_array_equal(real, values)

    @parameterized.parameters("int8", "int4")
    def test_a_channel_of_almost_nothing_keeps_its_bias(self, weights):
        generator = np.random.default_rng(0)
        model = keras.Sequential([keras.Input(PIXELS), layers.Conv2D(4, 3), layers.Conv2D(5, 3)])
        for layer in model.layers:
            kernel = 0.2 * generator.integers(-1, 2, layer.kernel.shape)
            kernel[..., 0] *= 1e-11
            layer.kernel.assign(kernel)
            layer.bias.assign(np.linspace(2, 0, kernel.shape[-1]))
        data = generator.normal(size=(32, *PIXELS)).astype("float32")
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            path, report = self.export(model, "float32", data, weights=weights)
        self.assertEqual({row.form for row in report.rows}, {f"{weights} static"})
        found, expected = litert.predict(path, data), model.predict(data, verbose=0)
        np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())

    def test_pixels_go_in_as_they_are(self):
        model = pictures()
        data = data_of(model)
        path, report = self.export(model, "uint8", data)
        self.assertEqual((report.inputs[0].scale, report.inputs[0].zero_point), (1, 0))
        from_bytes = litert.predict(path, data.astype(np.uint8))
        np.testing.assert_array_equal(from_bytes, litert.predict(path, data))
        path, _ = self.export(model, "int8", data)
        shifted = litert.predict(path, (data - 128).astype(np.int8))
        np.testing.assert_array_equal(shifted, litert.predict(path, data))
        with self.assertRaisesRegex(ValueError, "codes from -128 to 127.*Received.*0 to 255"):
            litert.predict(path, data.astype(np.uint8))

    def test_a_code_is_a_pixel_also_where_the_data_are_pale(self):
        model = pictures()
        _, report = self.export(model, "uint8", np.clip(data_of(model), 40, 200))
        self.assertEqual((report.inputs[0].scale, report.inputs[0].zero_point), (1, 0))
        _, report = self.export(model, "uint8", data_of(model) / 255)
        self.assertLess(report.inputs[0].scale, 1 / 250)

    def test_what_computes_with_floats_is_named_or_refused(self):
        inputs = keras.Input((8,))
        inside = keras.Model(inputs, layers.Dense(4)(keras.ops.sin(layers.Dense(8)(inputs))))
        path, report = self.export(inside, "int8")
        self.assertIn("in floats", report.notes[-1])
        self.assertIn("SIN", report.notes[-1])
        before = path.read_bytes()
        sine, dense = keras.ops.sin, layers.Dense(8)
        for at_edge in (dense(sine(inputs)), sine(dense(inputs))):
            with self.assertRaisesRegex(ValueError, "io='int8'.*SIN.*io='float32'"):
                self.export(keras.Model(inputs, at_edge), "int8")
        self.assertEqual(path.read_bytes(), before)

    def test_integers_at_the_edges_mean_integers_between_the_layers(self):
        """Where outputs suffer much, layers alone compute with integers, but not with `io`."""
        model = pictures()
        errors = unittest.mock.Mock(side_effect=[2 * integer.TOLERABLE, integer.TOLERABLE])
        with unittest.mock.patch.object(integer.outputs, "relative_error", errors):
            _, report = self.export(model, "float32", verify=False)
            self.assertIn("only dense layers and convolutions", "".join(report.notes))
            path, _ = self.export(model, "uint8", verify=False)
        self.assertNotIn(TensorType.FLOAT32, self.operators(path)[1])

    def test_outputs_that_suffer_from_integers_at_the_edges_are_refused_with_a_way_out(self):
        """As those of an unrolled GRU over random words do."""
        model = pictures()
        exact = dataclasses.replace(plans.PROFILES["static"], error_limit=1e-4)
        with unittest.mock.patch.dict(plans.PROFILES, static=exact):
            with self.assertRaisesRegex(
                litert.VerificationError, "more than 1e-04. Take io='float32'"
            ):
                self.export(model, "int8")
            with self.assertRaisesRegex(
                litert.VerificationError, "more than 1e-04. Give.*unroll=False.*'dynamic'"
            ):
                self.export(model, "float32")

    def test_other_profiles_and_types_are_refused(self):
        model = two_in_two_out()
        for profile, io in (("fast", "int8"), ("dynamic", "uint8"), ("static", "int16")):
            with self.assertRaisesRegex(ValueError, f"Received: .*{io}"):
                pq.export(model, self.path, profile, io=io, representative_data=data_of(model))
        self.assertFalse(self.path.exists())

    def test_data_that_cannot_calibrate_are_refused_with_a_way_out(self):
        model = words()
        data = data_of(model)
        for wrong in (lambda: [data], ([x] for x in data), tf.data.Dataset.from_tensors(data)):
            with self.assertRaisesRegex(ValueError, "an array of samples.*stack.*Received: "):
                self.export(model, "float32", wrong)
        with self.assertRaisesRegex(ValueError, "does not take.*word numbers.*out of bounds"):
            self.export(model, "float32", data + 50)

    def test_the_command_refuses_what_is_no_npz(self):
        path = str(self.folder / "data.npy")
        np.save(path, data_of(words()))
        stderr = StringIO()
        with contextlib.redirect_stderr(stderr):
            status = command.main(["m.keras", "m.tflite", "--profile=static", f"--data={path}"])
        self.assertEqual(status, 1)
        self.assertIn("Expected an .npz file", stderr.getvalue())

    def test_the_command_takes_it(self):
        model = pictures()
        model.save(self.folder / "model.keras")
        np.savez(self.folder / "data.npz", data_of(model))
        files = [str(self.folder / name) for name in ("model.keras", "m.tflite", "data.npz")]
        self.assertEqual(
            command.main([*files[:2], "--profile=static", f"--data={files[2]}", "--io=uint8"]), 0
        )
        self.assertEqual(litert.inspect(files[1]).inputs[0].dtype, "uint8")
