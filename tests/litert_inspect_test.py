"""Inspection: the report of an export read back from its file, and damaged files refused."""

import contextlib
import inspect
import io
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tf_proxquant as pq
from tf_proxquant import litert
from tf_proxquant.litert import __main__ as command
from tf_proxquant.litert import flagging
from tf_proxquant.litert.read import flatbuffer, untrusted


def mixed_model():
    """One layer for each form: two levels, three, three uneven, four uneven, off the grid."""
    generator = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((64,)), *(keras.layers.Dense(64) for _ in range(5))])
    choices = [(-0.1, 0.1), (-0.1, 0, 0.1), (-0.13, 0, 0.1), (-0.171, -0.05, 0.041, 0.13)]
    for layer, levels in zip(model.layers, choices, strict=False):
        layer.kernel.assign(generator.choice(np.float32(levels), layer.kernel.shape))
    return model


FORMS = ["1 bit", "int2", "int2 clamp", "int2 table", "float32"]


class InspectTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.path = cls.folder / "model.tflite"
        cls.model = mixed_model()
        cls.report = litert.export(cls.model, cls.path, "small", max_ulps=0, max_slowdown=math.inf)
        cls.content = cls.path.read_bytes()

    def inspect_bytes(self, content):
        path = self.folder / "other.tflite"
        path.write_bytes(content)
        return litert.inspect(path)

    def test_every_form_is_chosen_and_recognised(self):
        found = litert.inspect(self.path)
        self.assertEqual([row.form for row in self.report.rows], FORMS)
        self.assertEqual([row.form for row in found.rows], FORMS)
        self.assertEqual([row.num_levels for row in found.rows], [2, 3, 3, 4, None])
        self.assertEqual([row.shape for row in found.rows], [(64, 64)] * 5)
        self.assertEqual([row.bits for row in found.rows], [1, 2, 2, 2, 32])

    def test_tables_and_static_kernels_are_called_what_the_export_called_them(self):
        words = keras.Input((5,), dtype="int32")
        table = keras.layers.Embedding(300, 24)(words)
        model = keras.Model(words, keras.layers.Dense(7)(keras.layers.Flatten()(table)))
        pq.snap(model, pq.Binary("mean", axis=-1))
        data = np.random.default_rng(0).integers(0, 300, (32, 5)).astype("int32")
        for profile, options in (("fast", {}), ("static", {"representative_data": data})):
            path = self.folder / f"{profile}.tflite"
            report = litert.export(model, path, profile, **options)
            found = [(row.form, row.shape) for row in litert.inspect(path).rows]
            self.assertEqual(found, [(row.form, row.shape) for row in report.rows])
        with self.assertRaisesRegex(ValueError, "word numbers.*below the rows"):
            litert.predict(path, data + 300)

    def test_the_report_prints_and_serializes(self):
        self.assertIn("int2 clamp", str(self.report))
        self.assertIn("too many distinct values", str(self.report))
        numbers = json.loads(json.dumps(self.report.to_dict()))
        self.assertEqual(numbers["bytes"], self.path.stat().st_size)
        self.assertLess(numbers["max_error"], 2e-5)

    def test_a_missing_file_is_said_to_be_missing(self):
        for error in (ValueError, FileNotFoundError):
            with self.assertRaisesRegex(error, "no file at .*nothing.tflite"):
                litert.inspect(self.folder / "nothing.tflite")

    def test_empty_and_foreign_files_are_refused(self):
        cases = [(b"", "0 bytes"), (b"PK\3\4 a zip archive", "TFL3"), (bytes(100), "TFL3")]
        for content, message in cases:
            with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                self.inspect_bytes(content)

    def test_truncated_files_are_refused(self):
        for size in np.linspace(8, len(self.content) - 1, 40).astype(int):
            with self.subTest(size=size), self.assertRaisesRegex(ValueError, "damaged|no .tflite"):
                self.inspect_bytes(self.content[:size])

    def test_damaged_files_give_a_report_or_a_value_error(self):
        generator = np.random.default_rng(0)
        refused = 0
        structure = len(self.content) // 8  # where most of the offsets are
        for _ in range(150):
            content = bytearray(self.content)
            for place in generator.integers(8, structure, 6):
                content[place] = generator.choice([0, 1, 127, 128, 255])
            try:
                self.inspect_bytes(content)
            except ValueError:
                refused += 1
        self.assertGreater(refused, 30)

    def test_a_small_file_cannot_unpack_into_a_large_one(self):
        model = flatbuffer.Model(self.content)
        model.model.subgraphs = [flatbuffer._PackedOnce(model.subgraphs[0])] * 5000
        builder = flatbuffer._SharingBuilder(1024)
        builder.Finish(model.model.Pack(builder), flatbuffer.FILE_IDENTIFIER)
        content = bytes(builder.Output())
        self.assertLess(len(content), len(self.content) + 25_000)
        with self.assertRaisesRegex(ValueError, "more tables than"):
            untrusted.load(content)

    def test_indices_outside_their_lists_are_refused(self):
        def damage(model):
            yield model.subgraphs[0].operators[0].inputs, 0, 10_000
            yield model.subgraphs[0].operators[0].outputs, 0, -7
            yield vars(model.subgraphs[0].tensors[1]), "buffer", 999
            yield vars(model.subgraphs[0].operators[0]), "opcodeIndex", 77

        for case in range(4):
            model = flatbuffer.Model(self.content)
            holder, key, value = list(damage(model))[case]
            holder[key] = value
            with self.subTest(case), self.assertRaisesRegex(ValueError, "index is outside"):
                untrusted.load(model.to_bytes())

    def test_export_refuses_a_damaged_source(self):
        source = self.folder / "cut.tflite"
        source.write_bytes(self.content[:3000])
        with self.assertRaisesRegex(ValueError, "damaged"):
            litert.export(source, self.folder / "out.tflite")
        self.assertFalse((self.folder / "out.tflite").exists())


