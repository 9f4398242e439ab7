r"""The memory against its two ends, and which memory: the ablation of decision 0083.

    python -m benchmarks.memory --data_dir=/usr/share/datasets/fashion-mnist [--seeds=10,11,12]
        [--rows=REGEX] [--results=docs/results/memory.jsonl] [--report] [--toy]

Fashion-MNIST at 14 x 14 (blocks of four pixels averaged), ResNet-8 of 8 filters, 10,000 training
images, scored on 20,000 other training images; the test images are not read. Each seed draws its
images, trains in full precision for 10 epochs (Adam 0.01, cosine, batch 128) and lets every row go
on from there for 10 more, without augmentation, Adam with a cosine by epoch, levels per output
channel, frozen after 9 tenths of the steps. Shortcuts stay in full precision; so do the first and
last layer, but not at one bit. A finished run is one line of the results and is not run again.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import re
import statistics
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import ops

import tf_proxquant as pq

BATCH = 128


@dataclasses.dataclass(frozen=True)
class Row:
    """One way from the warm start: the arguments of `ProxQuant`, None for full precision.

    Attributes:
      prox: name of the map, None for full precision.
      memory: the optimizer's.
      rate: first learning rate.
      quantizer: "binary", "ternary" or "2 bits".
      dampening: lambda of the coupled oscillation dampening, added to the gradient.
      freeze: share of the steps before the freeze.
      inner: "adam", or "sgd" with momentum .9.
      batch: images per step.
      times: how many times as long as the warm start.
    """

    prox: str | None
    memory: float = 0.0
    rate: float = 0.02
    quantizer: str = "binary"
    dampening: float = 0.0
    freeze: float = 0.9
    inner: str = "adam"
    batch: int = BATCH
    times: int = 1


AFFINE = "piecewise_affine"
QUANTIZERS = {
    "binary": lambda: pq.Binary("mean", axis=-1),
    "ternary": lambda: pq.Ternary(axis=-1),
    "2 bits": lambda: pq.MultiBit(2, axis=-1),
}
# The rows that the table compares the others of equal levels with.
REFERENCES = {
    "binary": "binary, memory .99",
    "ternary": "ternary, memory .997",
    "2 bits": "2 bits, memory .997",
}
ROWS = {
    "full precision": Row(None, rate=0.01),
    "binary, memory .99": Row(AFFINE, 0.99),
    "binary, PARQ at .02": Row(AFFINE, 1.0),
    "binary, PARQ at .05": Row(AFFINE, 1.0, 0.05),
    "binary, PARQ at .01": Row(AFFINE, 1.0, 0.01),
    "binary, BinaryConnect at .01": Row("hard", 1.0, 0.01),
    "binary, ProxQuant concave at .05": Row("concave", 0.0, 0.05),
    "ternary, memory .997": Row(AFFINE, 0.997, quantizer="ternary"),
    "ternary, PARQ": Row(AFFINE, 1.0, quantizer="ternary"),
    "2 bits, memory .997": Row(AFFINE, 0.997, quantizer="2 bits"),
    "2 bits, PARQ": Row(AFFINE, 1.0, quantizer="2 bits"),
    "ternary, ProxQuant concave at .05": Row("concave", 0.0, 0.05, "ternary"),
    "2 bits, ProxQuant l2 at .01": Row("l2", 0.0, 0.01, "2 bits"),
    "binary, memory .9": Row(AFFINE, 0.9),
    "binary, memory .97": Row(AFFINE, 0.97),
    "binary, memory .995": Row(AFFINE, 0.995),
    "binary, memory .998": Row(AFFINE, 0.998),
    "binary, memory .99 at .05": Row(AFFINE, 0.99, 0.05),
    "binary, relax, memory .99": Row("relax", 0.99),
    "binary, relax, memory 1 (BinaryRelax)": Row("relax", 1.0),
    "binary, l2, memory .9": Row("l2", 0.9),
    "binary, l2, memory .99": Row("l2", 0.99),
    "binary, hard, memory .99": Row("hard", 0.99),
    "binary, hard, memory .99 at .01": Row("hard", 0.99, 0.01),
    "binary, concave, memory .9": Row("concave", 0.9, 0.05),
    "binary, PARQ, dampened 1e-4": Row(AFFINE, 1.0, dampening=1e-4),
    "binary, PARQ, dampened 1e-3": Row(AFFINE, 1.0, dampening=1e-3),
    "binary, PARQ, dampened 1e-2": Row(AFFINE, 1.0, dampening=1e-2),
    "binary, memory .99, freeze 2/3": Row(AFFINE, 0.99, freeze=2 / 3),
    "binary, SGD, memory .99": Row(AFFINE, 0.99, 0.1, inner="sgd"),
    "binary, SGD, memory .997": Row(AFFINE, 0.997, 0.1, inner="sgd"),
    "binary, SGD, PARQ": Row(AFFINE, 1.0, 0.1, inner="sgd"),
    "binary, SGD, BinaryConnect": Row("hard", 1.0, 0.1, inner="sgd"),
    "binary, batch 32, memory .99": Row(AFFINE, 0.99, batch=32),
    "binary, batch 32, memory .998": Row(AFFINE, 0.998, batch=32),
    "binary, batch 512, memory .99": Row(AFFINE, 0.99, batch=512),
    "binary, batch 512, memory .97": Row(AFFINE, 0.97, batch=512),
    "binary, 30 epochs, memory .99": Row(AFFINE, 0.99, times=3),
    "binary, 30 epochs, memory .997": Row(AFFINE, 0.997, times=3),
    "binary, 30 epochs, BinaryConnect at .01": Row("hard", 1.0, 0.01, times=3),
}


@keras.saving.register_keras_serializable("benchmarks")
class Dampened(pq.ProxConnect):
    """PARQ with oscillation dampening: lambda |v - quantizer(v)|^2 is part of the loss.

    Its gradient passes through the inner optimizer with that of the loss, as L2 does in Adam; the
    leak of a memory does not. Reference: Nagel et al., ICML 2022, arXiv:2203.11086.
    """

    dampening = 0.0

    def apply(self, grads, trainable_variables=None):
        self.build(trainable_variables)
        quantizers = {v.path: q for v, q in self.quantized_variables}

        def damped(gradient, variable):
            if variable.path not in quantizers:
                return gradient
            latent = ops.convert_to_tensor(self.latent_of(variable))
            return gradient + 2 * self.dampening * (latent - quantizers[variable.path](latent))

        grads = [damped(g, v) for g, v in zip(grads, trainable_variables, strict=True)]
        super().apply(grads, trainable_variables)


def pooled(pixels):
    count, height, width, channels = pixels.shape
    blocks = pixels.reshape(count, height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(2, 4), dtype="float32")


def load(data_dir, seed, toy):
    """Returns (x, y) of the training images of a seed, and of those it is scored on."""
    data = pq.datasets.load("digits" if toy else "fashion_mnist", data_dir)
    order = np.random.default_rng(seed).permutation(len(data.x_train))
    chosen, others = (order[:250], order[250:500]) if toy else (order[:10_000], order[-20_000:])
    x = data.x_train.astype("float32") if toy else pooled(data.x_train)
    x = (x - x[chosen].mean()) / x[chosen].std()
    return (x[chosen], data.y_train[chosen]), (x[others], data.y_train[others])


def schedule_of(rate, epochs, steps):
    """A cosine from `rate` to nearly 0 that changes from epoch to epoch; of one epoch, `rate`."""
    if epochs == 1:
        return rate
    rates = [rate * (1 + math.cos(math.pi * e / epochs)) / 2 for e in range(epochs)]
    bounds = [steps * (e + 1) - 1 for e in range(epochs - 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(bounds, rates)


def optimizer_of(row, model, epochs, steps):
    """Returns the optimizer of a row for a model, not built."""
    rates = schedule_of(row.rate, epochs, steps)
    inner = keras.optimizers.Adam(rates)
    if row.inner == "sgd":
        inner = keras.optimizers.SGD(rates, momentum=0.9)
    if row.prox is None:
        return inner
    ends = row.quantizer != "binary"
    arguments = {
        "prox": row.prox,
        "memory": row.memory,
        "select": pq.select_kernels(model, skip_first=ends, skip_last=ends, skip="shortcut"),
        "freeze_step": round(row.freeze * epochs * steps),
        "strength": "auto",
    }
    if not row.dampening:
        return pq.ProxQuant(inner, QUANTIZERS[row.quantizer](), **arguments)
    optimizer = Dampened(inner, QUANTIZERS[row.quantizer](), **arguments)
    optimizer.dampening = row.dampening
    return optimizer


def fit(model, optimizer, data, epochs, seed, batch=BATCH):
    """Trains in an order of the images that the seed gives."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    keras.utils.set_random_seed(seed)
    model.fit(*data, batch_size=batch, epochs=epochs, verbose=0)


