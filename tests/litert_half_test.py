"""Files with constants of float16."""

import pathlib
import tempfile
import warnings

import keras
import numpy as np
from absl.testing import parameterized
from ai_edge_litert.schema_py_generated import TensorType
from keras import layers

import tf_proxquant as pq
from tests.litert_cases import on_levels
from tf_proxquant import litert
from tf_proxquant.litert import __main__ as command
from tf_proxquant.litert.read import flatbuffer


def network(factor, levels=(-3, -1, 1, 3)):
    """Convolutions and a dense layer with weights factor * level."""
    inputs = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3)(layers.Conv2D(16, 3, activation="relu")(inputs))
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    return on_levels(keras.Model(inputs, outputs), factor * np.array(levels))


class HalfTest(parameterized.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = self.folder / "model.tflite"

    def stored(self):
        """The constants of float16 in the file, as float32."""
        file = flatbuffer.Model(self.path.read_bytes())
        (graph,) = file.subgraphs
        decoders = [o for o in graph.operators if file.operator_name(o) == "DEQUANTIZE"]
        versions = {file.model.operatorCodes[o.opcodeIndex].version for o in decoders}
        self.assertEqual(versions, {3})
        halves = [t for t in graph.tensors if t.type == TensorType.FLOAT16]
        self.assertLen(halves, 3)
        return [file.array(tensor).astype(np.float32) for tensor in halves]

    def test_levels_that_float16_holds_stay_exact(self):
        report = pq.export(network(2.0**-6), self.path, constants="float16")
        forms = {(row.form, row.bits, row.reason) for row in report.rows}
        self.assertEqual(forms, {("float16", 16, "")})
        self.assertIn("exactly", report.notes[0])
        self.assertLess(report.max_error, 1e-6)
        for values in self.stored():
            np.testing.assert_array_equal(np.unique(64 * values), [-3, -1, 1, 3])

    def test_others_are_the_nearest_and_the_report_says_so(self):
        report = pq.export(network(0.1), self.path, constants="float16", strict=True)
        self.assertEqual({row.reason for row in report.rows}, {"rounded to float16"})
        levels = np.float32(0.1) * np.float32([-3, -1, 1, 3])
        expected = levels.astype(np.float16).astype(np.float32)
        moved = np.abs(expected - levels).max() / levels.max()
        self.assertIn(f"{moved:.1e}", report.notes[0])
        self.assertLess(report.max_error, 1e-3)
        for values in self.stored():
            np.testing.assert_array_equal(np.unique(values), expected)

    def test_the_file_is_half_of_the_float_one(self):
        model = keras.Sequential([keras.Input((256,)), layers.Dense(256), layers.Dense(256)])
        report = pq.export(model, self.path, constants="float16")
        self.assertBetween(report.ratio, 0.5, 0.52)
        self.assertEqual({row.form for row in litert.inspect(self.path).rows}, {"float16"})

    @parameterized.parameters(1e5, 1e-7)
    def test_what_float16_cannot_hold_stays_float_with_a_warning(self, factor):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report = pq.export(network(factor), self.path, constants="float16", verify=False)
        self.assertEqual({row.form for row in report.rows}, {"float32"})
        self.assertEqual(report.notes, ())
        self.assertTrue(any("outside of what float16 holds" in str(w.message) for w in caught))

    def test_other_profiles_and_types_are_refused(self):
        model = network(0.5)
        for profile in ("portable", "small", "balanced", "dynamic", "static"):
            with self.assertRaisesRegex(ValueError, f"constants='float16'.*Received.*{profile}"):
                pq.export(model, self.path, profile, constants="float16")
        with self.assertRaisesRegex(ValueError, "Received: 'bfloat16'"):
            pq.export(model, self.path, constants="bfloat16")
        self.assertFalse(self.path.exists())

    def test_the_command_and_preview_take_it(self):
        network(0.5).save(self.folder / "model.keras")
        source = str(self.folder / "model.keras")
        self.assertEqual(command.main([source, str(self.path), "--constants=float16"]), 0)
        report = litert.preview(source, constants="float16")
        self.assertEqual(report.bytes, self.path.stat().st_size)