class SummaryTest(unittest.TestCase):
    def test_levels_bits_and_memory_of_each_kernel(self):
        printed = []
        found = litert.summary(mixed_model(), printed.append)
        kernels = [row for row in found.rows if row.path.endswith("kernel")]
        self.assertEqual([row.num_levels for row in kernels], [2, 3, 3, 4, None])
        self.assertEqual([row.bits for row in kernels], [1, 2, 2, 2, 32])
        self.assertEqual(kernels[0].packed_bytes, 64 * 64 // 8 + 2 * 4)
        self.assertEqual(kernels[4].packed_bytes, 4 * 64 * 64)
        self.assertEqual(found.num_bytes, 5 * 4 * (64 * 64 + 64))
        self.assertEqual(printed, [str(found)])
        self.assertIn(f"{found.packed_bytes:,}", printed[0])

    def test_levels_of_a_channel_each(self):
        model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(8, use_bias=False)])
        signs = np.random.default_rng(0).choice([-1, 1], (100, 8))
        model.layers[0].kernel.assign(signs * np.linspace(0.1, 1, 8))
        (row,) = litert.summary(model, None).rows
        self.assertEqual((row.num_levels, row.axis, row.bits), (2, 1, 1))

    def test_an_unbuilt_model_is_refused(self):
        with self.assertRaisesRegex(ValueError, "built keras.Model"):
            litert.summary(keras.Sequential([keras.layers.Dense(3)]))


class CommandTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def run_command(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = command.main([str(a) for a in arguments])
        return status, out.getvalue(), err.getvalue()

    def test_a_saved_model_is_exported_and_shown(self):
        mixed_model().save(self.folder / "model.keras")
        path = self.folder / "model.tflite"
        source, smallest = self.folder / "model.keras", ("--profile=small", "--max_slowdown=inf")
        status, out, _ = self.run_command(source, path, *smallest)
        self.assertEqual(status, 0)
        self.assertIn("int2 clamp", out)
        status, out, _ = self.run_command(path, "--json")
        self.assertEqual(status, 0)
        self.assertEqual([row["form"] for row in json.loads(out)["rows"]], FORMS)

    def test_a_plan_is_printed_and_nothing_written(self):
        mixed_model().save(self.folder / "model.keras")
        source = self.folder / "model.keras"
        smallest = "--profile=small", "--max_slowdown=inf"
        status, out, _ = self.run_command(source, *smallest, "--plan", "--json")
        self.assertEqual(status, 0)
        planned = json.loads(out)
        self.assertEqual([row["form"] for row in planned["rows"]], FORMS)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["model.keras"])
        self.run_command(source, self.folder / "model.tflite", *smallest, "--noverify")
        self.assertEqual(planned["bytes"], (self.folder / "model.tflite").stat().st_size)

    def test_labels_come_from_a_file_with_or_without_a_byte_order_mark(self):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.save(self.folder / "model.keras")
        arguments = self.folder / "model.keras", self.folder / "m.tflite"
        for encoding in ("utf-8", "utf-8-sig"):
            (self.folder / "names.txt").write_text("ja\nnein\n", encoding)
            status, out, _ = self.run_command(*arguments, f"--labels={self.folder / 'names.txt'}")
            self.assertEqual((status, "2 labels: ja, nein" in out), (0, True), encoding)
            (self.folder / "labels.txt").unlink()
        (self.folder / "names.txt").write_text("ja\nnein\n", "utf-16")
        status, _, err = self.run_command(*arguments, f"--labels={self.folder / 'names.txt'}")
        self.assertEqual((status, "UTF-8. Received: " in err), (1, True), err)
        status, _, err = self.run_command(*arguments, f"--labels={self.folder / 'no.txt'}")
        self.assertEqual((status, "no.txt'. Expected a text file" in err), (1, True), err)

    def test_data_to_calibrate_on_come_from_a_file(self):
        model = mixed_model()
        model.save(self.folder / "model.keras")
        data = np.random.default_rng(0).normal(size=(20, 64))
        np.savez(self.folder / "data.npz", x=data)
        arguments = self.folder / "model.keras", self.folder / "m.tflite", "--profile=static"
        status, _, err = self.run_command(*arguments)
        self.assertEqual((status, "representative_data" in err), (1, True))
        status, out, _ = self.run_command(*arguments, f"--data={self.folder / 'data.npz'}")
        self.assertEqual(status, 0)
        self.assertIn("int8 static", out)
        np.savez(self.folder / "empty.npz")
        status, _, err = self.run_command(*arguments, f"--data={self.folder / 'empty.npz'}")
        self.assertEqual((status, "holds none" in err), (1, True))
        np.savez(self.folder / "objects.npz", np.array([{}, 3], object))
        status, _, err = self.run_command(*arguments, f"--data={self.folder / 'objects.npz'}")
        self.assertEqual((status, "objects.npz' (Object arrays" in err), (1, True), err)

    def test_errors_are_one_line_and_a_status(self):
        # A process of its own: libraries write past Python as they are imported.
        command = [sys.executable, "-m", "tf_proxquant.litert", "none.keras", "a.tflite"]
        folder = str(pathlib.Path(__file__).parents[1])
        # Keras 3.13 uses what NumPy is about to change, as it is imported.
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONWARNINGS": "ignore"}
        found = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        self.assertEqual((found.returncode, found.stdout), (1, ""))
        self.assertRegex(found.stderr, "^error: There is no model file at .*none.keras.*\n$")

    def test_wrong_usage_is_told_from_what_cannot_be_done(self):
        for arguments, message in (
            ([], "Give a model"),
            (["a.keras", "a.tflite", "--plan"], "--plan writes nothing"),
            (["a.keras", "--c_array"], "--c_array needs"),
            (["a.keras", "--profile=smal"], "<fast|portable|small"),
            (["a.keras", "--nonsense"], "nonsense"),
            (["a.keras"], "a.keras is to be exported: give the path"),
            (["a.tflite", "--profile=small"], "--profile says how to export"),
            (["a.tflite", "--data=a.npz"], "--representative_data says how to export"),
            (["a.keras", "a.tflite", "--value_range=a,b"], "value_range=a,b: could not convert"),
        ):
            status, out, err = self.run_command(*arguments)
            self.assertEqual((status, out), (2, ""))
            self.assertIn(message, err)

    def test_flags_are_the_options_of_export(self):
        status, out, _ = self.run_command("--help")
        options = list(inspect.signature(litert.export).parameters.values())
        taken = [p for p in options if p.name not in ("model_or_path", "path", "input_signature")]
        values = command.define_flags()
        values([""])
        for parameter in taken:
            self.assertRegex(out, rf"--(\[no\])?{parameter.name}: ")
            self.assertEqual(values[parameter.name].value, parameter.default)
        self.assertEqual(status, 0)
        values(["", "--value_range=-1,1", "--max_slowdown=inf", "--nostrip_names"])
        self.assertEqual(flagging.given(values), ["strip_names", "max_slowdown", "value_range"])
        given = flagging.options(values, {})
        self.assertEqual(given["value_range"], (-1.0, 1.0))
        self.assertEqual((given["max_slowdown"], given["strip_names"]), (math.inf, False))

    def test_a_batch_size_for_a_file_that_has_its_shapes_is_refused(self):
        path = self.folder / "model.tflite"
        litert.export(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]), path)
        for option in ({"batch_size": 1}, {"input_signature": [keras.InputSpec(shape=(1, 2))]}):
            with self.assertRaisesRegex(ValueError, f"`{next(iter(option))}`.*Keras model only"):
                litert.export(path, self.folder / "other.tflite", **option)


if __name__ == "__main__":
    unittest.main()
