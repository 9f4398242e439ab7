"""Squared error of the quantizers and of other rules; fit times; pictures of the prox.

    python -m benchmarks.quantizers                 # the tables of docs/quantizers.md, minutes
    python -m benchmarks.quantizers --toy           # the same code on small data, seconds
    python -m benchmarks.quantizers --times
    python -m benchmarks.quantizers --pictures=docs/images

Every table divides the squared error of a method by that of the reference in its first column, per
data set, and shows the mean ratio over the seeds (or over the kernels of a trained network).
"""

import functools
import pathlib
import time

import keras
import numpy as np
from absl import app, flags

from benchmarks import quantizers_baselines as baselines
from tf_proxquant import datasets
from tf_proxquant.quantizers import Binary, MultiBit, Quantizer, Ternary, Uniform

_TOY = flags.DEFINE_bool("toy", False, "Small data, one seed: shows that the script runs.")
_TIMES = flags.DEFINE_bool("times", False, "Only the times.")
_PICTURES = flags.DEFINE_string("pictures", None, "Only draw the pictures of the prox, here.")

DISTRIBUTIONS = {
    "normal": lambda random, n: random.normal(size=n),
    "Laplace": lambda random, n: random.laplace(size=n),
    "Student t(3)": lambda random, n: random.standard_t(3, size=n),
    "skewed": lambda random, n: random.gamma(2.0, size=n) - 1,
    "90 % sparse": lambda random, n: np.where(random.random(n) < 0.9, 0, random.normal(size=n)),
}

# Table -> column -> method; the first column is the reference.
TABLES = {
    "Ternary, {-n, 0, +p}": {
        "optimal": Ternary(optimal=True, integer_ratios=False),
        "rule": Ternary(integer_ratios=False),
        "authors' rule": baselines.authors_ternary,
        "optimal, whole ratios": Ternary(optimal=True),
        "rule, whole ratios": Ternary(),
    },
    "Ternary, {-a, 0, +a}": {
        "optimal": Ternary(optimal=True, symmetric=True),
        "rule": Ternary(symmetric=True),
        "PARQ simple": baselines.parq_ternary,
        "PARQ optimal": baselines.parq_optimal_ternary,
        "scaled to max": functools.partial(baselines.max_scaled, codes=(-1, 0, 1)),
    },
    **{
        f"Multi-bit, {bits} bits": {
            "optimal": MultiBit(bits, optimal=True, integer_ratios=False),
            "alternating": MultiBit(bits, integer_ratios=False),
            "authors'": functools.partial(baselines.authors_alternating, bits=bits),
            "PARQ greedy": functools.partial(baselines.parq_greedy, bits=bits),
            "best of 20 restarts": functools.partial(baselines.best_of_restarts, bits=bits),
            "optimal, whole ratios": MultiBit(bits, optimal=True),
            "alternating, whole ratios": MultiBit(bits),
            **({"mid-rise": Uniform(bits, mid_rise=True)} if bits == 2 else {}),
        }
        for bits in (2, 3, 4)
    },
    **{
        f"Uniform, {bits} bits": {
            "full range": Uniform(bits, narrow_range=False),
            "default": Uniform(bits),
            **({"mid-rise": Uniform(bits, mid_rise=True)} if bits < 8 else {}),
            "best of 2,000 scales": functools.partial(
                baselines.best_scale, codes=Uniform(bits, narrow_range=False).codes
            ),
            "default, scaled to max": functools.partial(
                baselines.max_scaled, codes=Uniform(bits).codes
            ),
            "PARQ uniform": functools.partial(baselines.parq_uniform, bits=bits),
        }
        for bits in (2, 3, 4, 8)
    },
}

TIMED = (
    Binary(),
    Binary("mean"),
    Ternary(),
    Ternary(optimal=True),
    MultiBit(2),
    MultiBit(2, optimal=True),
    MultiBit(3),
    MultiBit(3, optimal=True),
    MultiBit(4, optimal=True),
    Uniform(4),
)