def score(model, data):
    return float(model.evaluate(*data, batch_size=1000, verbose=0)[1])


def warm_start(data, shape, epochs, seed):
    """Returns the weights of a network trained in full precision."""
    keras.utils.set_random_seed(seed)
    model = network(shape)
    steps = -(-len(data[0]) // BATCH)
    fit(model, keras.optimizers.Adam(schedule_of(0.01, epochs, steps)), data, epochs, seed)
    return model.get_weights()


def network(shape):
    return pq.models.resnet(8, shape, 10, width=8)


def run(row, warm, train, held_out, epochs, seed):
    """Trains one row from the warm start; returns a dict of figures."""
    model = network(train[0].shape[1:])
    model.set_weights(warm)
    before = [v for v in warm if v.ndim > 1]
    start, epochs = time.perf_counter(), row.times * epochs
    optimizer = optimizer_of(row, model, epochs, -(-len(train[0]) // row.batch))
    fit(model, optimizer, train, epochs, seed + 1000, row.batch)
    after = [v for v in model.get_weights() if v.ndim > 1]
    return {
        "accuracy": score(model, held_out),
        "sign_change": pq.metrics.sign_changes(before, after),
        "seconds": round(time.perf_counter() - start, 1),
    }


def study(arguments, rows):
    """Runs what is not in the results yet, seed by seed, and adds a line for each run."""
    path = pathlib.Path(arguments.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["row"], r["seed"]) for r in read(path)}
    epochs = 2 if arguments.toy else 10
    for seed in map(int, arguments.seeds.split(",")):
        left = [name for name in rows if (name, seed) not in done]
        if not left:
            continue
        train, held_out = load(arguments.data_dir, seed, arguments.toy)
        warm = warm_start(train, train[0].shape[1:], epochs, seed)
        for name in left:
            figures = run(ROWS[name], warm, train, held_out, epochs, seed)
            line = {"row": name, "seed": seed, **dataclasses.asdict(ROWS[name]), **figures}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(name, seed, figures, flush=True)
            keras.backend.clear_session()


def read(path) -> list[dict[str, Any]]:
    path = pathlib.Path(path)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(results):
    """Returns a table: mean and deviation, and the paired difference to `REFERENCES`."""
    found = {}
    for line in results:
        found.setdefault(line["row"], {})[line["seed"]] = line["accuracy"]
    lines = ["| | accuracy | seeds | minus memory | standard error |", "|---|---|---|---|---|"]
    for name, by_seed in found.items():
        reference = REFERENCES[ROWS[name].quantizer]
        base = {} if name == reference else found.get(reference, {})
        pairs = [by_seed[seed] - base[seed] for seed in by_seed if seed in base]
        mean, deviation = _mean_and_deviation(list(by_seed.values()), " +- ")
        difference, error = _mean_and_deviation(pairs, "", "+", math.sqrt(len(pairs) or 1))
        lines.append(f"| {name} | {mean}{deviation} | {len(by_seed)} | {difference} | {error} |")
    return "\n".join(lines)


def _mean_and_deviation(values, before, sign="", divisor=1.0):
    """Returns mean and sample standard deviation as text, empty where there are too few values."""
    mean = f"{statistics.mean(values):{sign}.4f}" if values else ""
    return mean, f"{before}{statistics.stdev(values) / divisor:.4f}" if len(values) > 1 else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default=None, help="folder of the IDX files")
    parser.add_argument("--seeds", default="10,11,12,13,14")
    parser.add_argument("--rows", default="", help="regex")
    parser.add_argument("--results", default="docs/results/memory.jsonl")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--toy", action="store_true", help="two epochs of digits, three rows")
    arguments = parser.parse_args()
    rows = [name for name in ROWS if re.search(arguments.rows, name)]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.toy:
            arguments.seeds, rows = "0", list(ROWS)[:3]
            arguments.results = pathlib.Path(folder, "memory.jsonl")
        if not arguments.report:
            study(arguments, rows)
        print(report(read(arguments.results)))


if __name__ == "__main__":
    main()
