"""Whole runs of train.py, on real data in real processes."""

import copy
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import keras
import numpy as np
from absl import flags
from ai_edge_litert.interpreter import Interpreter

import train
from tf_proxquant import datasets, litert, training
from tf_proxquant.training import phases
from tf_proxquant.training.images import ImageTask
from tf_proxquant.training.workdir import Workdir

ROOT = pathlib.Path(__file__).parents[1]
SHORT = ["--full_precision_epochs=2", "--epochs=3", "--freeze_epoch=2", "--batch_size=128"]

# Runs train.py with a checkpoint after each epoch, and kills the process, as `kill -9` does,
# when it has reported so many epochs.
KILLED = """
import os, signal, sys
from tf_proxquant.training import workdir
workdir._CHECKPOINT_SECONDS = -1
epochs_left = int(sys.argv.pop(1))
report = workdir._print_progress
def report_and_die(*arguments):
    global epochs_left
    report(*arguments)
    epochs_left -= 1
    if epochs_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
workdir._print_progress = report_and_die
import train
from absl import app
app.run(train.main)
"""


def run_train(*flags, kill_after=None, environment=None):
    command = ["train.py"] if kill_after is None else ["-c", KILLED, str(kill_after)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.run(
        [sys.executable, *command, *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def finish_run(test_class, flags):
    """Gives a test class a finished run: its folder, workdir, result and report."""
    test_class.folder = tempfile.TemporaryDirectory()
    test_class.addClassCleanup(test_class.folder.cleanup)
    test_class.workdir = pathlib.Path(test_class.folder.name, "run")
    test_class.result = run_train(*flags, f"--workdir={test_class.workdir}")
    assert test_class.result.returncode == 0, test_class.result.stderr
    test_class.report = json.loads(test_class.result.stdout.splitlines()[-1])


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
            result = run_train(
                *SHORT, f"--workdir={folder}/run", environment={"KERAS_BACKEND": "jax"}
            )
            self.assertEqual(result.returncode, 0, result.stderr)
            report = json.loads(result.stdout.splitlines()[-1])
            self.assertAlmostEqual(report["tflite_accuracy"], report["quantized_accuracy"])
            self.assertLess(report["tflite_bytes"], 0.35 * report["float_tflite_bytes"])


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
                    method=method,
                    quantizer=quantizer,
                    full_precision_epochs=0,
                    epochs=1,
                    freeze_epoch=1,
                    batch_size=512,
                )
                report = training.run(settings)
                self.assertEqual(report.get("on_grid"), None if method == "full_precision" else 1.0)


class SettingsTest(unittest.TestCase):
    def test_bad_values_are_refused_with_what_was_received(self):
        cases = {
            "epochs=-3": {"epochs": -3},
            "full_precision_epochs=-1": {"full_precision_epochs": -1},
            "batch_size=0": {"batch_size": 0},
            "seed=-1": {"seed": -1},
            "learning_rate=nan": {"learning_rate": float("nan")},
            "learning_rate=0": {"learning_rate": 0.0},
            "full_precision_learning_rate=0": {"full_precision_learning_rate": 0.0},
            "decay='often'": {"decay": "often"},
            "decay='5,'": {"decay": "5,"},
            "width=0": {"width": 0},
            "strength=-1": {"strength": -1.0},
            "bits=9": {"bits": 9},
            "freeze_epoch=51": {"freeze_epoch": 51},
            "dropout=1": {"dropout": 1.0, "model": "lstm"},
            "optimizer='sgd'": {"restart_optimizer": True, "optimizer": "sgd"},
            "model='lstm'": {"restart_optimizer": True, "model": "lstm"},
            "'static'": {"model": "lstm", "export_profile": "static"},
            "'mirrored' is for images": {"model": "lstm", "distribution": "mirrored"},
            "'vgg'": {"model": "vgg"},
            "Did you mean MobileNetV2?": {"model": "mobilenetv2"},
            "nowhere.keras'": {"model": "nowhere.keras"},
            "imagenet' is for models of keras.applications": {"weights": "imagenet"},
            "imagenet or an existing file": {"weights": "nowhere.h5"},
            "HEIGHTxWIDTH": {"image_size": "big"},
            "image_size='0'": {"image_size": "0"},
            "'squeeze'": {"resize": "squeeze"},
            "edge_bits=9": {"edge_bits": 9},
            "head_epochs=-1": {"head_epochs": -1},
            "'resnet21'": {"model": "resnet21"},
            "'magic'": {"method": "magic"},
            "'l7'": {"regularizer": "l7"},
            "memory=1.5": {"memory": 1.5},
            "method='parq'": {"memory": 0.5, "method": "parq"},
            "'octal'": {"quantizer": "octal"},
            "'lamb'": {"optimizer": "lamb"},
            "'tiny'": {"export_profile": "tiny"},
            "'cloud'": {"distribution": "cloud"},
            "nowhere.keras": {"init_from": "nowhere.keras"},
        }
        for pattern, arguments in cases.items():
            with self.subTest(pattern), self.assertRaisesRegex(ValueError, pattern):
                training.Settings(**arguments)

    def test_the_learning_rate_falls_as_the_settings_say(self):
        cases = {
            "cosine": [0.4, 0.2 + 0.2 * 2**-0.5, 0.2, 0.2 - 0.2 * 2**-0.5],
            "constant": [0.4] * 4,
            "1,3": [0.4, 0.04, 0.04, 0.004],
        }
        digits = datasets.load("digits")
        for decay, expected in cases.items():
            settings = training.Settings(learning_rate=0.4, decay=decay)
            schedule = ImageTask(settings, digits).rate_callback("quantized", 4, []).schedule
            np.testing.assert_allclose([schedule(i, None) for i in range(4)], expected)

    def test_the_quantized_phase_has_a_learning_rate_of_its_own(self):
        for arguments, expected in (
            ({}, (0.01, 0.02)),
            ({"method": "proxquant"}, (0.01, 0.05)),
            ({"method": "full_precision"}, (0.01, 0.01)),
            ({"optimizer": "sgd", "full_precision_learning_rate": 0.1}, (0.1, 0.1)),
            ({"learning_rate": 0.02}, (0.01, 0.02)),
            ({"quantizer": "multibit"}, (0.01, 0.02)),
            ({"quantizer": "multibit", "bits": 3}, (0.01, 0.01)),
        ):
            task = ImageTask(training.Settings(**arguments), datasets.load("digits"))
            found = [
                float(task.inner_optimizer(phase).learning_rate)
                for phase in ("full_precision", "quantized")
            ]
            np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_the_default_method_is_the_memory_but_for_many_levels_and_published_settings(self):
        for arguments, expected in (
            ({}, ("memory", 0.99, 45)),
            ({"quantizer": "ternary"}, ("memory", 0.997, 45)),
            ({"quantizer": "multibit"}, ("memory", 0.997, 45)),
            ({"quantizer": "uniform", "bits": 4}, ("proxquant", None, 33)),
            ({"regularizer": "l1"}, ("proxquant", None, 33)),
            ({"strength": 1e-4}, ("proxquant", None, 33)),
            ({"method": "parq"}, ("parq", None, 33)),
            ({"model": "lstm"}, ("memory", 0.998, 10)),
            ({"memory": 0.5, "freeze_epoch": 20}, ("memory", 0.5, 20)),
        ):
            found = training.Settings(**arguments)
            self.assertEqual((found.method, found.memory, found.first_frozen_epoch), expected)

    def test_the_memory_reaches_the_optimizer(self):
        settings = training.Settings(memory=0.75)
        task = ImageTask(settings, datasets.load("digits"))
        optimizer = phases.quantizing_optimizer(settings, task, task.make_model())
        self.assertEqual((optimizer.memory, optimizer.prox), (0.75, "piecewise_affine"))
        self.assertEqual(optimizer.freeze_step, 45 * 45)

    def test_the_main_phase_alone_restarts_its_optimizer_at_each_epoch(self):
        for method, expected in (("parq", (None, 45)), ("full_precision", (45, 45))):
            settings = training.Settings(method=method, restart_optimizer=True)
            task = ImageTask(settings, datasets.load("digits"))
            optimizers = map(task.inner_optimizer, ("full_precision", "quantized"))
            found = tuple(getattr(optimizer, "every", None) for optimizer in optimizers)
            self.assertEqual(found, expected)  # 1437 images, 32 at a time

    def test_the_papers_levels_and_box_are_one_flag_away(self):
        published = training.Settings(per_channel=False)
        self.assertEqual(published.make_quantizer().fixed_level, 1.0)
        self.assertEqual(published.clip, 1.0)
        self.assertIsNone(training.Settings().clip)
        self.assertEqual(training.Settings().make_quantizer().axis, -1)

    def test_train_py_prints_one_clear_line_and_no_traceback(self):
        for arguments, expected in (
            (["--epochs=-3"], "epochs=-3"),
            (["--learning_rate=fast"], "learning_rate"),
            (["--dataset=cifar10", "--data_dir=/nowhere"], "--download"),
            (["--workdir=/dev/null/run"], "workdir"),
        ):
            with self.subTest(arguments):
                result = run_train(*arguments)
                self.assertIn(result.returncode, (1, 2))
                self.assertIn(expected, result.stderr)
                self.assertNotIn("Traceback", result.stderr)
                self.assertEqual(result.stdout, "")

    def test_the_help_of_the_command_lists_its_flags(self):
        result = run_train("--help")
        self.assertIn("--dataset:", result.stdout)
        self.assertNotIn("--process_id:", result.stdout)

    def test_resuming_where_no_run_is_is_refused(self):
        with self.assertRaisesRegex(ValueError, "no run to resume"):
            training.run(training.Settings(workdir="/nowhere", resume=True))

    def test_every_setting_is_a_flag_and_what_is_not_given_has_its_default(self):
        values = copy.deepcopy(flags.FLAGS)
        values(["train.py"])
        self.assertEqual(train.settings(values), training.ImageSettings())
        values(["train.py", "--model=lstm"])
        self.assertEqual(train.settings(values), training.TextSettings())
        for kind in (training.ImageSettings, training.TextSettings):
            for field in dataclasses.fields(kind):
                self.assertIn(field.metadata["help"], values[field.name].help)

    def test_help_shows_at_most_25_settings_of_images(self):
        shown = {flag.name for flag in flags.FLAGS.get_key_flags_for_module("train")}
        of_images = shown & {field.name for field in dataclasses.fields(training.ImageSettings)}
        self.assertLessEqual(len(of_images), 25)
        self.assertTrue({"dataset", "model", "quantizer", "epochs"} <= of_images)
        self.assertFalse({"restart_optimizer", "process_id"} & of_images)

    def test_settings_of_images_and_of_text_are_apart(self):
        self.assertIsInstance(training.Settings(model="lstm"), training.TextSettings)
        self.assertIsInstance(training.Settings(), training.ImageSettings)
        for pattern, values in {
            "hidden=3 is for text.*model='resnet8'": {"hidden": 3},
            "image_size='64' is for images.*model='lstm'": {"image_size": "64", "model": "lstm"},
        }.items():
            with self.assertRaisesRegex(ValueError, pattern):
                training.Settings(**values)

    def test_models_of_ones_own_have_defaults_of_their_own(self):
        own = training.Settings(model="MobileNetV2")
        self.assertEqual((own.quantizer, own.bits, own.edge_bits), ("uniform", 4, 8))
        self.assertEqual((own.full_precision_learning_rate, own.epochs), (0.001, 50))
        begun = training.Settings(model="MobileNetV2", weights="imagenet")
        self.assertEqual((begun.full_precision_learning_rate, begun.epochs), (0.0001, 20))
        published = training.Settings()
        self.assertEqual((published.quantizer, published.edge_bits), ("binary", None))
        self.assertEqual(training.Settings(image_size="120x160").size, (120, 160))
        self.assertEqual(training.Settings(image_size="64").size, (64, 64))


class WorkdirTest(unittest.TestCase):
    def test_a_write_that_fails_leaves_the_old_file_and_no_debris(self):
        with tempfile.TemporaryDirectory() as folder:
            workdir = Workdir(folder)
            workdir.write_json("report.json", {"a": 1})
            with self.assertRaises(TypeError):
                workdir.write_json("report.json", {"a": object()})
            self.assertEqual([p.name for p in pathlib.Path(folder).iterdir()], ["report.json"])
            self.assertEqual(json.loads((workdir / "report.json").read_text()), {"a": 1})
