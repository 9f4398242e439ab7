"""Real architectures through every quantizer and profile: size, time, error, cost of the export.

    python -m benchmarks.zoo                          # all, about an hour on two cores
    python -m benchmarks.zoo --only=unet,mobilenetv2  # some of them
    python -m benchmarks.zoo --toy                    # one small network, seconds
    python -m benchmarks.zoo --table                  # docs/models.md from docs/results/zoo.csv

Weights are random, put on their levels by `pq.snap`, with random BatchNorm statistics. Latency is
the ratio to the float file, the two in turns, one thread, batch 1, XNNPACK. The error is the
largest output difference to Keras and to the float file on both sets of kernels, over the largest
output. Beside ours: what TensorFlow's converter makes of the same model (dynamic range, 8 bits)
and, where the package litert-quantizer is installed, its 4-bit dynamic recipe. Each network has a
process of its own, whose rows are appended to the CSV.
"""

import argparse
import csv
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import tf_proxquant as pq
from tf_proxquant import litert
from tf_proxquant.litert.check import timing
from tf_proxquant.litert.read import convert

FILE = pathlib.Path("docs/results/zoo.csv")
PAGE = pathlib.Path("docs/models.md")
FIELDS = (
    "model", "weights", "quantizer", "profile", "bytes", "share", "latency", "error",
    "cpu_seconds", "peak_mb", "remark",
)  # fmt: skip
PROFILES = ("fast", "portable", "small", "balanced", "dynamic", "static")
QUANTIZERS = {
    "1 bit": pq.Binary("mean", axis=-1),
    "ternary": pq.Ternary(axis=-1),
    "2 bits": pq.Uniform(2, axis=-1, mid_rise=True),
    "MultiBit(2)": pq.MultiBit(2, axis=-1),
    "4 bits": pq.Uniform(4, axis=-1),
    "8 bits": pq.Uniform(8, axis=-1),
}
IMAGE = (64, 64, 3)
PAGE_HEAD = """# Real networks, every profile

Share of the bytes of the float file, and latency as a ratio to it (one thread, batch 1, XNNPACK,
the two in turns). Weights are random, put on levels for each output channel; errors, the cost of
each export and the other quantizers are in [results/zoo.csv](results/zoo.csv). Measured on two
cores of an AMD EPYC with AVX512-VNNI, beside other jobs, by `python -m benchmarks.zoo
--quantizers="1 bit,2 bits,4 bits"`; this page by `python -m benchmarks.zoo --table`. Latencies of
`small`, and of `static` on the transformer, vary by a factor of two from run to run."""


def application(name, **options):
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=IMAGE, classes=10, **options)


def conv_norm(x, filters, size=3, layer=layers.Conv2D, **options):
    x = layer(filters, size, padding="same", use_bias=False, **options)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def unet():
    x, skips = keras.Input(IMAGE), []
    inputs = x
    for filters in (16, 32, 64):
        x = conv_norm(x, filters)
        skips.append(x)
        x = layers.MaxPool2D()(x)
    x = conv_norm(x, 128)
    for filters, skip in zip((64, 32, 16), reversed(skips), strict=True):
        x = conv_norm(x, filters, layer=layers.Conv2DTranspose, strides=2)
        x = conv_norm(layers.Concatenate()([x, skip]), filters)
    return keras.Model(inputs, layers.Conv2D(4, 1)(x))


def keywords():
    x = inputs = keras.Input((49, 10, 1))
    x = conv_norm(x, 64, (10, 4), strides=2)
    for _ in range(4):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = conv_norm(layers.ReLU()(layers.BatchNormalization()(x)), 64, 1)
    return keras.Model(inputs, layers.Dense(12)(layers.GlobalAveragePooling2D()(x)))


def sound():
    x = inputs = keras.Input((98, 40))
    for filters in (64, 64, 128):
        x = layers.MaxPool1D(2)(conv_norm(x, filters, 5, layer=layers.Conv1D))
    x = layers.Bidirectional(layers.GRU(64))(x)
    return keras.Model(inputs, layers.Dense(12)(x))


