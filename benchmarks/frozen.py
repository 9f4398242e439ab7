"""What a training step saves once all kernels are frozen and their gradients are skipped.

    python -m benchmarks.frozen [--model=resnet20|resnet56] [--batch=128] [--rounds=15] [--toy]

Three copies of a CIFAR ResNet take turns on random images of 32 x 32: one trains with bare Adam,
one with ProxQuant and frozen kernels, one so and with `SkipFrozenGradients`. The figures are
medians over the rounds, as ratios to bare Adam in the same round.
"""

import argparse
import functools
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import tf_proxquant as pq
from benchmarks import optimizer_step


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("resnet20", "resnet56"), default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--toy", action="store_true")
    arguments = parser.parse_args()
    model = "toy" if arguments.toy else arguments.model
    batch, rounds = (4, 2) if arguments.toy else (arguments.batch, arguments.rounds)

    def frozen():
        return pq.ProxQuant(keras.optimizers.Adam(), pq.Binary(), 1.0, freeze_step=0)

    networks = {
        "Adam": optimizer_step.compiled_network(model, keras.optimizers.Adam()),
        "frozen": optimizer_step.compiled_network(model, frozen()),
        "frozen, gradients skipped": optimizer_step.compiled_network(model, frozen()),
    }
    images, labels = optimizer_step.random_images(batch)
    skip = pq.callbacks.SkipFrozenGradients()
    skip.set_model(networks["frozen, gradients skipped"])
    skip.on_train_begin()
    steps = {
        name: functools.partial(network.train_on_batch, images, labels)
        for name, network in networks.items()
    }
    times, _ = optimizer_step.measure(steps, rounds, 1)
    print(f"{model}, batch {batch}, {keras.backend.backend()}, {rounds} rounds")
    print("| kernels | milliseconds per training step | to Adam | quartiles |\n|---|---|---|---|")
    for name, seconds in times.items():
        ratios = sorted(t / b for t, b in zip(seconds, times["Adam"], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
        print(f"| {name} | {1e3 * statistics.median(seconds):.0f} | "
              f"{statistics.median(ratios):.2f} | {low:.2f} to {high:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
