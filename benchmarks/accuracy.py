r"""Methods of quantized training side by side: same data, same warm start, same budget.

    python -m benchmarks.accuracy                        # digits, scored on held-out images
    python -m benchmarks.accuracy --dataset=fashion_mnist --data_dir=... --images=10000 --pool=2 \
        --width=8 --epochs=10 --full_precision_epochs=10 --batch_size=128 --held_out=0
    python -m benchmarks.accuracy --toy                  # seconds, shows that it runs

Each seed trains one full-precision warm start, and every row goes on from it for the same epochs.
A finished run is a JSON file in --workdir and is not run again: a study that was stopped goes on,
and several processes may share one with --seeds=0 and --seeds=1. At the end, or with --report
alone, all finished runs become a table (mean and sample standard deviation of the last epoch's
accuracy; signs changed since the warm start; share on the grid an epoch before the freeze) and
the picture accuracy.png.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags

from tf_proxquant import datasets, files
from tf_proxquant.training import Settings, images, phases
from tf_proxquant.training.workdir import Workdir

_DATASET = flags.DEFINE_string("dataset", "digits", "As of train.py.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "As of train.py.")
_IMAGES = flags.DEFINE_integer("images", None, "Train on the first so many images. Default: all.")
_HELD_OUT = flags.DEFINE_integer(
    "held_out", 360, "Score on so many training images, left out of the training; 0: the test set."
)
_POOL = flags.DEFINE_integer("pool", 1, "Average blocks of so many pixels squared.")
_MODEL = flags.DEFINE_string("model", "resnet8", "As of train.py.")
_WIDTH = flags.DEFINE_integer("width", 16, "As of train.py.")
_WARM_EPOCHS = flags.DEFINE_integer("full_precision_epochs", 20, "Epochs of the warm start.")
_EPOCHS = flags.DEFINE_integer("epochs", 50, "Epochs from the warm start on.")
_FREEZE = flags.DEFINE_integer("freeze_epoch", None, "Default: as of train.py.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per step.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
_ROWS = flags.DEFINE_string("rows", "", "Only rows whose name contains this.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs. Default: by the data set.")
_REPORT = flags.DEFINE_bool("report", False, "Run nothing, report what is there.")
_TOY = flags.DEFINE_bool("toy", False, "One seed, two epochs, three rows, in a temporary folder.")

# The paper's recipe: levels -1 and +1 in a box, a constant learning rate. At 0.01 by default.
_PUBLISHED = {"per_channel": False, "decay": "constant", "learning_rate": 0.01}
_LAZY = {"BinaryConnect": "binaryconnect", "BinaryRelax": "binaryrelax", "PARQ": "parq"}

ROWS = {
    "full precision, continued": {"method": "full_precision", "freeze_epoch": None},
    "binary, warm start snapped": {"method": "proxquant", "freeze_epoch": 0},
    "binary, ProxQuant as published": {"regularizer": "l1", **_PUBLISHED},
    "binary, ProxQuant l1": {"regularizer": "l1"},
    "binary, ProxQuant": {"method": "proxquant"},
    "binary, ProxQuant at 0.01": {"method": "proxquant", "learning_rate": 0.01},
    "binary, BinaryConnect -1, +1": {"method": "binaryconnect", "per_channel": False},
    **{f"binary, {name}": {"method": method} for name, method in _LAZY.items()},
    "binary, BinaryConnect at 0.01": {"method": "binaryconnect", "learning_rate": 0.01},
    "binary, PARQ at 0.01": {"method": "parq", "learning_rate": 0.01},
}
for _name, _levels in (
    ("ternary", {"quantizer": "ternary"}),
    ("2 bits", {"quantizer": "multibit", "learning_rate": 0.05}),
):
    ROWS[f"{_name}, ProxQuant as published"] = {"regularizer": "l2", **_levels, **_PUBLISHED}
    ROWS[f"{_name}, ProxQuant l2"] = {"regularizer": "l2", **_levels}
    ROWS[f"{_name}, ProxQuant concave"] = {"regularizer": "concave", **_levels}
    ROWS.update({f"{_name}, {n}": {"method": m, **_levels} for n, m in _LAZY.items()})
ROWS["binary, memory"] = {"method": "memory"}
ROWS["ternary, memory"] = {"method": "memory", "quantizer": "ternary"}
ROWS["2 bits, memory"] = {"method": "memory", "quantizer": "multibit"}


def load_images():
    """Returns the `datasets.Images` that the flags name."""
    data = datasets.load(_DATASET.value, _DATA_DIR.value)
    order = np.random.default_rng(0).permutation(len(data.x_train))
    held_out, kept = order[: _HELD_OUT.value], order[_HELD_OUT.value :][: _IMAGES.value]
    x_test, y_test = data.x_test, data.y_test
    if len(held_out):
        x_test, y_test = data.x_train[held_out], data.y_train[held_out]
    return data._replace(
        x_train=pooled(data.x_train[kept]), y_train=data.y_train[kept],
        x_test=pooled(x_test), y_test=y_test,
    )  # fmt: skip


def pooled(pixels):
    """Averages blocks of --pool x --pool pixels."""
    size = _POOL.value
    if size == 1:
        return pixels
    count, height, width, channels = pixels.shape
    blocks = pixels.reshape(count, height // size, size, width // size, size, channels)
    return blocks.mean(axis=(2, 4), dtype="float32")


class StudyTask(images.ImageTask):
    """Images that are all scored at the end of a run, and a thousand of them each epoch."""

    def __init__(self, settings, data):
        super().__init__(settings, data)
        part = data._replace(x_test=data.x_test[:1000], y_test=data.y_test[:1000])
        self.all, self.validation = self.validation, images.ImageTask(settings, part).validation

    def score(self, model):
        return float(model.evaluate(self.all, verbose=0, return_dict=True)["accuracy"])


def run_row(name, seed, base, data, folder):
    """Trains one row from the seed's warm start, which is made if need be; returns its result."""
    started = time.perf_counter()
    warm = folder / f"warm-{seed}.keras"
    with tempfile.TemporaryDirectory() as scratch:
        if not warm.exists():
            settings = Settings(**base, seed=seed, workdir=f"{scratch}/warm")
            model, _ = full_precision(settings, data)
            with files.replacing(warm) as temporary:
                model.save(temporary)
        place = {"seed": seed, "workdir": f"{scratch}/row", "init_from": str(warm)}
        settings = Settings(**{**base, **place, **ROWS[name]})
        model, measured = full_precision(settings, data)
        rows = []
        if settings.method != "full_precision":
            task, workdir = StudyTask(settings, data), Workdir(settings.workdir)
            _, measured = phases.quantized(settings, task, workdir, model)
            rows = workdir.read_metrics("quantized")
    before = [row for row in rows if row["epoch"] == settings.first_frozen_epoch - 2]
    return {
        "row": name,
        "seed": seed,
        "accuracy": measured.get("quantized_accuracy", measured.get("full_precision_accuracy")),
        "sign_change": measured.get("sign_change"),
        "on_grid": before[0]["on_grid"] if before else None,
        "quantization_error": before[0]["quantization_error"] if before else None,
        "seconds": round(time.perf_counter() - started, 1),
        "settings": dataclasses.asdict(settings),
    }


