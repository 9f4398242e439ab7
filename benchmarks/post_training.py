"""What post-training quantization loses, ours beside TensorFlow's and litert-quantizer's.

    python -m benchmarks.post_training          # three seeds, a few minutes on two cores
    python -m benchmarks.post_training --toy    # seconds, shows that it runs

A ResNet-8 learns digits in full precision (1,437 images); its weights are put on levels by
`pq.snap` without any training, the first and last layer at 8 bits or all alike, and exported.
Beside it the same trained network goes through TensorFlow's converter (dynamic range) and, where
the package litert-quantizer is installed, its 8- and 4-bit dynamic recipes. Prints the accuracy of
each file on the 360 test images, scored by the interpreter, as mean and spread over the seeds, and
the size.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tf_proxquant as pq
from tf_proxquant import litert

SEEDS = (10, 11, 12)
EPOCHS = 20
QUANTIZERS = {
    "8 bits": pq.Uniform(8, axis=-1),
    "4 bits": pq.Uniform(4, axis=-1),
    "3 bits": pq.Uniform(3, axis=-1),
    "2 bits": pq.Uniform(2, axis=-1, mid_rise=True),
    "ternary": pq.Ternary(axis=-1),
    "1 bit": pq.Binary("mean", axis=-1),
}


def trained(digits, seed, epochs):
    """A network trained in full precision, which takes the pixels as they are."""
    keras.utils.set_random_seed(seed)
    inner = pq.models.resnet(8, (8, 8, 1), 10)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, inner(keras.layers.Rescaling(1 / 6, -0.8)(inputs)))
    rate = keras.optimizers.schedules.CosineDecay(0.01, epochs * 45)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(digits.x_train, digits.y_train, epochs=epochs, verbose=0)
    return model


def ends(model, quantizer):
    """`select` that gives the first and the last layer 8 bits and all others `quantizer`."""
    kernels = [v for v in model.trainable_variables if v.path.endswith("kernel")]
    edges = {id(kernels[0]), id(kernels[-1])}
    eight = pq.Uniform(8, axis=-1)
    return [(v, eight if id(v) in edges else quantizer) for v in kernels]


def snapped(model, quantizer, has_wide_ends):
    """Puts the weights of a model on levels."""
    if not has_wide_ends:
        pq.snap(model, quantizer)
        return
    for variable, own in ends(model, quantizer):
        pq.snap(model, own, select=lambda v, variable=variable: v is variable)


def files(model, folder):
    """Yields (name, bytes) of every way to a small file."""
    before = model.get_weights()
    path = folder / "model.tflite"
    for name, quantizer in QUANTIZERS.items():
        for has_wide_ends in (False, True):
            snapped(model, quantizer, has_wide_ends)
            litert.export(model, path, "small")
            model.set_weights(before)
            yield f"{name}, ends at 8" if has_wide_ends else name, path.read_bytes()
    yield from others(model, folder)


def others(model, folder, calibration=None):
    """Yields (name, bytes) of the float file and of other tools' files.

    Args:
      model: a `keras.Model` of one input.
      folder: of temporary files.
      calibration: images from which TensorFlow finds the ranges of activations; None makes no
        file that needs them.
    """
    import tensorflow as tf

    path = folder / "float.tflite"
    model.export(path, format="litert", verbose=False)
    yield "float", path.read_bytes()
    other = folder / "other.tflite"
    model.export(other, format="litert", verbose=False, optimizations=[tf.lite.Optimize.DEFAULT])
    yield "TensorFlow dynamic range, 8 bits", other.read_bytes()
    if calibration is not None:
        model.export(
            other, format="litert", verbose=False, optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=lambda: ([image[np.newaxis]] for image in calibration),
        )  # fmt: skip
        yield "TensorFlow static, 8 bits", other.read_bytes()
    try:
        from litert_quantizer import quantizer, recipe
    except ImportError:
        return
    for bits, made in ((8, recipe.dynamic_wi8_afp32()), (4, recipe.dynamic_wi4_afp32())):
        file = quantizer.Quantizer(str(path), made).quantize().quantized_model
        yield f"litert-quantizer dynamic, {bits} bits", bytes(file)


def run(seeds, epochs):
    digits = pq.datasets.load("digits")
    found = {}
    for seed in seeds:
        model = trained(digits, seed, epochs)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files(model, pathlib.Path(folder)):
                scores = litert.predict(content, np.asarray(digits.x_test, "float32"))
                accuracy = float((scores.argmax(-1) == digits.y_test).mean())
                found.setdefault(name, []).append((accuracy, len(content)))
    print(f"Seeds {', '.join(map(str, seeds))}; test accuracy on {len(digits.y_test)} images.")
    print("| weights | accuracy | bytes |\n|---|---|---|")
    for name, results in found.items():
        accuracies = [accuracy for accuracy, _ in results]
        spread = f"{np.mean(accuracies):.4f} +- {np.std(accuracies):.4f}"
        print(f"| {name} | {spread} | {results[0][1]:,} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true")
    run((10,), 1) if parser.parse_args().toy else run(SEEDS, EPOCHS)


if __name__ == "__main__":
    main()
