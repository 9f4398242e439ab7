"""Which level suits the l1 pull of scaled binary weights: the mean of |w|, or the median?

    python -m benchmarks.binary_level          # a minute or two
    python -m benchmarks.binary_level --toy    # seconds, shows that it runs

A small network on 8x8 digits, one level per output channel, frozen after two thirds of the epochs.
Prints the test accuracy of the last epoch over seeds, and the paired difference.
"""

import keras
import numpy as np
from absl import app, flags

import tf_proxquant as pq
from tf_proxquant import datasets

_TOY = flags.DEFINE_bool("toy", False, "One seed, two epochs.")
EPOCHS, SEEDS, BATCH, RATE = 60, 6, 64, 3e-3


def network():
    blocks = []
    for _ in range(2):
        blocks += [
            keras.layers.Dense(64, use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    output = [keras.layers.Dense(10, use_bias=False), keras.layers.BatchNormalization(momentum=0.9)]
    return keras.Sequential([keras.Input((64,)), *blocks, *output])


def accuracy(scale, pull, seed, epochs):
    """Test accuracy in percent; `pull` is the sum of tau up to the freeze, in units of weight."""
    keras.utils.set_random_seed(seed)
    data = datasets.load("digits")
    x_train, x_test = (x.reshape(len(x), 64) / x.max() for x in (data.x_train, data.x_test))
    freeze_step = 2 * epochs // 3 * -(-len(x_train) // BATCH)
    strength = pq.schedules.Linear(2 * pull / (RATE * freeze_step**2))
    optimizer = pq.ProxQuant(
        keras.optimizers.Adam(RATE), pq.Binary(scale, axis=-1), strength, freeze_step=freeze_step
    )
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    model.fit(x_train, data.y_train, batch_size=BATCH, epochs=epochs, verbose=0)
    return 100 * model.evaluate(x_test, data.y_test, verbose=0)[1]


def main(_):
    epochs, seeds = (3, 1) if _TOY.value else (EPOCHS, SEEDS)
    print(f"{seeds} seeds, {epochs} epochs; mean (standard deviation) of test accuracy, %\n")
    print("| total pull | mean of \\|w\\| | median of \\|w\\| | median - mean (standard error) |")
    print("|---|---|---|---|")
    for pull in (0.1, 0.3, 1.0):
        mean, median = (
            np.array([accuracy(scale, pull, seed, epochs) for seed in range(seeds)])
            for scale in ("mean", "median")
        )
        gain = median - mean
        print(
            f"| {pull:g} | {mean.mean():.2f} ({mean.std():.2f}) "
            f"| {median.mean():.2f} ({median.std():.2f}) "
            f"| {gain.mean():+.2f} ({gain.std() / np.sqrt(seeds):.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
