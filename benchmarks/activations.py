"""Perplexity of a trained language model when its activations are rounded too.

    python -m benchmarks.activations runs/language/proxquant-2-0
    python -m benchmarks.activations --toy

Takes the folder of a run of train.py --model=lstm. First the files: weights exact and activations
float, then the dynamic profile, whose dense layers round their inputs to 8 bits at run time. Then
Keras with the hidden states rounded to fewer bits after training, uniformly over [-1, 1], for the
recurrent kernel and for the output: what kernels for such activations would compute.
"""

import argparse
import json
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from tf_proxquant import datasets, litert, models
from tf_proxquant.training import text


def file_rows(model, test):
    """Yields (name, perplexity, bytes) of exported files of a one-step model."""
    with tempfile.TemporaryDirectory() as folder:
        for profile, options in (
            ("small", {}), ("dynamic", {}), ("dynamic", {"dense_bits": 2})
        ):  # fmt: skip
            path = pathlib.Path(folder, "model.tflite")
            report = litert.export(model, path, profile, **options)
            name = ", ".join([profile, *(f"{key}={value}" for key, value in options.items())])
            yield name, text.perplexity_of_file(path, test), report.bytes


def rounded_perplexity(model, test, bits):
    """Perplexity of a one-step model of one layer, its hidden state rounded to 2^bits levels."""
    head = model.get_layer("head")
    kernel, bias = (keras.ops.convert_to_numpy(v) for v in (head.kernel, head.bias))
    state = {name: np.zeros((test.batch_size, len(kernel)), "float32")
             for name in ("hidden1", "cell1")}  # fmt: skip
    total = np.zeros(2)
    for inputs, targets, weights in (test[i] for i in range(len(test))):
        for step in range(inputs.shape[1]):
            outputs = model.predict_on_batch({"words": inputs[:, step : step + 1], **state})
            hidden = round_to(outputs["hidden1"], bits)
            state = {"hidden1": hidden, "cell1": outputs["cell1"]}
            logits = hidden @ kernel + bias
            used = weights[:, step]
            nats = text.cross_entropy(logits, targets[:, step]) * used
            total += nats.sum(), used.sum()
    return float(np.exp(total[0] / total[1]))


def round_to(values, bits):
    """The nearest of 2^bits equally spaced levels from -1 to 1; None rounds nothing."""
    if bits is None:
        return values
    steps = (1 << bits) - 1
    return (np.rint((values + 1) / 2 * steps) / steps * 2 - 1).astype("float32")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=pathlib.Path, help="folder of a run")
    parser.add_argument("--toy", action="store_true", help="an untrained model, a few words")
    options = parser.parse_args()
    if options.toy:
        data = datasets.load_text("grammar")
        model = models.with_states(models.lstm_language_model(len(data.vocabulary), 8, 8))
        test = datasets.Streams(data.test[:60], 20, 3)
    else:
        settings = json.loads((options.run / "settings.json").read_text())["settings"]
        data = datasets.load_text(settings["dataset"], max_words=settings["vocabulary"])
        model = keras.saving.load_model(options.run / "streaming.keras")
        test = datasets.Streams(data.test, 20, 20)
    print("| activations | perplexity | bytes |\n|---|---|---|")
    for name, perplexity, size in file_rows(model, test):
        print(f"| file, {name} | {perplexity:.2f} | {size:,} |", flush=True)
    for bits in (None, 8, 4, 3, 2):
        perplexity = rounded_perplexity(model, test, bits)
        print(f"| Keras, {bits or 32} bits | {perplexity:.2f} | |", flush=True)


if __name__ == "__main__":
    main()
