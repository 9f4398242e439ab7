"""What large models cost: time of a step by size, memory of training, time and memory of export.

    python -m benchmarks.scale cost  [--largest=100000000] [--plot=docs/images/step_cost.png]
    python -m benchmarks.scale train [--weights=100000000]
    python -m benchmarks.scale export [--weights=10000000] [--network=ResNet50] [--ways=float,small]

cost: milliseconds of one step on one kernel of n weights, n from 1e5, each optimizer alone.
train: a model of an embedding table and a dense layer, trained three steps and exported, float and
quantized, each in a process of its own; the peak memory of both parts.
export: CPU seconds, of all threads, and peak memory of writing a network of 2 bits in each profile,
and float: convolutions and dense layers of so many weights, or one of keras.applications, 64 x 64.
(Linux: peaks are read from /proc.)
"""

import argparse
import json
import math
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tf_proxquant as pq
from benchmarks import optimizer_step, zoo
from benchmarks.first_step import in_process_of_its_own
from tf_proxquant.litert.read import convert

COST = ("adam", "binary", "ternary rule", "2 bits", "2 bits optimal")
METHODS = {
    "float": None,
    "binary": lambda: pq.Binary("mean", axis=-1),
    "2 bits": lambda: pq.MultiBit(2),
}
# Ways of `export`: options of pq.export; None writes the float file.
WAYS = {
    "float": None,
    "fast": {"profile": "fast"},
    "fast + archive": {"profile": "fast", "archive": True},
    "float16": {"constants": "float16"},
    "portable": {"profile": "portable"},
    "small": {"profile": "small"},
    "balanced": {"profile": "balanced"},
    "dynamic": {"profile": "dynamic"},
    "static": {"profile": "static"},
    "static in tables": {"profile": "static", "weights": "tables"},
}
CONVOLUTIONS = "convolutions"


