"""Trained networks on microcontrollers: accuracy, flash, arena, estimated time on an NPU.

    python -m benchmarks.microcontrollers --data=/usr/share/datasets/fashion-mnist
    python -m benchmarks.microcontrollers --toy    # digits, one small network, seconds

Trains each network in full precision, and from there at one bit, and keeps both in --folder; the
next call measures those. Accuracy: of Keras and of the file in LiteRT, on all test images.
tflite-micro and Arm's vela run in .venv-micro, which `make test-micro` sets up; without it their
columns are empty. Bytes: of the file, which lies in flash as it is. Agree: for how many of 100 test
images tflite-micro gives the class of LiteRT's builtin kernels, and by how many codes of 8 bits the
scores differ at most. Flash, SRAM and cycles: what vela estimates for an Ethos-U55 with 128
multipliers at 500 MHz.
"""

import argparse
import os
import pathlib
import tempfile
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import tf_proxquant as pq
from tests.micro import run as micro
from tf_proxquant import litert

BATCH = 64
SAMPLES = 100
# Images to train on, epochs in full precision and at one bit.
SETTINGS = {"ds_cnn": (30_000, 3, 5), "resnet20": (10_000, 3, 5)}
TOY = {"toy": (256, 1, 1)}
HEADER = """\
| network | weights | Keras | file | bytes | arena | agree | flash, KiB | SRAM, KiB | cycles | ms |
|---|---|---|---|---|---|---|---|---|---|---|"""


def ds_cnn(shape, width=64, blocks=4):
    """Depthwise-separable blocks, as in keyword spotting; takes pixels."""

    def norm(x):
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    strides = 2 if shape[0] > 16 else 1
    x = norm(layers.Conv2D(width, 5, strides, padding="same", use_bias=False)(x))
    for _ in range(blocks):
        x = norm(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = norm(layers.Conv2D(width, 1, use_bias=False)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def resnet(shape):
    return pq.models.resnet(20, shape, 10, preprocessing=layers.Rescaling(1 / 127.5, -1))


def toy(shape):
    return ds_cnn(shape, width=16, blocks=1)


NETWORKS = {"ds_cnn": ds_cnn, "resnet20": resnet, "toy": toy}


def train(name, data, setting, folder):
    """Paths of the network in full precision and at one bit, trained unless they are there."""
    paths = [folder / f"{name}-{kind}.keras" for kind in ("float", "1bit")]
    if all(path.exists() for path in paths):
        return paths
    keras.utils.set_random_seed(0)
    count, warm, binary = setting
    x, y = data.x_train[:count].astype(np.float32), data.y_train[:count]
    model = NETWORKS[name](x.shape[1:])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    steps = -(-len(x) // BATCH)

    def fit(optimizer, epochs, path):
        start = time.time()
        model.compile(optimizer, loss)
        model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
        model.save(path)
        print(f"{path.name}: {epochs} epochs in {time.time() - start:.0f} s", flush=True)

    def adam(rate, epochs):
        schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
        return keras.optimizers.Adam(schedule)

    fit(adam(0.005, warm), warm, paths[0])
    optimizer = pq.ProxQuant(
        adam(0.01, binary),
        pq.Binary("mean", axis=-1),
        prox="piecewise_affine",
        memory=0.99,
        freeze_step=int(0.9 * binary * steps),
    )
    fit(optimizer, binary, paths[1])
    return paths


def export(path, weights, data, folder):
    """(path of the file, its report) of a saved network, with test images beside it."""
    target = folder / f"{path.stem}-{weights}.tflite"
    options = {"io": "int8", "batch_size": 1, "weights": weights}
    samples = data.x_train[:200].astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = pq.export(path, target, "static", representative_data=samples, **options)
    micro.write_inputs(target, data.x_test[:SAMPLES].astype(np.float32), report)
    return target, report


def accuracy(path, data):
    """Share of the test images that a saved network, or a file in LiteRT, gets right."""
    images = data.x_test.astype(np.float32)
    if path.suffix == ".keras":
        scores = keras.saving.load_model(path).predict(images, batch_size=256, verbose=0)
    else:
        scores = litert.predict(path, images)
    return f"{np.mean(scores.argmax(-1) == data.y_test):.4f}"


def rows(path, data, folder):
    """Yields the lines of one saved network; those of one bit in every storage."""
    before = accuracy(path, data)
    wide = None
    for weights in ("int8", "int4", "tables") if "1bit" in path.stem else ("int8",):
        target, _ = export(path, weights, data, folder)
        wide = wide or target
        after = "as int8" if weights == "tables" else accuracy(target, data)
        cells = [path.stem, weights, before, after, f"{target.stat().st_size:,}"]
        yield "| " + " | ".join(cells + on_device(target, weights, wide)) + " |"


def on_device(path, weights, wide):
    """Cells of tflite-micro and of vela."""
    if not micro.PYTHON.exists():
        return ["-"] * 6
    (found,) = micro.ask("micro", [path]).values()
    if "error" in found:
        return [found["error"], *["-"] * 5]
    scores, expected = micro.outputs_of(path, path if weights == "int4" else wide)
    agree = (scores.argmax(-1) == expected.argmax(-1)).sum()
    cells = [f"{found['arena']:,}", f"{agree}, {np.abs(scores - expected).max()}"]
    if weights != "int8":
        return cells + ["-"] * 4
    (said,) = micro.ask("vela", [path]).values()
    if "error" in said:
        return [*cells, said["error"], *["-"] * 3]
    numbers = [f"{said[key]:.1f}" for key in ("flash", "sram")]
    return [*cells, *numbers, f"{said['cycles']:,.0f}", f"{said['ms']:.2f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="a set of images, as for datasets.load")
    parser.add_argument("--folder", default="runs/microcontrollers", help="of trained networks")
    parser.add_argument("--toy", action="store_true", help="digits, one small network")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        folder = temporary if options.toy else pathlib.Path(options.folder)
        folder.mkdir(parents=True, exist_ok=True)
        data = pq.datasets.load("digits" if options.toy else options.data)
        settings = TOY if options.toy else SETTINGS
        paths = [p for name in settings for p in train(name, data, settings[name], folder)]
        print(HEADER)
        for path in paths:
            for line in rows(path, data, temporary):
                print(line, flush=True)


if __name__ == "__main__":
    main()