def error(method, weights):
    """Squared error in float64; quantizers fit in float32, as in training."""
    if isinstance(method, Quantizer):
        method = _compiled_quantizer(method)
        return np.sum((np.asarray(method(weights.astype("float32")), "float64") - weights) ** 2)
    return np.sum((np.asarray(method(weights), "float64") - weights) ** 2)


@functools.cache
def _compiled_quantizer(quantizer):
    return compiled(quantizer.__call__)


def data_sets(toy):
    """Name -> list of weight tensors."""
    length, seeds = (300, 1) if toy else (10_000, 3)
    sets = {
        name: [draw(np.random.default_rng(seed), length) for seed in range(seeds)]
        for name, draw in DISTRIBUTIONS.items()
    }
    sets["trained kernels"] = trained_kernels(epochs=1 if toy else 30)
    if toy:
        return {name: sets[name][:1] for name in ("normal", "trained kernels")}
    return sets


def trained_kernels(epochs):
    """The kernels of a small convolutional network trained on 8x8 digits."""
    keras.utils.set_random_seed(0)
    with np.load(pathlib.Path(datasets.__file__).with_name("digits.npz")) as data:
        images, labels = data["images"].astype("float64"), data["labels"]
    model = keras.Sequential(
        [
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(images.reshape(-1, 8, 8, 1) / 16, labels, batch_size=64, epochs=epochs, verbose=0)
    kernels = [v for v in model.trainable_variables if v.path.endswith("kernel")]
    return [keras.ops.convert_to_numpy(v).astype("float64") for v in kernels]


def ratios(methods, tensors):
    """Column -> errors over those of the first column, one per tensor."""
    errors = {name: [error(method, w) for w in tensors] for name, method in methods.items()}
    reference = next(iter(errors.values()))
    return {name: np.array(e) / reference for name, e in errors.items()}


def print_table(title, methods, sets):
    columns = list(methods)[1:]
    print(f"\n### {title}: squared error / {next(iter(methods))}\n")
    print("| weights | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, tensors in sets.items():
        found = ratios(methods, tensors)
        print(f"| {name} | " + " | ".join(f"{found[c].mean():.4g}" for c in columns) + " |")


def compiled(function):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    import jax

    return jax.jit(function)


def print_times(toy):
    """Milliseconds for levels and nearest level of one 3x3x64x64 kernel, in a graph without XLA."""
    shape = (3, 3, 8, 8) if toy else (3, 3, 64, 64)
    kernel = np.random.default_rng(0).normal(size=shape).astype("float32")
    kernel = keras.ops.convert_to_tensor(kernel)
    print(f"\n### Time, ms, kernel {shape}, {keras.backend.backend()}\n")
    print("| quantizer | levels + nearest, per tensor | per output channel | nearest alone |")
    print("|---|---|---|---|")
    for quantizer in TIMED if not toy else TIMED[:4]:
        per_channel = type(quantizer)(**{**quantizer.get_config(), "axis": -1})
        levels = quantizer.levels(kernel)
        calls = (
            compiled(quantizer.__call__),
            compiled(per_channel.__call__),
            functools.partial(compiled(quantizer.nearest), levels=levels),
        )
        times = " | ".join(f"{least_time(call, kernel):.2f}" for call in calls)
        print(f"| {quantizer!r} | {times} |", flush=True)


def least_time(call, kernel, repeats=20):
    """The fastest of some calls: the others also measure what else the machine does."""
    np.asarray(call(kernel))
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        np.asarray(call(kernel))
        spent.append(1e3 * (time.perf_counter() - start))
    return min(spent)


def main(_):
    if _PICTURES.value:
        from benchmarks.quantizers_pictures import draw

        draw(_PICTURES.value)
        return
    if not _TIMES.value:
        sets = data_sets(_TOY.value)
        for title, methods in list(TABLES.items())[: 3 if _TOY.value else None]:
            print_table(title, methods, sets)
    print_times(_TOY.value)


if __name__ == "__main__":
    app.run(main)
