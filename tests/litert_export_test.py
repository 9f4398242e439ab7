"""Export of the fast profile: exact weights, right outputs, no harm to the target."""

import dataclasses
import math
import os
import pathlib
import tempfile
import unittest
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from tf_proxquant import Binary, Ternary, litert, models, snap
from tf_proxquant.litert import plan
from tf_proxquant.litert.check import runtime
from tf_proxquant.litert.read import convert, flatbuffer, levels


def small_cnn(seed=0):
    """Conv, BatchNorm with random statistics and signs, dense: kernels in {-1, +1} / {-a, 0, a}."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        shape = variable.shape
        if variable.path.endswith("kernel"):
            variable.assign(generator.choice([-0.1, 0.1], shape))
        elif variable.path.endswith("gamma"):
            variable.assign(generator.uniform(0.5, 1.5, shape) * generator.choice([-1, 1], shape))
        elif variable.path.endswith("variance"):
            variable.assign(generator.uniform(0.5, 2, shape))
        else:
            variable.assign(generator.normal(0, 0.1, shape))
    return model


class ExportTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = self.folder / "model.tflite"

    def test_fast_stores_every_kernel_as_int8_and_keeps_the_outputs(self):
        model = small_cnn()
        report = litert.export(model, self.path)
        self.assertEqual({row.form for row in report.rows}, {"int8"})
        self.assertLessEqual(report.max_error, 2e-5)
        self.assertEqual(report.bytes, self.path.stat().st_size)
        self.assertLess(report.bytes, 0.5 * report.float_bytes)
        images = np.random.default_rng(1).standard_normal((5, 8, 8, 3)).astype("float32")
        expected = model.predict(images, verbose=0)
        for kernels in runtime.KERNELS:
            for batch_size in (2, 5):
                outputs = litert.predict(self.path, images, batch_size=batch_size, kernels=kernels)
                np.testing.assert_allclose(outputs, expected, atol=2e-5 * np.abs(expected).max())

    def test_decoded_weights_are_the_bits_of_the_float_file(self):
        model = small_cnn()
        litert.export(model, self.path)
        before = flatbuffer.Model(convert.convert(model)[0])
        after = flatbuffer.Model(self.path.read_bytes())
        expected = sorted(
            before.array(t).tobytes()
            for t in before.subgraphs[0].tensors
            if before.constant(t) is not None and len(t.shape) > 1
        )
        decoded = []
        for tensor in after.subgraphs[0].tensors:
            if after.constant(tensor) is not None and len(tensor.shape) > 1:
                shape = [1] * len(tensor.shape)
                shape[tensor.quantization.quantizedDimension] = -1
                scale = tensor.quantization.scale.reshape(shape)
                decoded.append((after.array(tensor).astype(np.float32) * scale).tobytes())
        self.assertEqual(sorted(decoded), expected)

    def test_the_model_is_only_read(self):
        model = small_cnn()
        before = [v.numpy().tobytes() for v in model.variables]
        litert.export(model, self.path)
        self.assertEqual([v.numpy().tobytes() for v in model.variables], before)

    def test_a_model_file_exports_like_the_model(self):
        model = small_cnn()
        model.save(self.folder / "model.keras")
        litert.export(self.folder / "model.keras", self.path)
        first = litert.predict(self.path, np.ones((1, 8, 8, 3)))
        np.testing.assert_allclose(first, model(np.ones((1, 8, 8, 3))), rtol=1e-4, atol=1e-5)

    def test_weights_off_the_grid_stay_float_with_a_reason(self):
        model = small_cnn()
        kernel = model.layers[-1].kernel
        kernel.assign(kernel + np.random.default_rng(0).normal(0, 1e-6, kernel.shape))
        report = litert.export(model, self.path)
        (row,) = [row for row in report.rows if row.form == "float32"]
        self.assertEqual(row.shape, (10, 144))
        self.assertIn("too many distinct values", row.reason)

    def test_an_input_that_is_an_output_too_keeps_its_name(self):
        image = keras.Input((3,), name="image")
        model = keras.Model(image, [keras.layers.Dense(4)(image), image])
        report = litert.export(model, self.path)
        self.assertEqual([edge.name for edge in report.inputs], ["image"])
        self.assertEqual([edge.name for edge in report.outputs], ["output_0", "output_1"])

    def test_kernels_of_transposed_3d_convolutions_are_stored_by_output_channel(self):
        inputs = keras.Input((3, 3, 3, 4))
        model = keras.Model(inputs, keras.layers.Conv3DTranspose(8, 2, strides=2)(inputs))
        snap(model, Binary("mean", axis=-1))
        for profile in ("fast", "small"):
            (row,) = litert.export(model, self.path, profile).rows
            self.assertLessEqual(row.bits, 8)
        with self.assertWarnsRegex(UserWarning, 'no form of this profile.*Take another.*"fast"'):
            litert.export(model, self.path, "portable")

    def test_a_kernel_without_entries_is_left_alone(self):
        model = keras.Sequential([keras.layers.Input((0,)), keras.layers.Dense(3)])
        self.assertEqual(litert.export(model, self.path).max_error, 0)

    def test_a_grid_blurred_by_the_batchnorm_fold_is_restored_and_reported(self):
        model = small_cnn()
        conv = model.layers[1].kernel
        # Large codes: a rounded product of small ones may be exact by many times as large ones.
        codes = np.random.default_rng(0).choice(np.float32([-61, -37, 0, 41, 59]), conv.shape)
        conv.assign(np.float32(0.0317) * codes)
        with self.assertWarnsRegex(UserWarning, "conv2d.*integer grid.*small"):
            blurred = litert.export(model, self.path, max_ulps=0)
        self.assertEqual(blurred.rows[0].form, "float32")
        self.path.unlink()
        with self.assertRaisesRegex(ValueError, "conv2d.*strict=True"):
            litert.export(model, self.path, max_ulps=0, strict=True)
        self.assertFalse(self.path.exists())
        report = litert.export(model, self.path)
        self.assertEqual(report.rows[0].form, "int8")
        self.assertIn("ulp", report.rows[0].reason)
        self.assertLess(report.max_error, 2e-5)

    def test_noise_of_an_ulp_on_the_levels_is_not_taken_for_a_blurred_grid(self):
        weights = np.random.default_rng(0).choice(np.float32([-0.3, 0, 0.1]), (4, 500))
        noisy = np.where(np.arange(500) % 2, weights, np.nextafter(weights, np.float32(1)))
        for axis in (None, 0):
            self.assertIsNone(levels.undo_blur(noisy, axis, 2))

    def test_a_latency_budget_trades_size(self):
        model = keras.Sequential([keras.Input((256,)), *(keras.layers.Dense(256),) * 1])
        kernel = model.layers[0].kernel
        kernel.assign(np.random.default_rng(0).choice([-0.1, 0.1], kernel.shape))
        forms = {
            limit: litert.export(model, self.path, "small", max_slowdown=limit).rows[0].form
            for limit in (1, None, math.inf)
        }
        self.assertEqual(forms, {1: "int8", None: "int2", math.inf: "1 bit"})

    def test_bad_arguments_leave_the_old_file(self):
        self.path.write_bytes(b"old")
        model = small_cnn()
        cases = [
            (model, self.path, {"profile": "tiny"}, "profile must be one of .*tiny"),
            (model, self.folder / "model.bin", {}, "end in .tflite.*model.bin"),
            (model, self.folder / "no" / "model.tflite", {}, "no folder"),
            (self.folder / "no.keras", self.path, {}, "no model file"),
            (self.folder / "no.txt", self.path, {}, "must end in .keras"),
            (3, self.path, {}, "Received: 3"),
            (model, self.path, {"dense_bits": 3}, "dense_bits must be"),
            (model, self.path, {"max_ulps": -1}, "max_ulps must be .* at least 0"),
            (model, self.path, {"max_ulps": 2.7}, "max_ulps must be an integer"),
            (model, self.path, {"max_slowdown": 2}, 'goes with the profiles "small"'),
            (model, self.path, {"batch_size": 0}, "batch_size must be"),
            (model, self.path, {"profile": "small", "max_slowdown": 0.5}, "max_slowdown must be"),
            (model, self.path, {"inputs": np.zeros((1, 3))}, "has shape"),
            (keras.Sequential([keras.layers.Dense(3)]), self.path, {}, "Build the model"),
        ]
        for source, path, options, message in cases:
            with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                litert.export(source, path, **options)
        self.assertEqual(os.listdir(self.folder), ["model.tflite"])
        self.assertEqual(self.path.read_bytes(), b"old")

    def test_weights_that_a_source_stores_in_low_bits_are_told_and_stay(self):
        source = self.folder / "source.tflite"
        for options in ({"profile": "fast"}, {"profile": "small"}, {"constants": "float16"}):
            with self.subTest(**options):
                litert.export(small_cnn(), source, **options)
                stored = litert.inspect(source).rows
                with self.assertWarnsRegex(UserWarning, "not float32 in the source"):
                    report = litert.export(source, self.path)
                left = [row for row in stored if row.form != "float32"]
                self.assertEqual(
                    [(row.form, row.bytes_after) for row in report.rows if row.reason],
                    [(row.form, row.bytes_after) for row in left],
                )
                before = self.path.read_bytes()
                with self.assertRaisesRegex(ValueError, "strict=True. Nothing was written"):
                    litert.export(source, self.path, strict=True)
                self.assertEqual(self.path.read_bytes(), before)

    def test_integer_sources_keep_their_numbers_and_are_not_calibrated_anew(self):
        model, source = small_cnn(), self.folder / "source.tflite"
        shape = (16, *model.input_shape[1:])
        data = np.random.default_rng(0).normal(size=shape).astype("float32")
        for profile in ("static", "dynamic"):
            options = {"representative_data": data} if profile == "static" else {}
            litert.export(model, source, profile, **options)
            with self.subTest(profile), self.assertWarnsRegex(UserWarning, "not float32 in the"):
                report = litert.export(source, self.path, inputs=data)
                self.assertGreater(report.graph_bytes, 0)
                self.assertEqual(len(report.rows), len(litert.inspect(source).rows))
                np.testing.assert_array_equal(
                    litert.predict(self.path, data), litert.predict(source, data)
                )
            with self.assertRaisesRegex(
                ValueError, "needs a source of float32.*tensors are stored"
            ):
                litert.export(source, self.path, "static", representative_data=data)

    def test_a_tied_table_with_one_scale_is_stored_in_every_profile(self):
        words = keras.Input((10,), dtype="int32")
        table = keras.layers.ReversibleEmbedding(80, 32)
        model = keras.Model(words, table(table(words), reverse=True))
        numbers = np.random.default_rng(0).integers(0, 80, (8, 10)).astype("int32")
        for axis in (None, -1):
            snap(model, Ternary(axis=axis))
            expected = model.predict(numbers, verbose=0)
            for profile in ("fast", "portable", "small", "balanced", "dynamic"):
                with self.subTest(profile, axis=axis):
                    report = litert.export(model, self.path, profile, inputs=numbers)
                    self.assertLess(report.ratio, 0.75)
                    found = litert.predict(self.path, numbers)
                    limit = 0.02 if profile == "dynamic" else 1e-5
                    np.testing.assert_allclose(found, expected, atol=limit * np.abs(expected).max())

    def test_no_file_of_short_channels_is_larger_than_the_float_file(self):
        for layer, shape in (
            (keras.layers.DepthwiseConv1D(2, use_bias=False), (40, 512)),
            (keras.layers.DepthwiseConv1D(3, use_bias=False), (40, 512)),
            (keras.layers.Dense(512, use_bias=False), (3,)),
            (keras.layers.DepthwiseConv2D(3, use_bias=False), (8, 8, 64)),
        ):
            inputs = keras.Input(shape)
            model = keras.Model(inputs, layer(inputs))
            snap(model, Ternary(axis=-1))
            for profile in ("fast", "small", "dynamic"):
                with self.subTest(profile, layer=layer.name):
                    self.assertLessEqual(litert.preview(model, profile).ratio, 1.0)

    def test_a_preview_takes_what_decides_on_the_file_alone(self):
        model = small_cnn()
        with self.assertRaisesRegex(ValueError, "leave archive, verify out"):
            litert.preview(model, archive=True, verify=False)
        with self.assertRaisesRegex(TypeError, r"preview\(\) .* 'profil'"):
            litert.preview(model, profil="small")
        self.assertEqual(
            litert.preview(model, "small", max_ulps=0).bytes,
            litert.export(model, self.path, "small", max_ulps=0).bytes,
        )

    def test_every_tensor_has_a_name_of_its_own(self):
        model = small_cnn()
        for profile in ("fast", "portable", "balanced", "dynamic"):
            report = litert.export(model, self.path, profile)
            file = flatbuffer.Model(self.path.read_bytes())
            names = [tensor.name for graph in file.subgraphs for tensor in graph.tensors]
            self.assertNotIn(None, names)
            self.assertEqual(len(set(names)), len(names), profile)
            rows = [row.name for row in report.rows]
            self.assertEqual(len(set(rows)), len(rows), profile)
            self.assertLessEqual({name.encode() for name in rows}, set(names), profile)

    def test_code_minus_128_is_stored(self):
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
        kernel = model.layers[0].kernel
        codes = np.random.default_rng(0).integers(-128, 128, kernel.shape)
        codes[0] = -128
        kernel.assign(0.01 * codes)
        for profile in ("fast", "portable", "small"):
            (row,) = litert.export(model, self.path, profile).rows
            self.assertRegex(row.form, "int8", profile)

    def test_equally_spaced_levels_without_zero_take_two_bits(self):
        x = inputs = keras.Input((16, 16, 32))
        for _ in range(3):
            x = keras.layers.Conv2D(64, 3, activation="relu")(x)
        x = keras.layers.Dense(256, activation="relu")(keras.layers.GlobalAveragePooling2D()(x))
        model = keras.Model(inputs, keras.layers.Dense(64, activation="relu")(x))
        generator = np.random.default_rng(0)
        for layer in model.layers:
            if layer.weights:
                scales = generator.uniform(0.5, 1.5, layer.kernel.shape[-1]).astype("float32")
                layer.kernel.assign(scales * generator.choice([-3, -1, 1, 3], layer.kernel.shape))
        report = litert.export(model, self.path, "small")
        self.assertEqual({(row.form, row.bits) for row in report.rows}, {("int2 odd", 2)})
        self.assertLess(report.max_error, 2e-6)
        self.assertLess(report.ratio, 0.09)
        operators = [row.operators for row in report.rows]
        self.assertIn(("FULLY_CONNECTED",), operators)
        self.assertEqual([row.form for row in litert.inspect(self.path).rows][:3], ["int2 odd"] * 3)

    def test_a_nan_weight_is_named(self):
        model = small_cnn()
        kernel = model.layers[-1].kernel.numpy()
        kernel[0, 0] = np.nan
        model.layers[-1].kernel.assign(kernel)
        with self.assertRaisesRegex(ValueError, "dense.*kernel.*1 such values"):
            litert.export(model, self.path)
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_file_that_fails_its_check_replaces_nothing(self):
        self.path.write_bytes(b"old")
        strict = dataclasses.replace(plan.PROFILES["fast"], error_limit=-1.0)
        no_budget = unittest.mock.patch.dict(plan.PROFILES, fast=strict)
        with no_budget, self.assertRaisesRegex(litert.VerificationError, "Outputs differ"):
            litert.export(small_cnn(), self.path)
        self.assertEqual(os.listdir(self.folder), ["model.tflite"])
        self.assertEqual(self.path.read_bytes(), b"old")

    def test_an_interrupted_write_leaves_the_old_file_and_no_debris(self):
        self.path.write_bytes(b"old")
        stop = unittest.mock.patch("os.replace", side_effect=KeyboardInterrupt)
        with stop, self.assertRaises(KeyboardInterrupt):
            litert.export(small_cnn(), self.path, verify=False)
        self.assertEqual(os.listdir(self.folder), ["model.tflite"])
        self.assertEqual(self.path.read_bytes(), b"old")

    def test_resnet20_sizes(self):
        """Kernels of 1x1 stay float, as in the recipe; 2-bit levels have no common step."""
        model = models.resnet(20, (32, 32, 3), 10)
        generator = np.random.default_rng(0)
        limits = {"fast": (0.265, [-0.1, 0.1]), "small": (0.065, [-0.1, 0.1])}
        limits["small 2-bit"] = 0.16, [-0.1311, -0.0519, 0.0519, 0.1311]
        for name, (limit, levels_) in limits.items():
            for variable in model.trainable_variables:
                if variable.path.endswith("kernel") and variable.shape[:2] != (1, 1):
                    variable.assign(generator.choice(np.float32(levels_), variable.shape))
            report = litert.export(model, self.path, name.split()[0], verify=False)
            self.assertLessEqual(report.ratio, limit, name)


if __name__ == "__main__":
    unittest.main()
