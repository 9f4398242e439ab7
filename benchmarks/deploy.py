"""What each profile costs to ship and to run: the file, its archive, its time, its error.

    python -m benchmarks.deploy           # ResNet-20 at 1 and 2 bits, about 3 minutes
    python -m benchmarks.deploy --toy     # a small one, seconds

Kernels are random, put on their levels by `pq.snap`, with random BatchNorm statistics. Bytes and
archive are shares of the float file, latency is the ratio to it, the two in turns, one thread,
batch 1, XNNPACK, median of three. Expand: milliseconds of `pq.expand` (NumPy), once after the
download. Error: the largest output difference to the Keras model over the largest output, on both
sets of kernels.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import warnings
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tf_proxquant as pq
from benchmarks import zoo
from benchmarks.archive import time_numpy
from tf_proxquant.litert.check import timing
from tf_proxquant.litert.read import convert

QUANTIZERS = {
    "1 bit": pq.Binary("mean", axis=-1),
    "2 bits": pq.Uniform(2, axis=-1, mid_rise=True),
}
WAYS = {
    "fast": {},
    "portable": {},
    "float16": {"profile": "fast", "constants": "float16"},
    "small": {},
    "balanced": {},
    "dynamic": {},
    "static": {},
    "static, io=uint8": {"profile": "static", "io": "uint8"},
}
HEADER = """\
| file | bytes | of float | deflated | archive | expand, ms | latency | error |
|---|---|---|---|---|---|---|---|"""
NUM_SAMPLES = 48


def pictures(shape):
    """Smooth random pictures of 0 to 255, among which some pixel is each."""
    generator = np.random.default_rng(1)
    coarse = generator.uniform(0, 255, (NUM_SAMPLES, 4, 4, 3))
    smooth = keras.ops.convert_to_numpy(keras.ops.image.resize(coarse, shape[:2], "bicubic"))
    smooth = np.rint(smooth).clip(0, 255).astype(np.float32)
    smooth[0, 0, 0, :2] = 0, 255
    return smooth


def take_pixels(model):
    """(the model behind a layer that takes pixels, pictures that its BatchNorm statistics fit)."""
    norms = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    inputs = keras.Input(model.input_shape[1:])
    model = keras.Model(inputs, model(keras.layers.Rescaling(1 / 127.5, -1)(inputs)))
    data = pictures(model.input_shape[1:])
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(data, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model, data


def row(name, content, float_content, seconds, archive=None, error=0.0):
    """One line of the table; `archive` is a path."""

    def share(size):
        return f"{100 * size / len(float_content):.1f} %"

    slowdown = statistics.median(
        timing.measure_slowdown(content, float_content, seconds) for _ in range(3)
    )
    cells = [name, f"{len(content):,}", share(len(content))]
    cells.append(share(len(zlib.compress(content, 9))))
    if archive is None:
        cells += ["-", "-"]
    else:
        cells += [share(archive.stat().st_size), f"{time_numpy(archive, 5):.1f}"]
    return "| " + " | ".join([*cells, f"{slowdown:.2f}", f"{error:.0e}"]) + " |"


def rows(label, model, data, folder, seconds):
    """Yields the lines of one network."""
    float_content, _ = convert.convert(model)
    yield row(f"**{label}** float", float_content, float_content, seconds)
    for name, options in WAYS.items():
        options = {"profile": name, **options}
        if options["profile"] == "static":
            options["representative_data"] = data
        path = folder / "model.tflite"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = pq.export(model, path, archive=True, inputs=data, **options)
        content, archive = path.read_bytes(), path.with_name("model.tflite.pqz")
        assert_same(archive, content)
        yield row(name, content, float_content, seconds, archive, report.max_error)


def assert_same(archive, content):
    if pq.expand(archive) != content:
        raise ValueError(f"{archive} does not expand to its file.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="one small network")
    toy = parser.parse_args().toy
    print(HEADER)
    depth, shape = (8, (16, 16, 3)) if toy else (20, (32, 32, 3))
    for bits, quantizer in list(QUANTIZERS.items())[: 1 if toy else None]:
        keras.utils.set_random_seed(0)
        model = pq.models.resnet(depth, shape, 10)
        zoo.randomize(model)
        pq.snap(model, quantizer)
        model, data = take_pixels(model)
        with tempfile.TemporaryDirectory() as folder:
            label = f"ResNet-{depth}, {bits}"
            for line in rows(label, model, data, pathlib.Path(folder), 0.01 if toy else 1.5):
                print(line, flush=True)


if __name__ == "__main__":
    main()
