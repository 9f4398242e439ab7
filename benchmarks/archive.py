"""Size and expansion time of archives, beside deflate, xz and the entropy of the codes.

    python -m benchmarks.archive            # ResNet-20 and an MLP of 25 M weights, a few minutes
    python -m benchmarks.archive --toy      # seconds

Kernels are drawn at random from their levels, which is the hardest case: trained ones repeat more.
"""

import argparse
import lzma
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from tf_proxquant import litert, models

ROOT = pathlib.Path(__file__).resolve().parents[1]
LEVELS = {
    "binary": ([-1, 1], [0.5, 0.5]),
    "ternary": ([-1, 0, 1], [0.29, 0.42, 0.29]),
    "ternary {-n, 0, p}": ([-0.812738, 0, 1.137931], [0.29, 0.42, 0.29]),
    "sparse ternary": ([-1, 0, 1], [0.15, 0.7, 0.15]),
    "3 bits": (range(-3, 4), np.array([1, 3, 6, 8, 6, 3, 1]) / 28),
}


def mlp(num_layers, width):
    """Dense layers without bias: `num_layers * width^2` weights."""
    layers = [keras.layers.Dense(width, use_bias=False) for _ in range(num_layers)]
    return keras.Sequential([keras.Input((width,)), *layers])


def quantize(model, levels, shares, seed=0):
    """Draws kernels from `levels`; returns the entropy of their codes in bytes."""
    generator = np.random.default_rng(seed)
    entropy = 0.0
    for variable in model.trainable_variables:
        if variable.path.endswith("kernel"):
            codes = generator.choice(len(levels), variable.shape, p=shares)
            variable.assign(np.float32(levels)[codes] / 32)
            counts = np.bincount(codes.reshape(-1))
            counts = counts[counts > 0]
            entropy -= counts @ np.log2(counts / codes.size) / 8
        else:
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return entropy


def time_numpy(path, repeats):
    """Median milliseconds of `litert.expand`."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        litert.expand(path)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def build_harness(folder):
    """Compiles the C++ expander, or returns None without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    harness = os.path.join(folder, "harness")
    source = ROOT / "tests" / "pqz_harness.cc"
    options = ["-std=c++17", "-O2", "-I", ROOT / "device", "-o", harness]
    subprocess.run([compiler, source, *options, "-lz"], check=True)
    return harness


def time_cpp(harness, path, repeats):
    """Median milliseconds of `pqz::Expand`, NaN without a harness."""
    if harness is None:
        return float("nan")
    archive = path.read_bytes()
    message = struct.pack("<I", len(archive)) + archive
    run = subprocess.run([harness, str(repeats)], input=message, capture_output=True, check=True)
    return statistics.median(map(int, run.stdout.split())) / 1e3


def measure(name, model, kind, folder, harness, repeats):
    """One row of the table as text."""
    entropy = quantize(model, *LEVELS[kind])
    path = pathlib.Path(folder, "model.tflite")
    report = litert.export(model, path, archive=True, verify=False)
    packed = path.with_name("model.tflite.pqz")
    content = path.read_bytes()
    xz = len(lzma.compress(content, preset=6))
    cells = (
        f"{name}, {kind}",
        f"{report.float_bytes:,}",
        f"{report.bytes:,}",
        f"{len(zlib.compress(content, 6)):,}",
        f"{xz:,}",
        f"{report.archive_bytes:,}",
        f"{100 * report.archive_bytes / report.float_bytes:.2f} %",
        f"{entropy:,.0f}",
        f"{time_numpy(packed, repeats):.1f}",
        f"{time_cpp(harness, packed, repeats):.1f}",
    )
    return "| " + " | ".join(cells) + " |"


HEADER = """\
| model | float | fast | deflated | xz | archive | of float | entropy of codes | NumPy ms | C++ ms |
|---|---|---|---|---|---|---|---|---|---|"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--toy", action="store_true", help="small models, two kinds of levels")
    toy = parser.parse_args().toy
    cases = [
        ("ResNet-20" if not toy else "ResNet-8", models.resnet(8 if toy else 20, (32, 32, 3), 10)),
        ("MLP", mlp(2, 64) if toy else mlp(4, 2500)),
    ]
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        harness = build_harness(folder)
        for name, model in cases:
            for kind in list(LEVELS)[: 2 if toy or name == "MLP" else None]:
                print(measure(name, model, kind, folder, harness, 3 if toy else 11), flush=True)


if __name__ == "__main__":
    main()
