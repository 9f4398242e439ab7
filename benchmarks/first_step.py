"""Seconds of CPU to the first training step, as a ratio to bare Adam's.

    python -m benchmarks.first_step [--models=mobilenet_v2,...] [--rounds=3] [--only=REGEX]
        [--compile=auto|never|always] [--freeze_step=1000] [--toy]

From `compile` to the end of the first step of `fit`, batch 8, everything that was to be traced and
compiled included; CPU time of all threads, so that what runs beside it counts little. Every figure
is from a process of its own; the rows of a model take turns. Medians over the rounds.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tf_proxquant as pq

BATCH = 8
MODELS = {
    "toy": lambda: keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(8, 3, strides=4),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    ),
    "resnet56": lambda: pq.models.resnet(56, (32, 32, 3), 10),
    "mobilenet_v2": lambda: keras.applications.MobileNetV2((64, 64, 3), weights=None),
    "efficientnet_b0": lambda: keras.applications.EfficientNetB0(
        input_shape=(64, 64, 3), weights=None
    ),
    "densenet121": lambda: keras.applications.DenseNet121(input_shape=(64, 64, 3), weights=None),
}
QUANTIZERS = {
    "binary": lambda: pq.Binary("mean", axis=-1),
    "ternary": lambda: pq.Ternary(axis=-1),
    "2 bits": lambda: pq.MultiBit(2, axis=-1),
    "3 bits": lambda: pq.MultiBit(3, axis=-1),
    "uniform 4": lambda: pq.Uniform(4, axis=-1),
}
MEMORY = "binary, memory .99"
ROWS = ("adam", *QUANTIZERS, MEMORY)


def optimizer_of(row, jit_compile, freeze_step=1000):
    """Returns the optimizer of a row, with strength "auto"."""
    adam = keras.optimizers.Adam(0.01)
    arguments = {"freeze_step": freeze_step, "jit_compile": jit_compile}
    if row == "adam":
        return adam
    if row == MEMORY:
        arguments |= {"prox": "piecewise_affine", "memory": 0.99}
    return pq.ProxQuant(adam, QUANTIZERS[row.partition(",")[0]](), **arguments)


def measure(model_name, row, jit_compile, freeze_step):
    """Returns the CPU seconds of one row, in this process."""
    model = MODELS[model_name]()
    shape = model.input_shape[1:]
    x, y = np.zeros((BATCH, *shape), "float32"), np.zeros(BATCH, "int32")
    start = time.process_time()
    optimizer = optimizer_of(row, jit_compile, freeze_step)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=BATCH, verbose=0)
    return time.process_time() - start


def in_process_of_its_own(name, *arguments):
    """Returns what a benchmark prints last, as JSON, in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def table(model_name, rows, rounds, *flags):
    """Measures the rows of a model in turns; returns Markdown."""
    seconds = {row: [] for row in rows}
    for _ in range(rounds):
        for row in rows:
            given = f"--row={row}", f"--models={model_name}", *flags
            seconds[row].append(in_process_of_its_own("first_step", *given))
    lines = [f"| {model_name} | CPU seconds | to Adam |", "|---|---|---|"]
    for row in rows:
        ratios = [s / adam for s, adam in zip(seconds[row], seconds["adam"], strict=True)]
        figures = f"{statistics.median(seconds[row]):.1f} | {statistics.median(ratios):.2f}"
        lines.append(f"| {row} | {figures} ({min(ratios):.2f} to {max(ratios):.2f}) |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet56,mobilenet_v2,efficientnet_b0,densenet121")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="regex of the rows beside adam")
    parser.add_argument("--compile", default="auto", choices=("auto", "never", "always"))
    parser.add_argument("--freeze_step", type=int, default=1000)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--toy", action="store_true", help="a tiny network, once")
    arguments = parser.parse_args()
    jit_compile = {"auto": "auto", "never": False, "always": True}[arguments.compile]
    if arguments.row:
        settings = arguments.models, arguments.row, jit_compile, arguments.freeze_step
        print(json.dumps(measure(*settings)))
        return
    models = ["toy"] if arguments.toy else arguments.models.split(",")
    rounds = 1 if arguments.toy else arguments.rounds
    rows = [r for r in ROWS if r == "adam" or re.search(arguments.only, r)]
    flags = f"--compile={arguments.compile}", f"--freeze_step={arguments.freeze_step}"
    for name in models:
        print(table(name, rows[:2] if arguments.toy else rows, rounds, *flags))


if __name__ == "__main__":
    main()
