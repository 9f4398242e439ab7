"""Seconds of whole runs of 1, 10 and 100 epochs with ProxQuant, as a ratio to bare Adam's.

    python -m benchmarks.whole_run [--models=resnet20,mobilenet_v2] [--only=REGEX] [--images=2000]
        [--batch=32] [--turns=20] [--lengths=1,10,100] [--toy]

Both optimizers train the same network side by side in one process, on random images, frozen after
two thirds of the run. What comes once is timed from `compile` on: the first epoch, and, where XLA
compiles the update later, the step at which it does. Then they take turns of a tenth of an epoch;
the median ratio of two turns is that of each later epoch: a run of n epochs is the first, n - 1 of
those, and the compilation. CPU time of all threads, so that what runs beside it counts little.
Every row and length is a process of its own. The fewer images, the more the first epoch weighs:
with the 50,000 of CIFAR-10 it hardly does.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tf_proxquant as pq
from benchmarks import first_step
from tf_proxquant.optimizers import graphs

MODELS = {**first_step.MODELS, "resnet20": lambda: pq.models.resnet(20, (32, 32, 3), 10)}
ROWS = first_step.ROWS[1:]
PARTS = 10


def measure(model_name, row, length, images, batch, turns):
    """Measures Adam and a row in a run of `length` epochs.

    Returns: the CPU seconds of Adam's first epoch and of a later one, the ratio of the whole run,
      and the quartiles of the ratio of later epochs.
    """
    _Run(first_step.MODELS["toy"](), "adam", 1, batch, 1).train(batch)  # TensorFlow's start
    runs = [_Run(MODELS[model_name](), name, images, batch, length) for name in ("adam", row)]
    part = max(batch, images // PARTS // batch * batch)
    once = [run.train(images) + run.compile_later(batch) for run in runs]
    pairs = []
    for turn in range(turns):
        order = runs[:: 1 if turn % 2 else -1]
        seconds = {run: run.train(part) for run in order}
        pairs.append([seconds[run] for run in runs])
    ratios = [own / adam for adam, own in pairs]
    adam = statistics.median(adam for adam, _ in pairs) * images / part
    own = adam * statistics.median(ratios)
    whole = (once[1] + (length - 1) * own) / (once[0] + (length - 1) * adam)
    quartiles = statistics.quantiles(ratios, n=4) if turns > 1 else 3 * ratios
    return once[0], adam, whole, quartiles


class _Run:
    """A network and its optimizer."""

    def __init__(self, model, row, images, batch, length):
        random = np.random.default_rng(0)
        self.x = random.random((images, *model.input_shape[1:]), "float32")
        self.y = random.integers(0, 10, images)
        self.model, self.row, self.batch = model, row, batch
        self.freeze_step = max(2, 2 * length * -(-images // batch) // 3)

    def train(self, images):
        """Trains on so many images; returns the CPU seconds."""
        start = time.process_time()
        if not self.model.compiled:
            self.model.compile(
                first_step.optimizer_of(self.row, "auto", self.freeze_step),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
        self.model.fit(self.x[:images], self.y[:images], batch_size=self.batch, verbose=0)
        return time.process_time() - start

    def compile_later(self, images):
        """Goes to the step at which XLA compiles the update, if it does; returns its seconds."""
        steps = int(self.model.optimizer.iterations)
        if max(steps, self.freeze_step) < graphs.TRIED:
            return 0
        self.model.optimizer.iterations.assign(max(steps, graphs.TRIED))
        first, second = self.train(images), self.train(images)
        return max(0, first - second)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet20,mobilenet_v2")
    parser.add_argument("--only", default="", help="regex of the rows")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=20, help="of a tenth of an epoch each")
    parser.add_argument("--lengths", default="1,10,100", help="epochs")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--toy", action="store_true", help="a tiny network, one row")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(*json.loads(arguments.row))))
        return
    models, rows = arguments.models.split(","), [r for r in ROWS if re.search(arguments.only, r)]
    if arguments.toy:
        models, rows, arguments.images, arguments.turns = ["toy"], rows[:1], 64, 1
    print(
        "| | epochs | Adam: first, later epoch (CPU s) | to Adam | later epochs |\n"
        "|---|---|---|---|---|"
    )
    lengths = [int(length) for length in arguments.lengths.split(",")]
    sizes = arguments.images, arguments.batch, arguments.turns
    for model, row, length in itertools.product(models, rows, lengths):
        settings = f"--row={json.dumps((model, row, length, *sizes))}"
        first, later, whole, ratios = first_step.in_process_of_its_own("whole_run", settings)
        low, middle, high = (f"{ratio:.3f}" for ratio in ratios)
        print(
            f"| {model}, {row} | {length} | {first:.1f}, {later:.1f} | {whole:.3f} | "
            f"{middle} ({low} to {high}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
