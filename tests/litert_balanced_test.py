"""The balanced profile: matrix products that compute what the convolutions computed."""

import itertools
import os
import pathlib
import tempfile
import unittest
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl.testing import parameterized

from tf_proxquant import litert, models
from tf_proxquant.litert import plan
from tf_proxquant.litert.check import runtime, timing
from tf_proxquant.litert.forms import planes
from tf_proxquant.litert.plan import balanced, budget
from tf_proxquant.litert.read import convert, flatbuffer
from tf_proxquant.litert.write import matmul, writer

UNLIMITED = float("inf")


def fill(model, levels, seed=0):
    """Random kernels on `levels` and random BatchNorm statistics."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.path.endswith("kernel"):
            scale = 2.0 ** -round(np.log2(np.prod(variable.shape[:-1])) / 2)
            variable.assign(scale * generator.choice(levels, variable.shape))
        elif variable.path.endswith(("gamma", "variance")):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif variable.dtype == "float32":
            variable.assign(generator.normal(0, 0.1, variable.shape))
    return model


def every_geometry(has_norm):
    """Strides, dilations, padding, kernels and activations on odd sizes, one after the other."""
    x = inputs = keras.Input((19, 14, 64))
    for size, options in [
        ((3, 3), {"padding": "same"}),
        ((3, 3), {"padding": "same", "strides": 2, "activation": "relu"}),
        ((1, 1), {"activation": "relu6"}),
        ((3, 1), {"padding": "same"}),
        ((2, 2), {"padding": "same", "dilation_rate": (2, 1)}),
        ((3, 3), {"padding": "same", "dilation_rate": 2}),
        ((1, 1), {"strides": 2, "padding": "same"}),
        ((3, 2), {"padding": "valid"}),
        ((2, 3), {"padding": "same", "strides": (1, 2)}),
    ]:
        x = keras.layers.Conv2D(64, size, **options)(x)
        x = keras.layers.BatchNormalization()(x) if has_norm else x
    return keras.Model(inputs, x)


class MatrixProductTest(parameterized.TestCase):
    def setUp(self):
        self.path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "m.tflite")

    def export(self, model, max_slowdown=UNLIMITED):
        return litert.export(model, self.path, "balanced", max_slowdown=max_slowdown)

    @parameterized.named_parameters(
        ("binary", [-1, 1], True, {"1 bit", "int2"}),
        ("ternary", [-1, 0, 1], True, {"int2"}),
        ("asymmetric_ternary", [-0.7, 0, 1.1], True, {"int2 clamp"}),
        ("free_two_bits", [-1.9, -0.6, 0.6, 1.9], True, {"int2 + int2"}),
        ("uneven", [-3, -1, 0, 2, 5], False, {"int4"}),
    )
    def test_every_geometry_keeps_weights_and_outputs(self, levels, has_norm, expected_forms):
        model = fill(every_geometry(has_norm), levels)
        report = self.export(model)
        products = [row for row in report.rows if row.operators == ("BATCH_MATMUL",)]
        self.assertLen(products, 9)
        self.assertEqual({row.form for row in products}, expected_forms)
        self.assertLessEqual(report.max_error, 2e-5)
        images = np.random.default_rng(1).standard_normal((4, 19, 14, 64), np.float32)
        expected = model.predict(images, verbose=0)
        for batch_size in (1, 4):
            for kernels in runtime.KERNELS:
                outputs = litert.predict(self.path, images, batch_size, kernels=kernels)
                np.testing.assert_allclose(outputs, expected, atol=2e-5 * np.abs(expected).max())

    def test_other_convolutions_stay_in_the_fast_form(self):
        inputs = keras.Input((8, 8, 16))
        shared = keras.layers.Conv2D(16, 3, padding="same")
        x = shared(shared(inputs))
        x = keras.layers.Conv2D(16, 3, groups=4)(x)
        x = keras.layers.DepthwiseConv2D(3)(x)
        model = fill(keras.Model(inputs, keras.layers.Conv2DTranspose(16, 3)(x)), [-1, 1])
        report = self.export(model)
        self.assertNotIn(("BATCH_MATMUL",), [row.operators for row in report.rows])
        self.assertIn("int8", [row.form for row in report.rows])

    def test_a_convolution_of_open_height_stays_as_fast(self):
        inputs = keras.Input((None, 8, 3))
        x = keras.layers.Conv2D(64, 3)(inputs)
        x = keras.layers.Resizing(32, 32)(x)
        model = fill(keras.Model(inputs, keras.layers.Conv2D(64, 3)(x)), [-1, 1])
        report = self.export(model)
        readers = [row.operators for row in report.rows]
        self.assertEqual(readers, [("CONV_2D",), ("BATCH_MATMUL",)])

    @parameterized.parameters(0.5, -1, 0, float("nan"), "1.2")
    def test_budgets_below_the_float_latency_are_refused(self, max_slowdown):
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
        with self.assertRaisesRegex(ValueError, "max_slowdown must be a number >= 1"):
            self.export(model, max_slowdown)

    def test_a_model_without_convolutions_is_exported_as_fast(self):
        model = fill(keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)]), [-1, 1])
        report = self.export(model)
        self.assertEqual([row.form for row in report.rows], ["int8"])
        self.assertRegex(report.notes[0], "as the fast profile")


class ResNetTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        model = fill(models.resnet(20, (32, 32, 3), 10), [-1, 1])
        cls.float_content, _ = convert.convert(model)
        cls.source = cls.folder / "float.tflite"
        cls.source.write_bytes(cls.float_content)
        cls.report = litert.export(cls.source, cls.folder / "balanced.tflite", "balanced")

    def test_resnet20_takes_a_tenth_of_the_float_file(self):
        self.assertLessEqual(self.report.ratio, 0.1)
        self.assertRegex(self.report.notes[0], "times the float latency")

    def test_the_bytes_do_not_depend_on_a_clock(self):
        """A clock that runs backwards and in leaps."""
        ticks = itertools.cycle([5.0, -3.0, 1e6, 0.0])
        with unittest.mock.patch("time.perf_counter", lambda: next(ticks)):
            for profile in ("fast", "portable", "small", "balanced", "dynamic"):
                path = self.folder / f"{profile}-again.tflite"
                litert.export(self.source, self.folder / "first.tflite", profile)
                litert.export(self.source, path, profile)
                first = (self.folder / "first.tflite").read_bytes()
                self.assertEqual(path.read_bytes(), first, profile)
        again = (self.folder / "balanced-again.tflite").read_bytes()
        self.assertEqual(again, (self.folder / "balanced.tflite").read_bytes())

    def test_resnet20_is_faster_than_narrow_convolutions(self):
        content = (self.folder / "balanced.tflite").read_bytes()
        # int2 straight before CONV_2D measures 4.
        self.assertLess(timing.measure_slowdown(content, self.float_content), 2)

    def test_a_budget_of_one_changes_no_convolution(self):
        report = litert.export(self.source, self.folder / "one.tflite", "balanced", max_slowdown=1)
        self.assertEqual({row.form for row in report.rows}, {"int8"})

    def test_the_heaviest_convolutions_of_the_smallest_maps_go_first(self):
        model = flatbuffer.Model(self.float_content)
        request = plan.Request("balanced", max_slowdown=1.025)
        changes = balanced.plan(model, request).changes
        moved = [
            change.weight.values.shape for change in changes if "BATCH_MATMUL" in change.read_by
        ]
        self.assertEqual(set(moved), {(64, 3, 3, 64)})

    def test_multiplications_are_those_of_resnet20(self):
        model = flatbuffer.Model(self.float_content)
        per_stage = [6 * 1024 * 144 * 16, 256 * 144 * 32 + 5 * 256 * 288 * 32]
        per_stage += [64 * 288 * 64 + 5 * 64 * 576 * 64, 1024 * 27 * 16, 640]
        per_stage += [256 * 16 * 32, 64 * 32 * 64]
        self.assertAlmostEqual(budget.float_cost(model) / budget.XNNPACK_COST, sum(per_stage), 0)


class ChoiceTest(unittest.TestCase):
    @staticmethod
    def step(key, saved, cost):
        return budget.Step(key, f"{key} {saved}", saved, cost)

    def test_the_best_steps_that_fit_are_taken(self):
        steps = [self.step(1, 100, 50), self.step(2, 90, 10), self.step(3, 30, 5)]
        self.assertEqual(budget.choose(steps, 15), ({2: "2 90", 3: "3 30"}, 15))
        self.assertEqual(budget.choose(steps, 4), ({}, 0))

    def test_a_later_step_replaces_the_earlier_one_and_needs_it(self):
        steps = [self.step(1, 100, 10), self.step(1, 20, 5), self.step(2, 95, 10)]
        self.assertEqual(budget.choose(steps, 25)[0], {1: "1 20", 2: "2 95"})
        self.assertEqual(budget.choose([self.step(1, 90, 10), self.step(1, 8, 1)], 5)[0], {})

    def test_steps_of_a_binary_convolution_go_from_two_bits_to_one(self):
        weights = np.random.default_rng(0).choice(np.float32([-1, 1]), (64, 3, 3, 64))
        none = ((0, 0), (0, 0))
        convolution = matmul.Convolution(0, 0, "w", weights, (8, 8), (6, 6), (1, 1), (1, 1), none)
        steps = balanced.list_steps(convolution)
        self.assertEqual([step.form.name for step in steps], ["int2", "1 bit"])
        ratios = [step.saved / step.cost for step in steps]
        self.assertEqual(ratios, sorted(ratios, reverse=True))


class PlanesTest(unittest.TestCase):
    def test_only_two_opposite_levels_are_taken(self):
        weights = np.float32([[1, -1, 1, 1], [2, -2, 2, -2]])
        self.assertEqual(planes.encode_planes(weights, 0).bits, 1)
        self.assertIsNone(planes.encode_planes(weights))
        self.assertIsNone(planes.encode_planes(np.float32([[1, -2, 1, 1], [2, -2, 2, -2]]), 0))
        self.assertIsNone(planes.encode_planes(np.float32([[1, 0, 1, 1], [2, -2, 2, -2]]), 0))
        self.assertIsNone(planes.encode_planes(weights[:, :3], 0))

    def test_the_table_lists_the_bits_of_every_byte_as_signs(self):
        self.assertEqual(writer.SIGN_ROWS[0b00000110].tolist(), [-1, 1, 1, -1, -1, -1, -1, -1])


if __name__ == "__main__":
    unittest.main()
