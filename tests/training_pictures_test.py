"""Whole runs of train.py on a folder of pictures, judged by code that knows nothing of it."""

import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

from tests.training_cases import ROOT, run_train, start_train

# The colours of the classes; only the test has pictures of other sizes.
COLORS = {"blue": (40, 60, 200), "grün": (30, 190, 60), "красный": (210, 50, 40)}
MODULE = """
import keras
from keras import layers

def small(shape, num_classes):
    return keras.Sequential([
        keras.Input(shape),
        layers.Conv2D(16, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.2),
        layers.Conv2D(16, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(num_classes, activation="softmax"),
    ])
"""
FLAGS = ["--model=colors:small", "--full_precision_epochs=4", "--epochs=4", "--batch_size=16"]


def write_pictures(folder):
    """Pictures of all kinds: train and test of 12 x 12, and the test once more in other sizes."""
    random = np.random.default_rng(0)
    for number in range(40):
        for name, color in COLORS.items():
            size = (12, 12)
            pixels = random.normal(color, 60, (*size, 3)).clip(0, 255).astype("uint8")
            picture = Image.fromarray(pixels)
            kind = ("png", "jpg", "bmp", "gif")[number % 4]
            if number % 8 == 1:
                picture = picture.convert("CMYK")
            part = "test" if number % 4 == 3 or number % 8 == 0 else "train"
            path = folder / "small" / part / name / f"{number}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            large = ImageOps.contain(Image.fromarray(pixels), (90, 90), Image.Resampling.BICUBIC)
            other = folder / "large" / name / f"{number}.jpg"
            other.parent.mkdir(parents=True, exist_ok=True)
            large.crop((0, 0, 90, 70 + number % 20)).save(other)


def score(model, pictures):
    """Accuracy of a .tflite file on pictures by class, with Pillow and LiteRT alone."""
    labels = sorted(path.name for path in pictures.iterdir())
    interpreter = Interpreter(str(model))
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    _, height, width, _ = taken["shape"]
    right = []
    for path in sorted(pictures.rglob("*.*")):
        picture = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        interpreter.set_tensor(taken["index"], np.asarray(picture, taken["dtype"])[np.newaxis])
        interpreter.invoke()
        best = int(interpreter.get_tensor(given["index"]).argmax())
        right.append(labels[best] == path.parent.name)
    return float(np.mean(right))


class PicturesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        write_pictures(cls.folder)
        (cls.folder / "colors.py").write_text(MODULE)
        cls.environment = {"PYTHONPATH": f"{ROOT}:{cls.folder}"}
        cls.workdir = cls.folder / "run"
        cls.result = cls.train(cls.workdir, begin=start_train)
        assert cls.result.returncode == 0, cls.result.stderr
        cls.report = json.loads(cls.result.stdout.splitlines()[-1])

    @classmethod
    def train(cls, workdir, *flags, dataset="small", begin=run_train, **options):
        data = f"--dataset={cls.folder / dataset}"
        return begin(
            data, *FLAGS, f"--workdir={workdir}", *flags, environment=cls.environment, **options
        )

    def test_it_learns_the_colours_and_the_file_scores_what_is_reported(self):
        self.assertGreater(self.report["tflite_accuracy"], 0.8)
        found = score(self.workdir / "model.tflite", self.folder / "small" / "test")
        self.assertEqual(found, self.report["tflite_accuracy"])
        self.assertAlmostEqual(found, self.report["quantized_accuracy"], places=5)
        labels = (self.workdir / "labels.txt").read_text("utf-8").splitlines()
        self.assertEqual(labels, sorted(COLORS))

    def test_it_says_what_it_read_and_what_the_model_takes(self):
        self.assertEqual(self.report["images"], {"train": 75, "test": 45, "left_out": 0})
        self.assertEqual(self.report["input"]["shape"], [None, 12, 12, 3])
        self.assertIn("stretch", self.report["input"]["resize"])
        with (self.workdir / "pictures.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(len(rows), 120)
        self.assertIn({"part": "test", "class": "grün", "picture": "test/grün/3.gif"}, rows)

    def test_the_summary_comes_before_the_report_and_ends_in_the_command_that_classifies(self):
        lines = self.result.stdout.splitlines()
        shown = "\n".join(lines[:-1])
        for expected in ("full precision", "quantized", "model.tflite", "% of the float file",
                         "values from 0 to 255", str(self.workdir)):  # fmt: skip
            self.assertIn(expected, shown)
        self.assertEqual(self.result.stderr, "")
        hint = next(line for line in reversed(lines[:-1]) if line)
        self.assertIn("python examples/classify.py PICTURE... --model=", hint)

    def test_the_example_names_the_classes_of_pictures(self):
        pictures = [
            str(self.folder / "small/test/blue/3.gif"),
            str(self.folder / "large/blue/1.jpg"),
        ]
        result = subprocess.run(
            [sys.executable, "examples/classify.py", *pictures,
             f"--model={self.workdir / 'model.tflite'}"],
            cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        lines = result.stdout.splitlines()
        self.assertEqual(len(lines), 2, result.stderr)
        for line, path in zip(lines, pictures, strict=True):
            name, *classes = line.split("  ")
            self.assertEqual((name, len(classes)), (path, 3))
            self.assertRegex(classes[0], r"^blue 0\.\d{3}$")

    def test_pictures_of_any_size_score_the_same_where_pillow_resizes_them(self):
        result = self.train(self.folder / "large run", "--image_size=12", dataset="large")
        self.assertEqual(result.returncode, 0, result.stderr)
        report = json.loads(result.stdout.splitlines()[-1])
        with (self.folder / "large run" / "pictures.csv").open(encoding="utf-8") as file:
            chosen = [row["picture"] for row in csv.DictReader(file) if row["part"] == "test"]
        self.assertEqual(len(chosen), 24)
        for name in chosen:
            target = self.folder / "chosen" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(self.folder / "large" / name)
        found = score(self.folder / "large run" / "model.tflite", self.folder / "chosen")
        self.assertEqual(found, report["tflite_accuracy"])

    def test_a_killed_run_resumes_to_the_same_bits_without_its_flags(self):
        workdir = self.folder / "killed"
        killed = self.train(workdir, kill_after=6)
        self.assertEqual(killed.returncode, -9, killed.stderr)
        resumed = run_train("--resume", f"--workdir={workdir}", environment=self.environment)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        expected = keras.saving.load_model(self.workdir / "model.keras").get_weights()
        found = keras.saving.load_model(workdir / "model.keras").get_weights()
        for value, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(value, other)
        for name in ("metrics.jsonl", "model.tflite", "pictures.csv"):
            self.assertEqual((workdir / name).read_bytes(), (self.workdir / name).read_bytes())

    def test_broken_pictures_end_the_run_before_it_begins(self):
        broken = self.folder / "small" / "train" / "blue" / "broken.png"
        broken.write_bytes(b"")
        self.addCleanup(broken.unlink)
        workdir = self.folder / "refused"
        result = self.train(workdir)
        self.assertEqual(result.returncode, 1)
        self.assertIn("train/blue/broken.png: empty", result.stderr)
        self.assertFalse(workdir.exists())

    def test_a_model_that_cannot_be_made_leaves_no_folder(self):
        workdir = self.folder / "impossible"
        result = self.train(workdir, "--model=MobileNetV2")
        self.assertEqual(result.returncode, 1)
        self.assertIn("--image_size", result.stderr)
        self.assertFalse(workdir.exists())
