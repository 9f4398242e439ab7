r"""Accuracy by kind of levels: whole ratios or free ones, and the ways to spend two bits.

    python -m benchmarks.quantizers_accuracy                 # 8x8 digits, ten seeds
    python -m benchmarks.quantizers_accuracy --seeds=0,1     # several processes may share the seeds
    python -m benchmarks.quantizers_accuracy --only=bits     # tables whose title has the word
    python -m benchmarks.quantizers_accuracy --toy           # seconds, shows that it runs

For each seed a small convolutional network is trained in full precision on digits, of which other
500 are held out. From there every row goes on for the same epochs under ProxQuant (l2, automatic
strength, levels for each output channel, frozen after two thirds). Prints the held-out
accuracy of the snapped warm start and of the trained network, and the paired difference to the
reference row with its standard error. Training starts from equal weights and batches in each row.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags

import tf_proxquant as pq
from tf_proxquant import datasets

_SEEDS = flags.DEFINE_list("seeds", [str(seed) for seed in range(10)], "Seeds.")
_TOY = flags.DEFINE_bool("toy", False, "One seed, two epochs, two rows.")
_ONLY = flags.DEFINE_string("only", "", "Run the tables whose title contains this.")
_EPOCHS = flags.DEFINE_integer("epochs", 30, "Epochs of the warm start, and from there on.")
_WIDTH = flags.DEFINE_integer("width", 4, "Filters of the first layer.")

HELD_OUT, BATCH, RATE = 500, 32, 1e-2

# Title -> row -> quantizer; the first row is the reference of its table.
TABLES = {
    "Whole ratios": {
        "Ternary, free levels": pq.Ternary(axis=-1, integer_ratios=False),
        "Ternary": pq.Ternary(axis=-1),
        "MultiBit(2), free levels": pq.MultiBit(2, axis=-1, integer_ratios=False),
        "MultiBit(2)": pq.MultiBit(2, axis=-1),
        "MultiBit(3), free levels": pq.MultiBit(3, axis=-1, integer_ratios=False),
        "MultiBit(3)": pq.MultiBit(3, axis=-1),
        "Uniform(4), full range": pq.Uniform(4, axis=-1, narrow_range=False),
        "Uniform(4)": pq.Uniform(4, axis=-1),
    },
    "Two bits": {
        "MultiBit(2)": pq.MultiBit(2, axis=-1),
        "Uniform(2, mid_rise=True)": pq.Uniform(2, axis=-1, mid_rise=True),
        "Uniform(2, narrow_range=False)": pq.Uniform(2, axis=-1, narrow_range=False),
        "Uniform(2), three levels": pq.Uniform(2, axis=-1),
        "Ternary": pq.Ternary(axis=-1),
        "MultiBit(2, optimal=True)": pq.MultiBit(2, axis=-1, optimal=True),
    },
}


def network():
    blocks = []
    for filters, strides in ((1, 1), (2, 2), (2, 2)):
        blocks += [
            keras.layers.Conv2D(
                filters * _WIDTH.value, 3, strides=strides, padding="same", use_bias=False
            ),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *blocks, *head])


def split(seed):
    """Returns training and held-out pairs of images and labels."""
    data = datasets.load("digits")
    images, labels = data.x_train / np.max(data.x_train), data.y_train
    order = np.random.default_rng(seed).permutation(len(images))
    held_out, kept = order[:HELD_OUT], order[HELD_OUT:]
    return (images[kept], labels[kept]), (images[held_out], labels[held_out])


def compile_model(model, optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])


def fit(model, optimizer, data, epochs):
    compile_model(model, optimizer)
    keras.utils.set_random_seed(0)
    model.fit(*data, batch_size=BATCH, epochs=epochs, verbose=0)


def score(model, data):
    return 100 * model.evaluate(*data, verbose=0, return_dict=True)["accuracy"]


def run_seed(seed, rows, epochs):
    """Returns the accuracies of a seed: row -> (snapped, trained), and of full precision."""
    keras.utils.set_random_seed(seed)
    train, held_out = split(seed)
    steps = epochs * -(-len(train[0]) // BATCH)
    warm = network()
    fit(warm, keras.optimizers.Adam(RATE), train, epochs)
    found, weights = {}, warm.get_weights()
    fit(
        warm,
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)),
        train,
        epochs,
    )
    found["full precision"] = (np.nan, score(warm, held_out))
    for name, quantizer in rows.items():
        model = network()
        compile_model(model, "sgd")
        model.set_weights(weights)
        pq.snap(model, quantizer)
        snapped = score(model, held_out)
        model.set_weights(weights)
        rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
        optimizer = pq.ProxQuant(
            keras.optimizers.Adam(rate), quantizer, "auto", freeze_step=2 * steps // 3
        )
        fit(model, optimizer, train, epochs)
        found[name] = (snapped, score(model, held_out))
        print(f"seed {seed}  {name}  {snapped:.2f}  {found[name][1]:.2f}", flush=True)
    return found


def print_table(title, names, results):
    """Prints mean (standard deviation over the seeds), and differences to the first of `names`."""
    print(f"\n### {title}, {len(results)} seeds, held-out accuracy in %\n")
    print("| levels | warm start snapped | trained | minus the first row |\n|---|---|---|---|")
    for name in ("full precision", *names):
        snapped, trained = np.array([result[name] for result in results]).T
        first = np.array([result[names[0]][1] for result in results])
        gain = trained - first
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
        print(
            f"| {name} | {snapped.mean():.2f} ({snapped.std():.2f}) "
            f"| {trained.mean():.2f} ({trained.std():.2f}) | {gain.mean():+.2f} ({error:.2f}) |"
        )


def main(_):
    seeds, epochs = [int(seed) for seed in _SEEDS.value], _EPOCHS.value
    chosen = {title: table for title, table in TABLES.items() if _ONLY.value in title}
    rows = {name: quantizer for table in chosen.values() for name, quantizer in table.items()}
    tables = {title: list(table) for title, table in chosen.items()}
    if _TOY.value:
        seeds, epochs, rows = [0], 2, dict(list(rows.items())[:2])
        tables = {"Toy": list(rows)}
    results = [run_seed(seed, rows, epochs) for seed in seeds]
    for title, names in tables.items():
        print_table(title, names, results)


if __name__ == "__main__":
    app.run(main)
