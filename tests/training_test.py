"""Whole runs of train.py, on real data in real processes."""

import json
import os
import pathlib
import tempfile
import unittest

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from tests.training_cases import LIKE_DIGITS, SHORT, SMALL, finish_run, run_train, start_train
from tf_proxquant import datasets, litert, training
from tf_proxquant.training.workdir import Workdir


class RunTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        finish_run(cls, SHORT)

    def test_the_last_line_is_the_report_and_the_figures_belong_together(self):
        report = self.report
        self.assertEqual(report, json.loads((self.workdir / "report.json").read_text()))
        self.assertEqual(report["dataset"], "digits")
        self.assertEqual((report["model"], report["method"]), ("resnet8", "memory"))
        self.assertEqual(report["quantizer"], "binary")
        self.assertEqual(report["on_grid"], 1.0)
        self.assertGreater(report["full_precision_accuracy"], 0.5)
        self.assertAlmostEqual(report["tflite_accuracy"], report["quantized_accuracy"])
        self.assertTrue(0 < report["sign_change"] < 0.5)
        self.assertGreater(report["wall_seconds"], 0)
        self.assertEqual(report["tflite_bytes"], os.path.getsize(report["tflite_path"]))
        self.assertLess(report["tflite_bytes"], 0.35 * report["float_tflite_bytes"])

    def test_everything_is_in_the_workdir_and_nothing_is_left_over(self):
        found = {path.name for path in self.workdir.iterdir()}
        expected = {
            "settings.json",
            "metrics.jsonl",
            "metrics.csv",
            "histograms.jsonl",
            "full_precision.keras",
            "quantized.keras",
            "model.keras",
            "model.tflite",
            "export.json",
            "labels.txt",
            "report.json",
            "curves.png",
            "weights.png",
        }
        self.assertEqual(found, expected)
        rows = [json.loads(line) for line in (self.workdir / "metrics.jsonl").open()]
        self.assertEqual(
            [(r["phase"], r["epoch"]) for r in rows],
            [("full_precision", 0), ("full_precision", 1)]
            + [("quantized", epoch) for epoch in range(3)],
        )
        self.assertIn("quantized_accuracy", rows[-1])
        settings = json.loads((self.workdir / "settings.json").read_text())
        self.assertEqual(settings["settings"]["seed"], 0)
        self.assertIn("keras", settings["versions"])

    def test_the_saved_model_is_on_the_grid_and_scores_what_the_tflite_scores(self):
        model = keras.saving.load_model(self.workdir / "model.keras")
        quantized = [v for v, _ in model.optimizer.quantized_variables]
        self.assertEqual(len(quantized), 8)
        for variable in quantized:
            channels = keras.ops.convert_to_numpy(variable).reshape(-1, variable.shape[-1]).T
            self.assertEqual(max(len(np.unique(channel)) for channel in channels), 2)
        images = datasets.load("digits").x_test[:5].astype("float32")
        found = litert.predict(str(self.workdir / "model.tflite"), images)
        np.testing.assert_allclose(found, model.predict(images, verbose=0), rtol=1e-4, atol=1e-4)

    def test_the_file_classifies_the_pixels_of_the_data_set_as_well_as_reported(self):
        digits = datasets.load("digits")
        interpreter = Interpreter(str(self.workdir / "model.tflite"))
        (given,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.allocate_tensors()
        right = 0
        for pixels, label in zip(digits.x_test, digits.y_test, strict=True):
            interpreter.set_tensor(given["index"], pixels[np.newaxis].astype(given["dtype"]))
            interpreter.invoke()
            found = interpreter.get_tensor(scores["index"])[0]
            self.assertAlmostEqual(float(found.sum()), 1, places=5)
            right += int(found.argmax() == label)
        self.assertEqual(right / len(digits.y_test), self.report["tflite_accuracy"])

    def test_the_report_says_what_goes_in_and_what_comes_out(self):
        pixels, scores = self.report["input"], self.report["output"]
        self.assertEqual((pixels["shape"], pixels["dtype"]), ([None, 8, 8, 1], "float32"))
        self.assertEqual((pixels["range"], pixels["channels"]), ([0, 16], "grey"))
        self.assertEqual(scores["shape"], [None, 10])
        labels = (self.workdir / "labels.txt").read_text().splitlines()
        self.assertEqual(labels, [str(digit) for digit in range(10)])
        self.assertEqual(scores["labels"], labels)
        (found,) = litert.inspect(self.workdir / "model.tflite").inputs
        self.assertEqual((found.shape, found.range), ((None, 8, 8, 1), (0, 16)))

    def test_an_unfinished_run_of_earlier_code_is_refused_in_one_sentence(self):
        workdir = pathlib.Path(self.folder.name, "earlier")
        workdir.mkdir()
        settings = json.loads((self.workdir / "settings.json").read_text())
        del settings["format"]
        (workdir / "settings.json").write_text(json.dumps(settings))
        result = run_train(*SHORT, f"--workdir={workdir}", "--resume")
        self.assertEqual(result.returncode, 1)
        self.assertIn("begun by another version", result.stderr)

    def test_a_killed_run_resumes_to_the_same_bits(self):
        expected = keras.saving.load_model(self.workdir / "model.keras").get_weights()
        workdir = pathlib.Path(self.folder.name, "killed")
        killed = run_train(*SHORT, f"--workdir={workdir}", kill_after=1)
        self.assertEqual(killed.returncode, -9, killed.stderr)
        killed = run_train(*SHORT, f"--workdir={workdir}", "--resume", kill_after=3)
        self.assertEqual(killed.returncode, -9, killed.stderr)
        resumed = run_train(*SHORT, f"--workdir={workdir}", "--resume")
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        found = keras.saving.load_model(workdir / "model.keras").get_weights()
        for value, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(value, other)
        for name in ("metrics.jsonl", "histograms.jsonl"):
            self.assertEqual((workdir / name).read_text(), (self.workdir / name).read_text())
        report = json.loads(resumed.stdout.splitlines()[-1])
        for key in ("full_precision_accuracy", "quantized_accuracy", "sign_change"):
            self.assertEqual(report[key], self.report[key])

    def test_a_folder_in_use_is_not_overwritten(self):
        before = (self.workdir / "report.json").read_text()
        result = run_train(*SHORT, f"--workdir={self.workdir}")
        self.assertEqual(result.returncode, 1)
        self.assertIn("--resume", result.stderr)
        self.assertEqual((self.workdir / "report.json").read_text(), before)

    def test_resuming_with_other_settings_is_refused(self):
        result = run_train(*SHORT, f"--workdir={self.workdir}", "--resume", "--seed=7")
        self.assertEqual(result.returncode, 1)
        self.assertIn("seed: 0 -> 7", result.stderr)

    def test_a_model_can_start_from_an_earlier_one(self):
        workdir = pathlib.Path(self.folder.name, "second")
        settings = training.Settings(
            workdir=str(workdir),
            init_from=str(self.workdir / "full_precision.keras"),
            method="binaryconnect",
            quantizer="ternary",
            epochs=1,
            freeze_epoch=1,
            batch_size=512,
        )
        report = training.run(settings)
        self.assertAlmostEqual(
            report["full_precision_accuracy"], self.report["full_precision_accuracy"]
        )
        self.assertEqual(report["on_grid"], 1.0)


class JaxTest(unittest.TestCase):
    def test_a_run_on_jax_exports_by_itself(self):
        with tempfile.TemporaryDirectory() as folder:
            result = start_train(
                *SHORT, *LIKE_DIGITS, f"--workdir={folder}/run",
                environment={"KERAS_BACKEND": "jax"},
            )  # fmt: skip
            self.assertEqual(result.returncode, 0, result.stderr)
            report = json.loads(result.stdout.splitlines()[-1])
            self.assertAlmostEqual(report["tflite_accuracy"], report["quantized_accuracy"])
            exported = json.loads(pathlib.Path(folder, "run", "export.json").read_text())
            self.assertEqual({row["form"] for row in exported["rows"]}, {"int8"}, exported["rows"])


class MethodsTest(unittest.TestCase):
    def test_every_method_and_quantizer_ends_on_its_grid(self):
        cases = [
            ("proxquant", "uniform"),
            ("memory", "ternary"),
            ("binaryrelax", "ternary"),
            ("parq", "multibit"),
        ]
        cases += [("full_precision", "binary")]
        for method, quantizer in cases:
            with self.subTest(f"{method} {quantizer}"), tempfile.TemporaryDirectory() as folder:
                settings = training.Settings(
                    workdir=os.path.join(folder, "run"),
                    model=SMALL,
                    method=method,
                    quantizer=quantizer,
                    edge_bits=32,  # both layers have the quantizer then
                    full_precision_epochs=0,
                    epochs=1,
                    freeze_epoch=None if method == "full_precision" else 1,
                    batch_size=512,
                )
                report = training.run(settings)
                self.assertEqual(report.get("on_grid"), None if method == "full_precision" else 1.0)


class WorkdirTest(unittest.TestCase):
    def test_a_write_that_fails_leaves_the_old_file_and_no_debris(self):
        with tempfile.TemporaryDirectory() as folder:
            workdir = Workdir(folder)
            workdir.write_json("report.json", {"a": 1})
            with self.assertRaises(TypeError):
                workdir.write_json("report.json", {"a": object()})
            self.assertEqual([p.name for p in pathlib.Path(folder).iterdir()], ["report.json"])
            self.assertEqual(json.loads((workdir / "report.json").read_text()), {"a": 1})