def cost(arguments):
    """Prints a table of milliseconds, and draws it."""
    sizes = [n for n in (10**5, 10**6, 10**7, 10**8) if n <= arguments.largest]
    makers = optimizer_step.optimizers("adam", True)
    table = {label: [] for label in COST}
    for size in sizes:
        for label in COST:
            step = optimizer_step.make_step(
                makers[label], [("a/kernel", (size // 100, 100))], False
            )
            rounds = max(3, min(50, 10**8 // size))
            times, _ = optimizer_step.measure({label: step}, rounds, 1)
            table[label].append(1e3 * float(np.median(times[label])))
            del step
    print(f"| weights | {' | '.join(COST)} |\n|{'---|' * (len(COST) + 1)}")
    for i, size in enumerate(sizes):
        cells = [f"{table[label][i]:.3g} ms" for label in COST]
        print(f"| {size:,} | {' | '.join(cells)} |")
    if arguments.plot:
        draw(sizes, table, arguments.plot)


def draw(sizes, table, path):
    """Draws time against size, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4.2), layout="constrained")
    for label, times in table.items():
        axes.loglog(sizes, times, "o-", label=label)
    axes.loglog(
        sizes, [table["adam"][-1] * n / sizes[-1] for n in sizes], "k:", label="in proportion"
    )
    axes.set_xlabel("weights")
    axes.set_ylabel("milliseconds per step")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def train_child(method, weights, folder):
    """Trains and exports in this process; prints the peaks as JSON."""
    keras.utils.set_random_seed(0)
    width = 200
    tokens, outputs = int(0.8 * weights) // width, int(0.2 * weights) // width
    model = keras.Sequential(
        [
            keras.Input((8,), dtype="int32"),
            keras.layers.Embedding(tokens, width),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(outputs),
        ]
    )
    optimizer = keras.optimizers.Adam(0.001)
    if METHODS[method]:
        optimizer = pq.ProxQuant(optimizer, METHODS[method](), 1.0, freeze_step=2)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    x, y = random.integers(0, tokens, (96, 8)), random.integers(0, outputs, 96)
    started = time.perf_counter()
    model.fit(x, y, batch_size=32, verbose=0)
    result = {"weights": model.count_params(), "train_seconds": time.perf_counter() - started}
    result["train_peak"] = optimizer_step.resident("VmHWM")
    del optimizer
    model.compile()  # without the state of the optimizer
    optimizer_step.forget_peak()
    result.update(write(model, WAYS["small" if METHODS[method] else "float"], pathlib.Path(folder)))
    print(json.dumps(result))


def convolutions(weights):
    """Five convolutions with BatchNorm, most of the weights in the dense layers behind them."""
    width = max(1, round(64 * math.sqrt(weights / 10_200_000)))
    x = inputs = keras.Input((32, 32, 3))
    for multiple in (1, 2, 4, 8):
        x = keras.layers.MaxPool2D()(zoo.conv_norm(x, multiple * width))
    x = keras.layers.Flatten()(zoo.conv_norm(x, 8 * width))
    for multiple in (32, 16):
        x = keras.layers.Dense(multiple * width, "relu")(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def export_child(way, weights, folder, network):
    """Exports a network in this process; prints the figures as JSON."""
    keras.utils.set_random_seed(0)
    model = convolutions(weights) if network == CONVOLUTIONS else zoo.application(network)
    zoo.randomize(model)
    pq.snap(model, pq.MultiBit(2, axis=-1, integer_ratios=True))  # a grid for every profile
    options = WAYS[way]
    if options and options.get("profile") == "static":
        shape = (16, *model.input_shape[1:])
        random = np.random.default_rng(0)
        options = {**options, "representative_data": random.normal(size=shape).astype(np.float32)}
    optimizer_step.forget_peak()
    result = {"weights": model.count_params(), **write(model, options, pathlib.Path(folder))}
    print(json.dumps(result))


def write(model, options, folder):
    """Exports the model; returns CPU seconds, peak memory and size."""
    path = folder / "model.tflite"
    started = time.process_time()
    if options is None:
        path.write_bytes(convert.convert(model)[0])
    else:
        pq.export(model, path, **options)
    seconds = time.process_time() - started
    return {
        "export_seconds": seconds,
        "export_peak": optimizer_step.resident("VmHWM"),
        "size": path.stat().st_size,
    }


def compare(what, names, weights, network=CONVOLUTIONS):
    """Prints a row for each name, with ratios to the first."""
    columns = ("train_seconds", "train_peak", "export_seconds", "export_peak", "size")
    first = None
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            flags = f"--weights={weights}", f"--network={network}", f"--child={name}"
            found = in_process_of_its_own("scale", what, *flags, f"--folder={folder}")
        if first is None:
            first, columns = found, [c for c in columns if c in found]
            print(f"{found['weights']:,} weights")
            print(f"| | {' | '.join(c.replace('_', ' ') for c in columns)} |")
            print(f"|{'---|' * (len(columns) + 1)}")
        cells = []
        for column in columns:
            value = found[column]
            text = f"{value:.1f} s" if "seconds" in column else f"{value / 1e9:.2f} GB"
            cells.append(f"{text} ({value / first[column]:.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cost", "train", "export"), nargs="?")
    parser.add_argument("--largest", type=int, default=10**8, help="weights, with cost")
    parser.add_argument("--plot", help="the picture to write, with cost")
    parser.add_argument("--weights", type=int, help="with train and export")
    parser.add_argument("--network", default=CONVOLUTIONS, help="or of keras.applications")
    parser.add_argument("--ways", help="some of those of export, with commas between")
    parser.add_argument("--toy", action="store_true", help="all three, on small models")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.toy:
        cost(argparse.Namespace(largest=10**5, plot=None))
        compare("train", ("float", "binary"), 10**5)
        compare("export", ("float", "small"), 10**5)
    elif arguments.child:
        common = arguments.child, arguments.weights, arguments.folder
        if arguments.what == "train":
            train_child(*common)
        else:
            export_child(*common, arguments.network)
    elif arguments.what == "cost":
        cost(arguments)
    elif arguments.what == "train":
        compare("train", METHODS, arguments.weights or 10**8)
    elif arguments.what == "export":
        ways = arguments.ways.split(",") if arguments.ways else WAYS
        compare("export", ways, arguments.weights or 10**7, arguments.network)
    else:
        parser.error("say what to measure: cost, train or export, or --toy")


if __name__ == "__main__":
    main()
