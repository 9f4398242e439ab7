"""Every layer that a phone model is made of: all kernels low-bit, outputs right on both kernels."""

import os
import pathlib
import tempfile
import unittest
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl.testing import parameterized

from tests.litert_cases import KERNELS, on_levels
from tf_proxquant import litert
from tf_proxquant.litert.check import runtime
from tf_proxquant.litert.plan import portable
from tf_proxquant.litert.read import flatbuffer

layers = keras.layers


def stack(shape, *parts, dtype=None, batch_size=None):
    inputs = keras.Input(shape, dtype=dtype, batch_size=batch_size)
    x = inputs
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def attention():
    inputs = keras.Input((6, 16))
    x = layers.MultiHeadAttention(2, 8)(inputs, inputs)
    return keras.Model(inputs, layers.LayerNormalization()(x + inputs))


def two_in_two_out():
    first, second = keras.Input((12,), name="b_first"), keras.Input((20,), name="a_second")
    x = layers.Concatenate()([layers.Dense(16)(first), layers.Dense(24)(second)])
    return keras.Model([first, second], [layers.Dense(9)(x), layers.Dense(7)(x)])


def named_outputs():
    inputs = {"x": keras.Input((12,), name="x"), "a": keras.Input((20,), name="a")}
    x = layers.Concatenate()([layers.Dense(16)(inputs["x"]), layers.Dense(24)(inputs["a"])])
    return keras.Model(inputs, {"second": layers.Dense(9)(x), "first": layers.Dense(9)(x)})


def nested():
    inner = stack((16,), layers.Dense(32, activation="relu"), layers.Dense(16))
    return stack((16,), inner, layers.Dense(8), keras.Sequential([layers.Dense(20)]))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = layers.Dense(32, activation="relu"), layers.Dense(10)

    def call(self, inputs):
        return self.head(self.hidden(inputs))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 24), np.float32))
    return model


def recurrent(cell, **options):
    return stack(
        (7,), layers.Embedding(50, 16), cell(16, **options), layers.Dense(50), dtype="int32"
    )


IMAGE = (9, 9, 8)
CASES = {
    "conv": lambda: stack(IMAGE, layers.Conv2D(16, 3, padding="same")),
    "conv_strided_norm": lambda: stack(
        IMAGE, layers.Conv2D(16, 3, 2, use_bias=False), layers.BatchNormalization(), layers.ReLU()
    ),
    "conv_dilated": lambda: stack(IMAGE, layers.Conv2D(16, 3, dilation_rate=2)),
    "conv_grouped": lambda: stack(IMAGE, layers.Conv2D(16, 3, groups=2)),
    "norm_before_conv": lambda: stack(IMAGE, layers.BatchNormalization(), layers.Conv2D(16, 3)),
    "depthwise_norm": lambda: stack(
        (9, 9, 32), layers.DepthwiseConv2D(3, use_bias=False), layers.BatchNormalization()
    ),
    "depthwise_multiplier": lambda: stack(
        (9, 9, 32), layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2)
    ),
    "separable": lambda: stack((9, 9, 32), layers.SeparableConv2D(32, 3)),
    "conv_transposed": lambda: stack(
        (5, 5, 8), layers.Conv2DTranspose(16, 3, 2, padding="same"), layers.BatchNormalization()
    ),
    "conv1d": lambda: stack((12, 8), layers.Conv1D(16, 3, padding="causal")),
    "conv3d": lambda: stack((5, 5, 5, 8), layers.Conv3D(16, 3)),
    "dense_norm": lambda: stack((32,), layers.Dense(24), layers.BatchNormalization()),
    "norm_dense_norm": lambda: stack(
        (32,), layers.BatchNormalization(), layers.Dense(24), layers.BatchNormalization()
    ),
    "norm_einsum_norm": lambda: stack(
        (6, 16),
        layers.BatchNormalization(),
        layers.EinsumDense("abc,cde->abde", (6, 4, 8)),
        layers.BatchNormalization(),
    ),
    "dense_on_sequence": lambda: stack((5, 32), layers.Dense(24)),
    "einsum_dense": lambda: stack(
        (5, 16), layers.EinsumDense("abc,cde->abde", (None, 4, 8), bias_axes="de")
    ),
    "lstm": lambda: recurrent(layers.LSTM, return_sequences=True),
    "lstm_unrolled": lambda: recurrent(layers.LSTM, unroll=True),
    "gru": lambda: recurrent(layers.GRU),
    "gru_unrolled": lambda: recurrent(layers.GRU, unroll=True, return_sequences=True),
    "attention": attention,
    "two_in_two_out": two_in_two_out,
    "named_outputs": named_outputs,
    "nested": nested,
    "subclassed": subclassed,
}

# Weights that the dynamic profile must feed straight into their operators, at least.
DYNAMIC = {"dense_norm": 1, "dense_on_sequence": 1, "lstm_unrolled": 2, "lstm": 2, "nested": 3}


class OperatorsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "model.tflite"

    @parameterized.named_parameters(*((name, name) for name in CASES))
    def test_all_kernels_are_stored_in_few_bits(self, name):
        model = on_levels(CASES[name](), [-0.125, 0, 0.125])
        num_kernels = sum(v.path.endswith(KERNELS) for v in model.variables)
        for profile, forms in (("fast", {"int8"}), ("small", {"int2"})):
            with self.subTest(profile=profile):
                report = litert.export(model, self.path, profile)
                low = [row for row in report.rows if row.form in forms]
                message = str(report)
                self.assertGreaterEqual(len(low), num_kernels, message)
                self.assertLessEqual(report.max_error, 2e-5, message)
                self.assertEqual(set(report.errors), set(runtime.KERNELS))

    @parameterized.named_parameters(*((name, name) for name in DYNAMIC))
    def test_dynamic_feeds_integers_straight_into_dense_layers_and_lookups(self, name):
        model = on_levels(CASES[name](), [-0.125, 0, 0.125])
        report = litert.export(model, self.path, "dynamic", dense_bits=2)
        direct = [row for row in report.rows if row.form == "int2 direct"]
        self.assertGreaterEqual(len(direct), DYNAMIC[name], str(report))
        self.assertGreater(report.max_error, 2e-5)  # 8-bit activations are not hidden
        self.assertLess(report.max_error, 0.1)
        shown = [row.form for row in litert.inspect(self.path).rows]
        self.assertEqual(shown.count("int2 direct"), len(direct))

    def test_dynamic_takes_four_bits_for_dense_layers_by_default_and_two_for_tables(self):
        model = on_levels(CASES["lstm_unrolled"](), [-0.125, 0, 0.125])
        report = litert.export(model, self.path, "dynamic")
        forms = {row.operators[0]: row.form for row in report.rows}
        self.assertEqual(forms["FULLY_CONNECTED"], "int4 direct")
        self.assertEqual(forms["GATHER"], "int2 direct")

    @parameterized.parameters(
        ("conv", {"int8 direct"}),
        ("conv_grouped", {"int8"}),
        ("depthwise_norm", {"int8"}),
        ("few_outputs", {"int8"}),
    )
    def test_dynamic_feeds_bytes_into_convolutions_with_enough_to_multiply(self, name, forms):
        build = CASES.get(name) or (lambda: stack((9, 9, 64), layers.Conv2D(16, 1)))
        model = on_levels(build(), np.arange(-7, 8) / 32)
        report = litert.export(model, self.path, "dynamic")
        self.assertEqual({row.form for row in report.rows}, forms, str(report))
        self.assertEqual(report.max_error > 2e-5, "int8 direct" in forms)
        self.assertLess(report.max_error, 0.05)

    @parameterized.parameters("conv_strided_norm", "conv_transposed", "depthwise_norm", "nested")
    def test_portable_stores_one_scale_for_each_tensor(self, name):
        model = on_levels(CASES[name](), np.arange(-7, 8) / 32)
        with unittest.mock.patch.object(portable, "SHARE", 1e9):
            report = litert.export(model, self.path, "portable")
        self.assertLessEqual({row.form for row in report.rows}, {"int8", "int8 scaled"})
        self.assertLess(report.max_error, 2e-6)
        file = flatbuffer.Model(self.path.read_bytes())
        for graph in file.subgraphs:
            for operator in graph.operators:
                if file.operator_name(operator) == "DEQUANTIZE":
                    scale = graph.tensors[operator.inputs[0]].quantization.scale
                    self.assertLen(scale, 1)
                    self.assertEqual(file.model.operatorCodes[operator.opcodeIndex].version, 2)

    def test_portable_keeps_relu6_right(self):
        """A scale of a hundredth and outputs on both sides of 6: cut before the scale, all is 6."""
        model = on_levels(
            stack(IMAGE, layers.Conv2D(16, 3, use_bias=False), layers.BatchNormalization(),
                  layers.ReLU(max_value=6)),
            [-0.25, 0, 0.25],
        )  # fmt: skip
        report = litert.export(model, self.path, "portable")
        self.assertEqual([row.form for row in report.rows], ["int8 scaled"])
        images = 10 * np.random.default_rng(0).standard_normal((2, *IMAGE), np.float32)
        outputs = litert.predict(self.path, images)
        self.assertTrue((outputs == 6).any() and ((outputs > 0) & (outputs < 6)).any())
        np.testing.assert_allclose(outputs, model.predict(images, verbose=0), atol=1e-4)

    @parameterized.parameters("fast", "portable", "small", "balanced", "dynamic")
    def test_activations_of_transposed_convolutions_are_operators_of_their_own(self, profile):
        """OpenVINO leaves out fused ones, without a word."""
        for activation, levels in (("relu", [-0.5, 0.5]), ("relu6", np.linspace(-1, 1, 997))):
            model = on_levels(
                stack((4, 4, 3), layers.Conv2DTranspose(24, 3, 2), layers.Activation(activation)),
                levels,
            )
            report = litert.export(model, self.path, profile)
            self.assertLess(report.max_error, 0.1 if profile == "dynamic" else 2e-5)
            file = flatbuffer.Model(self.path.read_bytes())
            (graph,) = file.subgraphs
            (layer,) = [o for o in graph.operators if file.operator_name(o) == "TRANSPOSE_CONV"]
            self.assertEqual(layer.builtinOptions.fusedActivationFunction, 0)
            self.assertEqual(file.model.operatorCodes[layer.opcodeIndex].version, 3)

    def test_portable_dense_layers_read_rows_of_codes_with_scale_one(self):
        """Behind another scale, or over sequences, OpenVINO and onnxruntime round their inputs."""
        build = layers.Dense(12, activation="relu"), layers.Dense(9, use_bias=False)
        for levels in (np.arange(-7, 8) / 32, [-0.25, 0.25]):
            model = on_levels(stack((5, 32), *build), levels)
            with unittest.mock.patch.object(portable, "SHARE", 1e9):
                report = litert.export(model, self.path, "portable", batch_size=1)
            self.assertEqual({row.form for row in report.rows}, {"int8 scaled"})
            self.assertLess(report.max_error, 2e-6)
            file = flatbuffer.Model(self.path.read_bytes())
            (graph,) = file.subgraphs
            for operator in graph.operators:
                read = [graph.tensors[i] for i in operator.inputs]
                if file.operator_name(operator) == "DEQUANTIZE":
                    np.testing.assert_array_equal(read[0].quantization.scale, [1])
                if file.operator_name(operator) == "FULLY_CONNECTED":
                    self.assertEqual(tuple(read[0].shape), (5, read[1].shape[1]))

    def test_notes_name_the_readers_that_compute_something_else(self):
        """Per channel behind BatchNorm: tflite-micro; a dense layer: OpenVINO and onnxruntime."""
        for name, readers in (
            ("conv_strided_norm", ["tflite-micro"]),
            ("dense_norm", ["tflite-micro", "OpenVINO"]),
            ("conv", []),
        ):
            notes = litert.export(on_levels(CASES[name](), [-1, 1]), self.path).notes
            self.assertEqual(len(notes), len(readers), notes)
            for note, reader in zip(notes, readers, strict=True):
                self.assertIn(reader, note)
            notes = litert.export(on_levels(CASES[name](), [-1, 1]), self.path, "portable").notes
            self.assertNotIn("tflite-micro", "".join(notes))

    def test_dynamic_never_gives_code_minus_eight_to_a_dense_layer(self):
        """int4 FULLY_CONNECTED multiplies it wrongly on the builtin kernels."""
        for low, form in ((-7, "int4 direct"), (-8, "int8 direct")):
            model = on_levels(CASES["dense_norm"](), np.arange(low, 8) / 32)
            report = litert.export(model, self.path, "dynamic")
            self.assertEqual([row.form for row in report.rows], [form])
            self.assertLess(report.max_error, 0.03)

    @parameterized.parameters("conv_strided_norm", "depthwise_norm", "dense_norm", "two_in_two_out")
    def test_static_keeps_uneven_grids_exact_under_integer_activations(self, name):
        model = on_levels(CASES[name](), np.arange(-7, 8) / 32)
        data = [np.random.default_rng(0).normal(size=(20, *i.shape[1:])) for i in model.inputs]
        report = litert.export(model, self.path, "static", representative_data=data)
        forms = {(row.form, row.reason) for row in report.rows}
        self.assertEqual(forms, {("int8 static", "")}, str(report))
        self.assertGreater(report.max_error, 1e-4)
        self.assertLess(report.max_error, 0.1)

    def test_static_asks_for_data(self):
        with self.assertRaisesRegex(ValueError, "representative_data"):
            litert.export(CASES["conv"](), self.path, "static")

    def test_an_open_batch_stays_open_and_a_loop_fixes_it_with_a_note(self):
        for name, notes in (("conv", 0), ("lstm_unrolled", 0), ("lstm", 1)):
            report = litert.export(on_levels(CASES[name](), [-1, 1]), self.path)
            about_batch = [note for note in report.notes if "batch fixed" in note]
            self.assertEqual(len(about_batch), notes, name)
            model = CASES[name]()
            batch = np.ones((3, *model.input_shape[1:]), model.input.dtype)
            self.assertEqual(len(litert.predict(self.path, batch)), 3)
        fixed = litert.export(CASES["conv"](), self.path, batch_size=2)
        self.assertEqual(fixed.notes, ())
        self.assertEqual(runtime.Runner(self.path.read_bytes()).inputs.popitem()[1]["shape"][0], 2)


if __name__ == "__main__":
    unittest.main()
