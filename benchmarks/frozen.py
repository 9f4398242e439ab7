"""What a training step saves once all kernels are frozen and their gradients are skipped.

    python -m benchmarks.frozen [--depth=20] [--batch=128] [--rounds=15] [--toy]

Three copies of a CIFAR ResNet take turns on random images of 32 x 32: one trains with bare Adam,
one with ProxQuant and frozen kernels, one so and with `SkipFrozenGradients`. The figures are
medians over the rounds, as ratios to bare Adam in the same round.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tf_proxquant as pq


def make_model(depth, width, optimizer):
    """Returns a compiled ResNet."""
    keras.utils.set_random_seed(0)
    model = pq.models.resnet(depth, (32, 32, 3), 10, width=width)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--toy", action="store_true")
    arguments = parser.parse_args()
    depth, width = (8, 4) if arguments.toy else (arguments.depth, 16)
    batch, rounds = (4, 2) if arguments.toy else (arguments.batch, arguments.rounds)

    def frozen():
        return pq.ProxQuant(keras.optimizers.Adam(), pq.Binary(), 1.0, freeze_step=0)

    models = {
        "Adam": make_model(depth, width, keras.optimizers.Adam()),
        "frozen": make_model(depth, width, frozen()),
        "frozen, gradients skipped": make_model(depth, width, frozen()),
    }
    random = np.random.default_rng(0)
    images = random.normal(size=(batch, 32, 32, 3)).astype("float32")
    labels = random.integers(0, 10, batch)
    skip = pq.callbacks.SkipFrozenGradients()
    skip.set_model(models["frozen, gradients skipped"])
    skip.on_train_begin()
    times = {name: [] for name in models}
    for model in models.values():
        model.train_on_batch(images, labels)
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model.train_on_batch(images, labels)
            times[name].append(time.perf_counter() - start)
    print(f"ResNet-{depth}, batch {batch}, {keras.backend.backend()}, {rounds} rounds")
    print("| kernels | milliseconds per training step | to Adam | quartiles |\n|---|---|---|---|")
    for name, seconds in times.items():
        ratios = sorted(t / b for t, b in zip(seconds, times["Adam"], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
        print(f"| {name} | {1e3 * statistics.median(seconds):.0f} | "
              f"{statistics.median(ratios):.2f} | {low:.2f} to {high:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