def language():
    words = keras.Input((20,), dtype="int32")
    x = layers.LSTM(128, return_sequences=True)(layers.Embedding(2000, 128)(words))
    return keras.Model(words, layers.Dense(2000)(x))


def transformer():
    words = keras.Input((32,), dtype="int32")
    x = layers.Embedding(2000, 64)(words)
    for _ in range(2):
        attended = layers.MultiHeadAttention(4, 16)(x, x)
        x = layers.LayerNormalization()(x + attended)
        wide = layers.Dense(64)(layers.Dense(256, activation="gelu")(x))
        x = layers.LayerNormalization()(x + wide)
    return keras.Model(words, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


def two_towers():
    towers, inputs = [], []
    for name, rows in (("user", 5000), ("item", 3000)):
        number = keras.Input((), dtype="int32", name=name)
        x = layers.Embedding(rows, 32)(number)
        x = layers.Dense(32)(layers.Dense(64, activation="relu")(x))
        towers.append(layers.UnitNormalization()(x))
        inputs.append(number)
    return keras.Model(inputs, layers.Dot(axes=1)(towers))


MODELS = {
    "resnet20": lambda: pq.models.resnet(20, (32, 32, 3), 10),
    "mobilenetv2": lambda: application("MobileNetV2", alpha=0.5),
    "mobilenetv3": lambda: application("MobileNetV3Small", minimalistic=True),
    "efficientnetb0": lambda: application("EfficientNetB0"),
    "densenet121": lambda: application("DenseNet121"),
    "unet": unet,
    "keywords": keywords,
    "sound": sound,
    "language": language,
    "transformer": transformer,
    "two_towers": two_towers,
}


def randomize(model, seed=0):
    """Gives BatchNorm, biases and offsets random values, so that folding has something to fold."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("beta", "bias", "moving_mean")):
            variable.assign(generator.normal(0, 0.1, variable.shape))


def samples(model, count=24):
    """Random inputs of a model, in its order."""
    generator = np.random.default_rng(1)
    found = []
    for tensor in model.inputs:
        shape = (count, *tensor.shape[1:])
        is_float = "float" in tensor.dtype
        values = generator.uniform(0, 255, shape) if shape[1:] == IMAGE else None
        if values is None:
            values = generator.normal(size=shape) if is_float else generator.integers(0, 999, shape)
        found.append(values.astype(tensor.dtype))
    return found[0] if len(found) == 1 else found


def rows_of(name, quantizers, profiles):
    """Yields a dict for each file of a network."""
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    randomize(model)
    before, data = model.get_weights(), samples(model)
    base = {"model": name, "weights": model.count_params()}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for quantizer_name in quantizers:
            model.set_weights(before)
            pq.snap(model, QUANTIZERS[quantizer_name])
            float_content = _float_file(model, folder)
            for profile in profiles:
                row = _our_row(model, profile, data, folder / "ours.tflite", float_content)
                yield {**base, "quantizer": quantizer_name, "profile": profile, **row}
        model.set_weights(before)
        for other, make in OTHERS.items():
            yield {**base, "quantizer": "none", "profile": other, **_row(make, model, folder)}


def _float_file(model, folder):
    content, _ = convert.convert(model)
    (folder / "float.tflite").write_bytes(content)
    return content


def _our_row(model, profile, data, path, float_content):
    options = {"representative_data": data} if profile == "static" else {}
    start = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            report = litert.export(model, path, profile, **options)
    except ValueError as error:
        return {"remark": str(error).split("\n")[0][:160]}
    left = [str(w.message) for w in caught if "stay float" in str(w.message)]
    return {
        **_sizes(path.read_bytes(), float_content),
        "error": f"{report.max_error:.1e}",
        "cpu_seconds": round(time.process_time() - start, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "remark": left[0][:160] if left else "",
    }


def _sizes(content, float_content):
    return {
        "bytes": len(content),
        "share": round(len(content) / len(float_content), 4),
        "latency": round(timing.measure_slowdown(content, float_content), 2),
    }


def tensorflow_file(model, folder):
    """What TensorFlow's converter makes of a model: bytes."""
    import tensorflow as tf

    path = folder / "other.tflite"
    model.export(path, format="litert", verbose=False, optimizations=[tf.lite.Optimize.DEFAULT])
    return path.read_bytes()


def quantizer_file(model, folder):
    """What the package litert-quantizer makes of the float file: bytes."""
    from litert_quantizer import quantizer, recipe

    del model
    made = quantizer.Quantizer(str(folder / "float.tflite"), recipe.dynamic_wi4_afp32())
    return bytes(made.quantize().quantized_model)


OTHERS = {"TensorFlow dynamic range": tensorflow_file, "litert-quantizer 4 bits": quantizer_file}


def _row(make, model, folder):
    try:
        return _sizes(make(model, folder), (folder / "float.tflite").read_bytes())
    except Exception as error:  # foreign code, which refuses in many ways
        return {"remark": f"{type(error).__name__}: {error}".split("\n")[0][:160]}


def run_apart(name, arguments):
    """Runs one network in a process of its own, which may crash."""
    command = [sys.executable, "-m", "benchmarks.zoo", f"--only={name}", "--here", *arguments]
    status = subprocess.run(command, check=False).returncode
    if status:
        append([{"model": name, "remark": f"the process ended with status {status}"}])


def append(rows):
    is_new = not FILE.exists()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with open(FILE, "a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def write_page():
    """docs/models.md: for each network the size and time of each profile, at 2 or 4 bits."""
    with open(FILE, newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(r["model"], r["quantizer"], r["profile"]): r for r in rows}
    parts = [PAGE_HEAD]
    for quantizer in ("1 bit", "2 bits", "4 bits"):
        lines = [f"## {quantizer}", "", "| network | float, kB | " + " | ".join(PROFILES) + " |"]
        lines.append("|" + "---|" * (len(PROFILES) + 2))
        for name in dict.fromkeys(r["model"] for r in rows if r["quantizer"] == quantizer):
            cells = [_cell(found.get((name, quantizer, profile))) for profile in PROFILES]
            fast = found.get((name, quantizer, "fast"), {})
            size = int(fast["bytes"]) / float(fast["share"]) / 1000 if fast.get("share") else 0
            lines.append(f"| {name} | {size:,.0f} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    lines = ["## Other tools, weights in full precision before", ""]
    lines += ["| network | " + " | ".join(OTHERS) + " |", "|" + "---|" * (len(OTHERS) + 1)]
    for name in dict.fromkeys(r["model"] for r in rows if r["profile"] in OTHERS):
        cells = [_cell(found.get((name, "none", other))) for other in OTHERS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    parts.append("\n".join(lines))
    PAGE.write_text("\n\n".join(parts) + "\n")


def _cell(row):
    if row is None or not row["share"]:
        return "refused" if row else "-"
    return f"{100 * float(row['share']):.1f} %, {float(row['latency']):.2f}"


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(MODELS))
    parser.add_argument("--quantizers", default=",".join(QUANTIZERS))
    parser.add_argument("--profiles", default=",".join(PROFILES))
    parser.add_argument("--here", action="store_true", help="in this process")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args(arguments)
    if options.toy:
        for row in rows_of("keywords", ["1 bit", "2 bits"], ("fast", "small", "dynamic")):
            print(row)
        return
    if options.table:
        write_page()
        return
    passed = [f"--quantizers={options.quantizers}", f"--profiles={options.profiles}"]
    for name in options.only.split(","):
        if not options.here:
            run_apart(name, passed)
            continue
        for row in rows_of(name, options.quantizers.split(","), options.profiles.split(",")):
            print(row, flush=True)
            append([row])


if __name__ == "__main__":
    main()
