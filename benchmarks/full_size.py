r"""Methods of quantized training side by side, with all images at their full size.

    python -m benchmarks.full_size --experiment=cifar10 --dataset=cifar10.npz
    python -m benchmarks.full_size --experiment=fashion_mnist --dataset=fashion-mnist
        [--seeds=0,1] [--rows=REGEX] [--epochs=12] [--results=docs/results/full_size.jsonl]
        [--workdir=runs/full_size] [--report] [--picture=FILE] [--toy]

Each seed trains one full-precision warm start, and every row goes on from it for the same number of
epochs: crops and flips, Adam, half a cosine, levels per output channel, freeze after 9 tenths of
the steps (the paper's recipe: constant rate, levels -1 and +1 at one bit, freeze after 2 thirds).
The hyperparameters are those that decision 0083 found on held-out Fashion-MNIST at 14 x 14; the
memory of .998 is 1 - 7 / freeze step at CIFAR-10. The accuracy is that of the last epoch on all
test images; the exported file is scored as well, by the interpreter. Training uses a fused batch
normalization, and bfloat16 where the processor multiplies it (benchmarks/fused.py); scores are in
float32. A run that was stopped goes on at its last epoch; one that is finished is a line of the
results and is not run again.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import tf_proxquant as pq
from benchmarks import fused
from benchmarks.memory import AFFINE, QUANTIZERS, read, schedule_of
from tf_proxquant import files, litert
from tf_proxquant.datasets import Batches, EpochCounter, channel_statistics


@dataclasses.dataclass(frozen=True)
class Row:
    """One way from the warm start: the arguments of `ProxQuant`, no map for full precision."""

    prox: str | None
    memory: float = 0.0
    rate: float = 0.02
    quantizer: str = "binary"
    ends: str | None = None
    others: str | None = None  # regex of further layers that have what the ends have
    published: bool = False


EIGHT = "8 bits"
PUBLISHED = {"binary": pq.Binary, "ternary": pq.Ternary, "2 bits": lambda: pq.MultiBit(2)}
ROWS = {
    "full precision": Row(None, rate=0.01),
    "binary, memory": Row(AFFINE, 0.99),
    "binary, memory .998": Row(AFFINE, 0.998),
    "binary, BinaryConnect": Row("hard", 1.0, 0.01),
    "binary, PARQ": Row(AFFINE, 1.0),
    "binary, BinaryRelax": Row("relax", 1.0),
    "binary, ProxQuant as published": Row("l1", rate=0.01, published=True),
    "binary, ends at 8 bits, memory .998": Row(AFFINE, 0.998, ends=EIGHT),
    "ternary, ends at 8 bits, memory": Row(AFFINE, 0.997, quantizer="ternary", ends=EIGHT),
    "2 bits, ends at 8 bits, memory": Row(AFFINE, 0.997, quantizer="2 bits", ends=EIGHT),
    "ternary, ends and depthwise at 8 bits, memory": Row(
        AFFINE, 0.997, quantizer="ternary", ends=EIGHT, others="depthwise"
    ),
    "ternary, ends at 8 bits, PARQ": Row(AFFINE, 1.0, quantizer="ternary", ends=EIGHT),
    "2 bits, ends at 8 bits, PARQ": Row(AFFINE, 1.0, quantizer="2 bits", ends=EIGHT),
    "binary, ends at 8 bits, BinaryConnect": Row("hard", 1.0, 0.01, ends=EIGHT),
    "ternary, ProxQuant as published": Row("l2", 0.0, 0.01, "ternary", EIGHT, published=True),
    "2 bits, ProxQuant as published": Row("l2", 0.0, 0.01, "2 bits", EIGHT, published=True),
}


def mobilenet(shape, classes, preprocessing):
    """MobileNetV2 of width .35 that keeps 4 x 4 places at its end, where Keras' has one of 32 x 32.

    The last two depthwise convolutions that halve the image do not. Moving averages are those of
    the last hundred steps, for Keras' of a thousand lag behind so short a training.
    """
    model = keras.applications.MobileNetV2(
        shape, alpha=0.35, weights=None, classes=classes, classifier_activation=None,
        input_tensor=preprocessing(keras.Input(shape, name="image")),
    )  # fmt: skip
    config = model.get_config()
    for layer in config["layers"]:
        if layer["name"] in ("block_6_depthwise", "block_13_depthwise"):
            layer["config"].update(strides=(1, 1), padding="same")
        if layer["class_name"] == "BatchNormalization":
            layer["config"].update(momentum=0.99)
        if layer["name"] in ("block_6_pad", "block_13_pad"):
            layer["config"].update(padding=((0, 0), (0, 0)))
    return keras.Model.from_config(config)


@dataclasses.dataclass(frozen=True)
class Experiment:
    dataset: str
    network: str
    flip: bool = True
    pad: int = 4
    batch: int = 128
    epochs: int = 12


# Kept, so that rows that are added later start where the others did: <experiment>-<seed>-<epochs>.
WARM_STARTS = pathlib.Path(__file__).parents[1] / "docs" / "results" / "warm"
EXPERIMENTS = {
    "cifar10": Experiment("cifar10", "resnet20"),
    "fashion_mnist": Experiment("fashion_mnist", "resnet8", pad=2),
    "mobilenet": Experiment("cifar10", "mobilenet", epochs=6),
    "toy": Experiment("digits", "resnet8", flip=False, pad=1, batch=256, epochs=2),
}


class Study:
    """The runs of one experiment and seed."""

    def __init__(self, name, seed, epochs, data, folder):
        self.experiment = EXPERIMENTS[name]
        self.seed, self.data, self.folder = seed, data, folder / f"{name}-{seed}-{epochs}"
        self.epochs = epochs
        self.mean, self.deviation = map(np.ravel, channel_statistics(data.x_train))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.steps = -(-len(data.x_train) // self.experiment.batch)

    def network(self):
        """An untrained network that takes pixels as the data have them."""
        normalize = keras.layers.Normalization(
            mean=self.mean, variance=self.deviation**2, name="normalize"
        )
        shape, name = self.data.x_train.shape[1:], self.experiment.network
        keras.utils.set_random_seed(self.seed)
        if name == "mobilenet":
            return mobilenet(shape, 10, normalize)
        return pq.models.resnet(int(name[6:]), shape, 10, preprocessing=normalize)

    def fit(self, model, optimizer, place, seed):
        """Trains a copy of `model` that is fast, and gives its weights back."""
        data, experiment = self.data, self.experiment
        batches = Batches(
            data.x_train, data.y_train, experiment.batch, pad=experiment.pad,
            fill=self.mean, flip=experiment.flip, shuffle=True, seed=seed,
        )  # fmt: skip
        fast = fused.fused(model)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        fast.compile(optimizer(fast), loss, metrics=["accuracy"])
        callbacks = [
            keras.callbacks.BackupAndRestore(self.folder / place),
            EpochCounter(batches),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: _say(place, e, logs)),
        ]
        keras.utils.set_random_seed(seed)
        fast.fit(batches, epochs=self.epochs, shuffle=False, verbose=0, callbacks=callbacks)
        model.set_weights(fast.get_weights())
        return fast.optimizer

    def schedule(self, rate):
        """Half a cosine over a run."""
        return schedule_of(rate, self.epochs, self.steps)

    def warm_start(self):
        """Returns a network trained in full precision: the kept one, or one trained here."""
        path = WARM_STARTS / f"{self.folder.name}.weights.h5"
        if not path.exists():
            path = self.folder / "warm.weights.h5"
        model = self.network()
        if not path.exists():
            self.fit(
                model,
                lambda _: keras.optimizers.Adam(self.schedule(0.01)),
                "warm",
                self.seed,
            )
            with files.replacing(path) as temporary:
                model.save_weights(temporary)
        model.load_weights(path)
        return model

    def run(self, name):
        """Trains one row from the warm start; returns a dict of figures."""
        row, model = ROWS[name], self.warm_start()
        before, warm = _kernels(model), self.score(model)
        place = _place(name)
        is_resumed, start = any((self.folder / place).glob("*.h5")), time.process_time()
        optimizer = self.fit(model, lambda m: self.optimizer(row, m), place, self.seed + 1000)
        seconds = time.process_time() - start
        with files.replacing(self.weights_of(name)) as temporary:
            model.save_weights(temporary)
        figures = {
            "warm_start_accuracy": warm,
            "accuracy": self.score(model),
            "sign_change": pq.metrics.sign_changes(before, _kernels(model)),
            "core_seconds_of_training": None if is_resumed else round(seconds),
            "dtype": fused.fast_dtype(),
            "test_images": len(self.data.y_test),
            **self.exported(model),
        }
        if row.prox:
            figures["quantized_tensors"] = len(optimizer.quantized_variables)
        return figures

    def weights_of(self, name):
        """The file of the weights of a finished row."""
        return self.folder / f"{_place(name)}.weights.h5"

    def optimizer(self, row, model):
        """Returns the optimizer of a row for a model, not built."""
        total = self.epochs * self.steps
        rate = row.rate if row.published else self.schedule(row.rate)
        inner = keras.optimizers.Adam(rate)
        if row.prox is None:
            return inner
        quantizer = (PUBLISHED if row.published else QUANTIZERS)[row.quantizer]()
        skip = [] if self.experiment.network == "mobilenet" else ["shortcut"]
        select = pq.select_kernels(model, skip=skip)
        if row.ends:
            skip += [row.others] if row.others else []
            inside = pq.select_kernels(model, skip=skip, skip_first=True, skip_last=True)
            eight = pq.Uniform(8, axis=-1)
            # The shortcuts, which are not in it, have the quantizer of what is inside.
            select = {
                re.escape(v.path): quantizer if inside(v) else eight
                for v in model.trainable_variables
                if select(v)
            }
        return pq.ProxQuant(
            inner, quantizer, prox=row.prox, memory=row.memory, select=select,
            clip=1.0 if row.published else None,
            freeze_step=round((2 / 3 if row.published else 0.9) * total),
        )  # fmt: skip

    def score(self, model):
        model.compile(metrics=["accuracy"], loss="sparse_categorical_crossentropy")
        data = self.data
        return float(model.evaluate(data.x_test, data.y_test, batch_size=500, verbose=0)[1])

    def exported(self, model):
        """Bytes of the files, and the accuracy of "fast" in the interpreter."""
        figures = {}
        with tempfile.TemporaryDirectory() as folder:
            for profile in ("fast", "small"):
                path = pathlib.Path(folder, f"{profile}.tflite")
                report = litert.export(model, path, profile)
                figures[f"{profile}_bytes"] = path.stat().st_size
            figures["float_bytes"] = report.float_bytes
            path = pathlib.Path(folder, "fast.tflite")
            scores = litert.predict(path, np.asarray(self.data.x_test, "float32"))
        right = scores.argmax(-1) == self.data.y_test
        return {**figures, "tflite_accuracy": float(right.mean())}


def _place(name):
    return re.sub(r"\W+", "-", name)


def _kernels(model):
    return [v.numpy() for v in model.trainable_variables if v.path.endswith("kernel")]


def _say(place, epoch, logs):
    print(f"  {place} epoch {epoch + 1}: {logs['accuracy']:.4f} on training images", flush=True)


def study(arguments, rows):
    """Runs what is not in the results yet and adds a line for each run."""
    path = pathlib.Path(arguments.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    experiment = EXPERIMENTS[arguments.experiment]
    epochs = arguments.epochs or experiment.epochs
    data = pq.datasets.load(arguments.dataset or experiment.dataset)
    key = {"experiment": arguments.experiment, "epochs": epochs}
    for seed in map(int, arguments.seeds.split(",")):
        runs = Study(arguments.experiment, seed, epochs, data, pathlib.Path(arguments.workdir))
        for name in rows:
            line = {**key, "row": name, "seed": seed}
            if any(line.items() <= done.items() for done in read(path)):
                continue
            line |= {**dataclasses.asdict(ROWS[name]), **runs.run(name)}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            keras.backend.clear_session()


def report(results):
    """Returns a table of every experiment: mean and spread over the seeds."""
    lines = []
    groups = {(line["experiment"], line["epochs"]) for line in results}
    for experiment, epochs in sorted(groups):
        lines += [f"{experiment}, {epochs} epochs", "", TABLE_HEAD]
        chosen = [r for r in results if (r["experiment"], r["epochs"]) == (experiment, epochs)]
        for name in ROWS:
            own = [line for line in chosen if line["row"] == name]
            if own:
                lines.append(_table_row(name, own))
        lines.append("")
    return "\n".join(lines)


TABLE_HEAD = (
    "| | accuracy | .tflite | signs changed | `fast`, kB | `small`, kB | float, kB | seeds |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _table_row(name, runs):
    def mean(column):
        return np.mean([run[column] for run in runs])

    def accuracy(column):
        values = [run[column] for run in runs]
        spread = f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        return f"{mean(column):.4f}{spread}"

    sizes = [f"{mean(f'{c}_bytes') / 1000:.0f}" for c in ("fast", "small", "float")]
    cells = [accuracy("accuracy"), accuracy("tflite_accuracy"), f"{mean('sign_change'):.3f}"]
    return f"| {name} | {' | '.join(cells + sizes)} | {len(runs)} |"


COLORS = {
    "memory": "#0072B2",
    "memory .998": "#56B4E9",
    "BinaryConnect": "#D55E00",
    "PARQ": "#009E73",
    "BinaryRelax": "#CC79A7",
    "ProxQuant as published": "#E69F00",
    "full precision": "#444444",
}
MARKERS = {"binary": "o", "ternary": "^", "2 bits": "s"}
TITLES = {
    "cifar10": "CIFAR-10, ResNet-20",
    "fashion_mnist": "Fashion-MNIST, ResNet-8",
    "mobilenet": "CIFAR-10, MobileNetV2 .35",
}


def draw(results, path):
    """Draws the accuracy of every row over the bytes of its file, one panel an experiment.

    A bar is the standard error of one accuracy on that many test images, a dashed line the mean
    accuracy of the warm starts. Methods stand side by side, a twenty-fifth of the bytes apart.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullLocator

    groups = sorted({(line["experiment"], line["epochs"]) for line in results})
    figure = Figure(figsize=(5.5 * len(groups), 4.6), layout="constrained")
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        chosen = [line for line in results if (line["experiment"], line["epochs"]) == group]
        for name in ROWS:
            own = [line for line in chosen if line["row"] == name]
            if own:
                _draw_row(axes, name, own)
        warm = [line["warm_start_accuracy"] for line in chosen if "warm_start_accuracy" in line]
        if warm:
            axes.axhline(np.mean(warm), color="k", ls="--", lw=0.8)
        smallest = min(line["small_bytes"] for line in chosen)
        axes.set(xscale="log", xlim=(smallest / 2, 2 * chosen[0]["float_bytes"]))
        title = TITLES.get(group[0], group[0])
        axes.set_title(f"{title}: {group[1]} epochs, then {group[1]} more")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda size, _: f"{size / 1000:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("kilobytes of the .tflite: small; float for full precision")
        axes.set_ylabel("test accuracy of the last epoch")
        axes.grid(alpha=0.3)
    drawn = {line["row"] for line in results}
    methods = [m for m in COLORS if any(name.endswith(m) for name in drawn)]
    handles = [Line2D([], [], color=COLORS[name], lw=4, label=name) for name in methods]
    handles += [
        Line2D([], [], color="k", ls="", marker=marker, label=levels)
        for levels, marker in MARKERS.items()
        if any(name.startswith(levels) for name in drawn)
    ]
    if any(ROWS[name].ends for name in drawn):
        label = "first and last at 8 bits"
        handles.append(Line2D([], [], color="k", ls="", marker="o", mfc="w", label=label))
    handles.append(Line2D([], [], color="k", ls="--", lw=0.8, label="warm start"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_row(axes, name, runs):
    row = ROWS[name]
    method = name.rpartition(", ")[2]
    color, place = COLORS[method], list(COLORS).index(method) - (len(COLORS) - 1) / 2
    sizes = [run["small_bytes" if row.prox else "float_bytes"] * 1.04**place for run in runs]
    accuracies = np.array([run["accuracy"] for run in runs])
    images = np.array([run.get("test_images", 10_000) for run in runs])
    axes.errorbar(
        sizes, accuracies, np.sqrt(accuracies * (1 - accuracies) / images),
        marker=MARKERS[row.quantizer] if row.prox else "D", color=color, linestyle="",
        markersize=8, alpha=0.85, mfc="white" if row.ends else color, elinewidth=1, capsize=2,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", choices=sorted(EXPERIMENTS), default="cifar10")
    parser.add_argument("--dataset", default=None, help="an .npz, or a folder of IDX files")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rows", default="", help="regex")
    parser.add_argument("--epochs", type=int, default=None, help="of the warm start and each row")
    parser.add_argument("--results", default="docs/results/full_size.jsonl")
    parser.add_argument("--workdir", default="runs/full_size", help="warm starts, unfinished runs")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--picture", default=None, help="draw accuracy over bytes into this .png")
    parser.add_argument("--toy", action="store_true", help="two epochs of digits, two rows")
    arguments = parser.parse_args()
    rows = [name for name in ROWS if re.search(arguments.rows, name)]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.toy:
            arguments.experiment, arguments.dataset = "toy", None
            rows = ["binary, memory", "ternary, ends at 8 bits, memory"]
            arguments.results, arguments.workdir = pathlib.Path(folder, "runs.jsonl"), folder
        if not arguments.report:
            study(arguments, rows)
        print(report(read(arguments.results)))
        if arguments.picture or arguments.toy:
            draw(read(arguments.results), arguments.picture or pathlib.Path(folder, "toy.png"))


if __name__ == "__main__":
    main()
