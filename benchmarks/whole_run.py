"""Seconds of whole runs of 1, 10 and 100 epochs with ProxQuant, as a ratio to bare Adam's.

    python -m benchmarks.whole_run [--models=resnet20,mobilenet_v2] [--only=REGEX] [--images=2000]
        [--batch=32] [--epochs=3] [--toy]

Both optimizers train the same network side by side in one process, on random images. The first
epoch is timed from `compile` on, so tracing and compiling count; then epochs take turns, and their
median is the time of each later one: a run of n epochs is the first and n - 1 of those. CPU time of
all threads, so that what runs beside it counts little. Every row is a process of its own. The fewer
images, the more the first epoch weighs: with the 50,000 of CIFAR-10 it hardly does.
"""

import argparse
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

MODELS = {**first_step.MODELS, "resnet20": lambda: pq.models.resnet(20, (32, 32, 3), 10)}
ROWS = first_step.ROWS[1:]
RUNS = (1, 10, 100)


def measure(model_name, row, images, batch, epochs):
    """Returns the CPU seconds of the first and the later epochs of Adam and of a row."""
    _train(first_step.MODELS["toy"](), "adam", 2 * batch, batch)()  # TensorFlow's own start
    names, seconds = ("adam", row), {}
    runs = {}
    for name in names:
        start = time.process_time()
        runs[name] = _train(MODELS[model_name](), name, images, batch)
        runs[name]()
        seconds[name] = [time.process_time() - start]
    for _ in range(epochs):
        for name in names:
            start = time.process_time()
            runs[name]()
            seconds[name].append(time.process_time() - start)
    return [seconds[name] for name in names]


def _train(model, row, images, batch):
    """Returns a function that trains the model by one epoch."""
    random = np.random.default_rng(0)
    x = random.random((images, *model.input_shape[1:]), "float32")
    y = random.integers(0, 10, images)
    model.compile(
        first_step.optimizer_of(row, "auto"),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return lambda: model.fit(x, y, batch_size=batch, verbose=0)


def whole(epochs, seconds):
    """Returns the seconds of a run of `epochs`: the first, and the median of the later ones."""
    return seconds[0] + (epochs - 1) * statistics.median(seconds[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet20,mobilenet_v2")
    parser.add_argument("--only", default="", help="regex of the rows")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3, help="later epochs of each, in turns")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--toy", action="store_true", help="a tiny network, two rows")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(*json.loads(arguments.row))))
        return
    models, rows = arguments.models.split(","), [r for r in ROWS if re.search(arguments.only, r)]
    if arguments.toy:
        models, rows, arguments.images, arguments.epochs = ["toy"], rows[:2], 64, 1
    print(
        "| | Adam: first, later epoch (CPU s) | 1 epoch | 10 epochs | 100 epochs |\n"
        "|---|---|---|---|---|"
    )
    for model in models:
        for row in rows:
            settings = model, row, arguments.images, arguments.batch, arguments.epochs
            row_flag = f"--row={json.dumps(settings)}"
            adam, own = first_step.in_process_of_its_own("whole_run", row_flag)
            ratios = " | ".join(f"{whole(n, own) / whole(n, adam):.3f}" for n in RUNS)
            base = f"{adam[0]:.1f}, {statistics.median(adam[1:]):.1f}"
            print(f"| {model}, {row} | {base} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
