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
from benchmarks import full_size_report, fused
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
    skip: tuple = ("shortcut",)  # regexes of layers that stay in full precision


# Kept, so that rows that are added later start where the others did: <experiment>-<seed>-<epochs>.
WARM_STARTS = pathlib.Path(__file__).parents[1] / "docs" / "results" / "warm"
EXPERIMENTS = {
    "cifar10": Experiment("cifar10", "resnet20"),
    "fashion_mnist": Experiment("fashion_mnist", "resnet8", pad=2),
    "mobilenet": Experiment("cifar10", "mobilenet", epochs=6, skip=()),
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
        skip = list(self.experiment.skip)
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
        results = read(arguments.results)
        print(full_size_report.tables(results, ROWS))
        if arguments.picture or arguments.toy:
            picture = arguments.picture or pathlib.Path(folder, "toy.png")
            full_size_report.draw(results, ROWS, picture)


if __name__ == "__main__":
    main()
