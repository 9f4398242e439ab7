"""Size, latency, memory and error of exported files, beside other ways to a small .tflite.

    python -m benchmarks.export             # all networks, about 10 minutes on two cores
    python -m benchmarks.export --toy       # two tiny networks, seconds
    python -m benchmarks.export --only=mlp  # one of them

Latency is the ratio to the float file, the two in turns in one process, one thread, batch 1. Memory
is the growth of a fresh process that loads and runs the file once. The error is the largest output
difference to the float file over the largest output. Kernels are drawn from their levels.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from tf_proxquant import litert, models
from tf_proxquant.litert.check import inputs as verification
from tf_proxquant.litert.check import outputs, runtime, timing
from tf_proxquant.litert.read import convert

BINARY = [-0.1, 0.1]
TERNARY = [-0.1, 0, 0.1]
TWO_BITS = [-0.12, -0.04, 0.04, 0.12]
KERNELS = ("kernel", "embeddings")
SECONDS = 1.0  # of timing for each file and set of kernels

MEASURE_MEMORY = """
import sys
from ai_edge_litert.interpreter import Interpreter
resident = lambda: 4 * int(open("/proc/self/statm").read().split()[1])
before = resident()
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
interpreter.invoke()
print(resident() - before)
"""


def mobile_net(size, num_blocks):
    """Depthwise-separable blocks in the manner of MobileNet."""
    x = inputs = keras.Input((size, size, 3))
    for block in range(num_blocks):
        width, strides = min(32 << (block // 2), 256), 1 + block % 2
        if block:
            x = keras.layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)
            x = keras.layers.ReLU(6)(keras.layers.BatchNormalization()(x))
        x = keras.layers.Conv2D(width, 1 if block else 3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU(6)(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def mlp(width):
    """784-width-width-10 with BatchNorm."""
    x = inputs = keras.Input((784,))
    for _ in range(2):
        x = keras.layers.BatchNormalization()(keras.layers.Dense(width, use_bias=False)(x))
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def language_model(vocabulary, width):
    """Embedding, one looped LSTM over 20 words, output layer."""
    inputs = keras.Input((20,), dtype="int32")
    x = keras.layers.Embedding(vocabulary, width)(inputs)
    x = keras.layers.LSTM(width, return_sequences=True)(x)
    return keras.Model(inputs, keras.layers.Dense(vocabulary)(x))


def networks(toy):
    """Dict {name: (function that builds the model, levels, profiles)}."""
    image, width, words = ((16, 16, 3), 64, 200) if toy else ((32, 32, 3), 1024, 10_000)
    depth, blocks = (8, 3) if toy else (20, 9)
    images = ("fast", "portable", "small", "balanced", "dynamic")
    dense = ("fast", "portable", "small", "dynamic")

    def resnet():
        return models.resnet(depth, image, 10)

    all_networks = {
        f"resnet{depth} binary": (resnet, BINARY, images),
        f"resnet{depth} ternary": (resnet, TERNARY, images),
        f"resnet{depth} 2-bit": (resnet, TWO_BITS, images),
        "mobilenet binary": (lambda: mobile_net(image[0] * 2, blocks), BINARY, images),
        "mlp binary": (lambda: mlp(width), BINARY, dense),
        "lstm binary": (lambda: language_model(words, min(width, 300)), BINARY, dense),
    }
    if toy:
        return {name: all_networks[name] for name in (f"resnet{depth} binary", "mlp binary")}
    return all_networks


def quantize(model, levels, seed=0):
    """Draws kernels from `levels`, everything else at random."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        shape = variable.shape
        if variable.path.endswith(KERNELS):
            variable.assign(generator.choice(np.float32(levels), shape))
        elif variable.path.endswith(("gamma", "variance")):
            variable.assign(generator.uniform(0.5, 1.5, shape))
        elif variable.dtype == "float32":
            variable.assign(generator.normal(0, 0.1, shape))
    return model


def our_files(model, profiles, folder):
    """Pairs of a name and the path of a file of ours."""
    for profile in profiles:
        path = folder / f"{profile}.tflite"
        try:
            litert.export(model, path, profile)
        except ValueError as error:
            print(f"  {profile}: {error}")
            continue
        yield profile, path


