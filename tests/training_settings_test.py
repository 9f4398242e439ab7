"""The settings of train.py and its flags: defaults, checks, and what is refused."""

import copy
import dataclasses
import shlex
import unittest

import numpy as np
from absl import flags

import train
from tests.training_cases import run_train, start_train
from tf_proxquant import datasets, training
from tf_proxquant.training import phases
from tf_proxquant.training.images import ImageTask


class SettingsTest(unittest.TestCase):
    def test_bad_values_are_refused_with_what_was_received(self):
        cases = {
            "at least 1.*epochs=-3": {"epochs": -3},
            "full_precision_epochs=-1": {"full_precision_epochs": -1},
            "batch_size=0": {"batch_size": 0},
            "from 0 to 4294967295.*seed=-1": {"seed": -1},
            "learning_rate=nan": {"learning_rate": float("nan")},
            "learning_rate=0": {"learning_rate": 0.0},
            "full_precision_learning_rate=0": {"full_precision_learning_rate": 0.0},
            "decay='often'": {"decay": "often"},
            "decay='5,'": {"decay": "5,"},
            "width=0": {"width": 0},
            "strength=-1": {"strength": -1.0},
            "bits=9": {"quantizer": "uniform", "bits": 9},
            "multibit' or 'uniform'.*bits=2, quantizer='binary'": {"bits": 2},
            "multibit' or 'uniform'.*bits=3": {"bits": 3, "quantizer": "ternary", "model": "lstm"},
            "for method='proxquant'.*method='memory'": {"strength": 1e-4, "method": "memory"},
            "proxquant'. Received: strength=0.1": {"strength": 0.1, "method": "binaryconnect"},
            "proxquant'. Received: regularizer='l1'": {"regularizer": "l1", "method": "parq"},
            "freeze_epoch=2, method='full": {"freeze_epoch": 2, "method": "full_precision"},
            "from 1 to 4 for quantizer='multibit'.*bits=8": {"quantizer": "multibit", "bits": 8},
            "from 2 to 8 for quantizer='uniform'.*bits=1": {"quantizer": "uniform", "bits": 1},
            "one bit is 'binary'.*bits=5": {"model": "lstm", "quantizer": "multibit", "bits": 5},
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

    def test_the_command_that_starts_again_makes_the_same_settings(self):
        for given in (
            {},
            {"model": "lstm", "quantizer": "multibit", "epochs": 3},
            {"model": "lstm", "tied": True},
            {"model": "resnet14", "quantizer": "ternary", "per_channel": False},
            {"model": "MobileNetV2", "edge_bits": 32, "dataset": "a folder"},
            {"method": "proxquant", "strength": 0.25},
            {"method": "full_precision", "flip": False},
            {"method": "memory", "quantizer": "multibit", "bits": 3},
            {"method": "memory", "quantizer": "uniform", "bits": 8, "model": "resnet20"},
            {"method": "memory", "quantizer": "uniform", "bits": 8, "model": "lstm"},
            {"method": "memory", "quantizer": "multibit", "bits": 3, "model": "lstm"},
            {"method": "proxquant", "quantizer": "ternary", "model": "MobileNetV2"},
            {"method": "proxquant", "learning_rate": 0.02},
        ):
            with self.subTest(**given):
                settings = training.Settings(**given, workdir="runs/one")
                report = {"workdir": "runs/one"}
                (line,) = (
                    x for x in training.summary(report, settings).splitlines() if "init" in x
                )
                command = shlex.split(line.partition("python ")[2])
                values = copy.deepcopy(flags.FLAGS)
                values([part for part in command if not part.startswith("--init_from")])
                again = train.settings(values)
                self.assertEqual(again, dataclasses.replace(settings, workdir=None))

    def test_the_help_of_the_command_lists_its_flags(self):
        result = start_train("--help")
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
