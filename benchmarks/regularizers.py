"""Binary training of a small ResNet on digits: penalties of ProxQuant, and lazy methods.

    python -m benchmarks.regularizers          # some minutes
    python -m benchmarks.regularizers --toy    # seconds, shows that it runs

What `train.py --method=... --regularizer=...` does with its defaults, but 360 of the training
images are held out and scored; the test set is not touched. All rows of a seed share one warm
start. Prints the accuracy of the last epoch and the share of signs that changed, mean and sample
standard deviation.
"""

import dataclasses
import os
import statistics
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from absl import app, flags

from tf_proxquant import datasets
from tf_proxquant.training import Settings, phases
from tf_proxquant.training.images import ImageTask
from tf_proxquant.training.workdir import Workdir

_TOY = flags.DEFINE_bool("toy", False, "One seed, two epochs, two methods.")
HELD_OUT = 360
METHODS = {
    "ProxQuant, l1": {"method": "proxquant", "regularizer": "l1"},
    "ProxQuant, concave": {"method": "proxquant", "regularizer": "concave"},
    "BinaryConnect": {"method": "binaryconnect"},
    "BinaryRelax": {"method": "binaryrelax"},
    "PARQ": {"method": "parq"},
}


def held_out_digits():
    """Digits with the first training images in the place of the test set."""
    digits = datasets.load("digits")
    return digits._replace(
        x_train=digits.x_train[HELD_OUT:],
        y_train=digits.y_train[HELD_OUT:],
        x_test=digits.x_train[:HELD_OUT],
        y_test=digits.y_train[:HELD_OUT],
    )


def run_seed(settings, methods, folder):
    """Trains one warm start and all methods from it; returns (accuracy, sign changes) by name."""
    warm = Start(settings, folder, "warm")
    found = {"full precision": (warm.accuracy, 0.0)}
    for name, arguments in methods.items():
        path = str(warm.workdir / "full_precision.keras")
        chosen = dataclasses.replace(settings, init_from=path, **arguments)
        start = Start(chosen, folder, name)
        _, measured = phases.quantized(chosen, start.task, start.workdir, start.model)
        found[name] = measured["quantized_accuracy"], measured["sign_change"]
    return found


class Start:
    """The full-precision phase of a run, trained or loaded from `init_from`."""

    def __init__(self, settings, folder, name):
        self.task = ImageTask(settings, held_out_digits())
        self.workdir = Workdir.open(
            dataclasses.replace(settings, workdir=os.path.join(folder, name))
        )
        keras.utils.set_random_seed(settings.seed)
        self.model, measured = phases.full_precision(settings, self.task, self.workdir)
        self.accuracy = measured["full_precision_accuracy"]


def main(_):
    settings, seeds, methods = Settings(), range(3), METHODS
    if _TOY.value:
        settings = Settings(full_precision_epochs=1, epochs=2, freeze_epoch=1, batch_size=256)
        seeds, methods = range(1), dict(list(METHODS.items())[1:3])
    runs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run_seed(dataclasses.replace(settings, seed=seed), methods, folder))
    print(f"{len(runs)} seeds, {settings.epochs} epochs, freeze at {settings.first_frozen_epoch}")
    print("| | held-out accuracy | signs changed |\n|---|---|---|")
    for name in runs[0]:
        columns = zip(*(run[name] for run in runs), strict=True)
        cells = [f"{statistics.mean(c):.4f} +- {_spread(c):.4f}" for c in columns]
        print(f"| {name} | {' | '.join(cells)} |")


def _spread(values):
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    app.run(main)
