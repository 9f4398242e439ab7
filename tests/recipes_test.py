"""The flag files of recipes/: what they say, and that each of them trains."""

import copy
import dataclasses
import functools
import unittest

import keras
import numpy as np
from absl import flags
from keras import ops

import train
from recipes import generate
from tf_proxquant import datasets
from tf_proxquant.optimizers import find_optimizer
from tf_proxquant.training import images, phases


@functools.cache
def settings(name):
    """Settings of a recipe, parsed as train.py does."""
    values = copy.deepcopy(flags.FLAGS)
    values(["train.py", f"--flagfile={generate.FOLDER / name}"])
    return train.settings(values)


def names():
    return sorted(
        str(path.relative_to(generate.FOLDER)) for path in generate.FOLDER.glob("*/*.flags")
    )


def random_images():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (2, 4, 8, 8, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 2], "int32")
    return datasets.Images("random", pixels[0], labels, pixels[1], labels, 3)


def train_two_steps(settings):
    """Trains on four images, an epoch of one step and, where weights are quantized, one frozen.

    Returns: (model, list of the losses).
    """
    freeze_epoch = None if settings.method == "full_precision" else 1
    settings = dataclasses.replace(
        settings, model="resnet8", width=4, epochs=2, freeze_epoch=freeze_epoch, batch_size=4
    )
    keras.utils.set_random_seed(0)
    task = images.ImageTask(settings, random_images())
    model = task.make_model()
    if settings.method == "full_precision":
        phase, optimizer = "full_precision", task.inner_optimizer("full_precision")
    else:
        phase, optimizer = "quantized", phases.quantizing_optimizer(settings, task, model)
    task.compile(model, optimizer)
    model.run_eagerly = True  # two steps are not worth compiling
    callbacks = [*task.fit_callbacks(), task.rate_callback(phase, 2, [])]
    history = model.fit(task.train, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
    return model, history.history["loss"]


def most_levels(variable, quantizer):
    """The largest number of different values in one group of a variable."""
    values = ops.convert_to_numpy(variable)
    groups = [values] if quantizer.axis is None else np.moveaxis(values, -1, 0)
    return max(len(np.unique(group)) for group in groups)


class RecipesTest(unittest.TestCase):
    def test_the_files_and_the_tables_are_what_the_generator_writes(self):
        written = generate.files()
        self.assertEqual(set(names()), set(written) - {"README.md"})
        for name, content in written.items():
            self.assertEqual((generate.FOLDER / name).read_text(), content, name)
        for table in generate.tables().values():
            self.assertIn(f"-->\n{table}\n<!-- end", written["README.md"])

    def test_there_is_one_for_each_depth_method_and_number_of_levels(self):
        found = [
            (s.dataset, s.model, s.method, s.method != "full_precision" and (s.quantizer, s.bits))
            for s in map(settings, names())
        ]
        self.assertEqual(len(set(found)), len(found))
        per_depth = {f"resnet{depth}": 1 + 5 * 4 for depth in (20, 32, 44, 56)}
        for dataset, counts in (("cifar10", per_depth), ("fashion_mnist", {"resnet8": 1 + 3 * 5})):
            for model, count in counts.items():
                self.assertEqual(len([f for f in found if f[:2] == (dataset, model)]), count)
        self.assertEqual(len(found), 4 * 21 + 16)

    def test_each_names_its_source_its_figure_and_its_warm_start(self):
        for name in names():
            lines = (generate.FOLDER / name).read_text().splitlines()
            comments = "\n".join(line for line in lines if line.startswith("#"))
            self.assertRegex(comments, r"# Source: \w", name)
            figure = r"([89]\d\.\d\d % \(Jin et al., arXiv|see arXiv:1810.00861|none published)"
            self.assertRegex(comments, f"# Expected test accuracy: {figure}", name)
            if settings(name).method != "full_precision":
                depth = name.split("-")[0]
                self.assertIn(f"recipes/{depth}-full_precision.flags", comments, name)
                self.assertGreater(settings(name).full_precision_epochs, 0)

    def test_the_settings_are_the_papers(self):
        full = settings("cifar10/resnet44-full_precision.flags")
        self.assertEqual(
            (full.optimizer, full.learning_rate, full.decay_epochs, full.epochs, full.batch_size),
            ("sgd", 0.1, (100, 150), 200, 128),
        )
        for levels, penalty, epochs in (
            ("binary", "l1", (300, 200)), ("ternary", "l2", (600, 400)), ("3bit", "l2", (600, 400)),
        ):  # fmt: skip
            ours = settings(f"cifar10/resnet20-{levels}-proxquant.flags")
            self.assertEqual((ours.optimizer, ours.learning_rate), ("adam", 0.01))
            self.assertEqual((ours.decay_epochs, ours.strength), ((), 1e-4))
            self.assertEqual((ours.effective_regularizer, ours.batch_size), (penalty, 128))
            self.assertEqual((ours.epochs, ours.first_frozen_epoch), epochs)
            self.assertEqual((ours.make_quantizer().axis, ours.per_channel), (None, False))
            for method in ("binaryconnect", "binaryrelax", "parq"):
                lazy = settings(f"cifar10/resnet20-{levels}-{method}.flags")
                self.assertEqual((lazy.learning_rate, lazy.decay_epochs), (0.01, (81, 122)))
                self.assertEqual((lazy.epochs, lazy.first_frozen_epoch), epochs)

    def test_each_setting_trains_two_steps_on_random_images(self):
        # All of one depth. But for memory, Fashion-MNIST has what CIFAR-10 has.
        of_any_depth = {
            dataclasses.replace(settings(n), model="resnet8"): n
            for n in names()
            if n.startswith("cifar10") or n.endswith("-memory.flags")
        }
        self.assertEqual(len(of_any_depth), 21 + 3)
        for setting, name in of_any_depth.items():
            with self.subTest(name):
                model, losses = train_two_steps(setting)
                self.assertTrue(np.all(np.isfinite(losses)), losses)
                self.assertNotEqual(*losses)
                if setting.method == "full_precision":
                    continue
                pairs = find_optimizer(model).quantized_variables
                # Binary quantizes the first and the last kernel too.
                self.assertEqual(len(pairs), 8 if setting.quantizer == "binary" else 6)
                count = {"binary": 2, "ternary": 3}.get(setting.quantizer) or 2**setting.bits
                for variable, quantizer in pairs:
                    self.assertLessEqual(most_levels(variable, quantizer), count, variable.path)