def full_precision(settings, data):
    """Runs the full-precision phase; returns (model, dict with its accuracy)."""
    workdir = Workdir.open(settings)
    keras.utils.set_random_seed(settings.seed)
    return phases.full_precision(settings, StudyTask(settings, data), workdir)


def report(folder):
    """Prints the table of all finished runs and draws the picture."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("run-*.json"))]
    print(
        "| | accuracy | signs changed | on grid before the freeze | seeds |\n|---|---|---|---|---|"
    )
    for name in ROWS:
        results = [result for result in found if result["row"] == name]
        if results:
            columns = ("accuracy", "sign_change", "on_grid")
            cells = [_cell([result[column] for result in results]) for column in columns]
            print(f"| {name} | {' | '.join(cells)} | {len(results)} |")
    draw(found, folder / "accuracy.png")
    print(f"picture: {folder / 'accuracy.png'}")


def _cell(values):
    values = [value for value in values if value is not None]
    if not values:
        return ""
    spread = f" +- {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def draw(found, path):
    """Draws the accuracy of each run as a dot, of each row the mean as a line."""
    from matplotlib.figure import Figure

    names = [name for name in ROWS if any(result["row"] == name for result in found)]
    figure = Figure(figsize=(8, 0.28 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for height, name in enumerate(reversed(names)):
        values = [result["accuracy"] for result in found if result["row"] == name]
        color = "#0072B2" if "ProxQuant" in name else "#D55E00" if "," in name else "#666666"
        axes.plot(values, [height] * len(values), "o", color=color, markersize=4, alpha=0.6)
        axes.plot([statistics.mean(values)] * 2, [height - 0.35, height + 0.35], color=color)
    axes.set_yticks(range(len(names)), reversed(names))
    axes.set_xlabel("accuracy of the last epoch")
    axes.grid(axis="x", alpha=0.3)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def study(folder, base, seeds, names):
    """Runs what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    data = load_images()
    missing = [(seed, name) for seed in seeds for name in names]
    for number, (seed, name) in enumerate(missing, 1):
        path = folder / f"run-{list(ROWS).index(name):02d}-{seed}.json"
        if path.exists():
            continue
        result = run_row(name, seed, base, data, folder)
        with files.replacing(path) as temporary:
            temporary.write_text(json.dumps(result))
        print(f"{number}/{len(missing)}  seed {seed}  {name}  {result['accuracy']:.4f}", flush=True)


def main(_):
    folder = pathlib.Path(_WORKDIR.value or f"runs/accuracy-{_DATASET.value}")
    base = dict(
        dataset=_DATASET.value, model=_MODEL.value, width=_WIDTH.value,
        full_precision_epochs=_WARM_EPOCHS.value, epochs=_EPOCHS.value,
        freeze_epoch=_FREEZE.value, batch_size=_BATCH_SIZE.value,
    )  # fmt: skip
    names = [name for name in ROWS if _ROWS.value in name]
    if _TOY.value:
        base = dict(full_precision_epochs=1, epochs=3, freeze_epoch=2, batch_size=256)
        with tempfile.TemporaryDirectory() as temporary:
            study(pathlib.Path(temporary), base, [0], [names[0], names[4], "binary, memory"])
            report(pathlib.Path(temporary))
        return
    if not _REPORT.value:
        study(folder, base, [int(seed) for seed in _SEEDS.value], names)
    report(folder)


if __name__ == "__main__":
    app.run(main)