def converter_files(float_model, folder):
    """TensorFlow's post-training quantization, through a SavedModel."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as saved:
        signature = None
        if any(isinstance(layer, keras.layers.RNN) for layer in float_model.layers):
            signature = [keras.InputSpec(dtype="int32", shape=(1, *float_model.input_shape[1:]))]
        float_model.export(saved, verbose=False, input_signature=signature)
        for name, types in (("TF int8 dynamic", []), ("TF float16", [tf.float16])):
            converter = tf.lite.TFLiteConverter.from_saved_model(saved)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = types
            path = folder / f"{name.replace(' ', '_')}.tflite"
            path.write_bytes(converter.convert())
            yield name, path


def keras_files(build, levels, folder):
    """Keras' own int4 path."""
    path = folder / "keras_int4.tflite"
    try:
        model = quantize(build(), levels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one for each layer that it leaves alone
            model.quantize("int4")
        path.write_bytes(convert.convert(model)[0])
    except Exception as error:
        print(f"  Keras int4: {type(error).__name__}: {str(error).splitlines()[0][:90]}")
        return
    yield "Keras int4", path


def edge_files(float_path, folder):
    """ai-edge-quantizer, where it is installed: its int8 dynamic-range recipe."""
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError:
        return
    path = folder / "edge.tflite"
    try:
        edge = quantizer.Quantizer(str(float_path), recipe.dynamic_wi8_afp32())
        path.write_bytes(edge.quantize().quantized_model)
    except Exception as error:
        print(f"  ai-edge-quantizer: {type(error).__name__}: {str(error).splitlines()[0][:90]}")
        return
    yield "ai-edge-quantizer dynamic int8", path


def measure_memory(path):
    """Megabytes that loading and one run add to a fresh process."""
    command = [sys.executable, "-c", MEASURE_MEMORY, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1]) / 1024


def measure(path, float_content, inputs, expected, seconds):
    """The cells of one row of the table."""
    content = path.read_bytes()
    cells = [f"{len(content):,}", f"{100 * len(content) / len(float_content):.1f} %"]
    cells.append(f"{len(zlib.compress(content, 6)):,}")
    for kernels in runtime.KERNELS:
        ratio = timing.measure_slowdown(content, float_content, seconds, kernels)
        cells.append(f"{ratio:.2f}")
    cells.append(f"{measure_memory(path):.1f}")
    runner = runtime.Runner(content)
    found = runner(dict(zip(runner.input_names, inputs.values(), strict=True)))
    named = dict(zip(expected, found.values(), strict=True))
    cells.append(f"{outputs.relative_error(named, expected):.0e}")
    return cells


def run(name, build, levels, profiles, seconds):
    """Prints the rows of one network."""
    model = quantize(build(), levels)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        float_content, _ = convert.convert(model)
        float_path = folder / "float.tflite"
        float_path.write_bytes(float_content)
        inputs = verification.random_inputs(float_content)
        expected = runtime.Runner(float_content)(inputs)
        print(f"| **{name}** float32 | ", end="")
        print(" | ".join(measure(float_path, float_content, inputs, expected, seconds)), "|")
        for files in (
            our_files(model, profiles, folder),
            converter_files(model, folder),
            keras_files(build, levels, folder),
            edge_files(float_path, folder),
        ):
            for label, path in files:
                try:
                    cells = measure(path, float_content, inputs, expected, seconds)
                except (RuntimeError, ValueError, subprocess.CalledProcessError) as error:
                    cells = [f"{path.stat().st_size:,}", f"does not run: {str(error)[:60]!r}"]
                print(f"| {label} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny networks, one round")
    parser.add_argument("--only", default="", help="run the networks whose name contains this")
    options = parser.parse_args()
    print("| file | bytes | of float | deflated | XNNPACK | builtin | MB | error |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (build, levels, profiles) in networks(options.toy).items():
        if options.only in name:
            run(name, build, levels, profiles, 0.02 if options.toy else SECONDS)


if __name__ == "__main__":
    main()
