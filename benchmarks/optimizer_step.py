"""Cost of one optimizer step, as a ratio to bare Adam in the same run.

    python -m benchmarks.optimizer_step [--toy] [--model=resnet20|wide] [--jit]

All optimizers take turns, round by round, on copies of the same variables; the figure is the
median over the rounds of (its time / bare Adam's time in that round). Runs on TensorFlow
(a `tf.function`, with --jit under XLA) and on JAX (`jax.jit` of `stateless_apply`).
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops

import tf_proxquant as pq


def optimizers():
    """Returns makers of the optimizers that are compared, by label."""

    def prox_quant(quantizer, **arguments):
        adam = keras.optimizers.Adam(0.01)
        return lambda: pq.ProxQuant(
            adam.from_config(adam.get_config()), quantizer, 1.0, **arguments
        )

    return {
        "Adam": lambda: keras.optimizers.Adam(0.01),
        "binary": prox_quant(pq.Binary(), clip=1.0),
        "binary, freeze_step set": prox_quant(pq.Binary(), clip=1.0, freeze_step=10**6),
        "binary, concave": prox_quant(pq.Binary(), clip=1.0, regularizer="concave"),
        "binary, mean per channel": prox_quant(pq.Binary(scale="mean", axis=-1)),
        "ternary rule": prox_quant(pq.Ternary(), clip=1.0),
        "ternary rule, levels every 10": prox_quant(pq.Ternary(), update_levels_every=10),
        "ternary optimal": prox_quant(pq.Ternary(optimal=True)),
        "ternary optimal, levels every 10": prox_quant(
            pq.Ternary(optimal=True), update_levels_every=10
        ),
        "2 bits": prox_quant(pq.MultiBit(2)),
        "2 bits, levels every 10": prox_quant(pq.MultiBit(2), update_levels_every=10),
        "2 bits optimal": prox_quant(pq.MultiBit(2, optimal=True)),
        "2 bits optimal, levels every 10": prox_quant(
            pq.MultiBit(2, optimal=True), update_levels_every=10
        ),
        "3 bits": prox_quant(pq.MultiBit(3)),
        "uniform 4 bits, per channel": prox_quant(pq.Uniform(4, axis=-1)),
        "BinaryConnect": lambda: pq.ProxConnect(keras.optimizers.Adam(0.01), pq.Binary(), clip=1.0),
    }


def shapes(model):
    """Returns (path, shape) of the variables of a model."""
    if model == "wide":
        return [(f"dense{i}/kernel", (2500, 2500)) for i in range(4)]
    depth, width = (8, 4) if model == "toy" else (20, 16)
    network = pq.models.resnet(depth, (32, 32, 3), 10, width=width)
    return [(v.path, tuple(v.shape)) for v in network.trainable_variables]


def make_step(make_optimizer, layout, jit_compile):
    """Returns a function without arguments that does one step, and waits for it."""
    random = np.random.default_rng(0)
    variables, gradients = [], []
    for path, shape in layout:
        variable = keras.Variable(random.normal(size=shape) * 0.1, dtype="float32", name="kernel")
        variable._path = path
        variables.append(variable)
        gradients.append(ops.convert_to_tensor(random.normal(size=shape).astype("float32")))
    optimizer = make_optimizer()
    optimizer.build(variables)
    if keras.backend.backend() == "jax":
        return _jax_step(optimizer, variables, gradients)
    import tensorflow as tf

    step = tf.function(lambda: optimizer.apply(gradients, variables), jit_compile=jit_compile)

    def run():
        step()
        variables[-1].numpy()

    return run


def _jax_step(optimizer, variables, gradients):
    import jax

    step = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))
    state = [[v.value for v in optimizer.variables], [v.value for v in variables]]

    def run():
        state[1], state[0] = step(state[0], gradients, state[1])
        jax.block_until_ready(state)

    return run


def measure(steps, rounds, repeats):
    """Returns the median ratio to the first of `steps`, and its quartiles, by label."""
    for run in steps.values():
        run()
        run()
    times = {label: [] for label in steps}
    for _ in range(rounds):
        for label, run in steps.items():
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            times[label].append(time.perf_counter() - start)
    base = next(iter(times.values()))
    return {
        label: sorted(t / b for t, b in zip(values, base, strict=True))
        for label, values in times.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="a small model and two rounds")
    parser.add_argument("--model", choices=("resnet20", "wide"), default="resnet20")
    parser.add_argument("--jit", action="store_true", help="compile with XLA (TensorFlow)")
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    model = "toy" if arguments.toy else arguments.model
    rounds, repeats = (2, 1) if arguments.toy else (arguments.rounds, 1 if model == "wide" else 5)
    layout = shapes(model)
    count = sum(int(np.prod(shape)) for _, shape in layout)
    print(f"{model}: {count:,} weights, {keras.backend.backend()}, jit={arguments.jit}, "
          f"{rounds} rounds")  # fmt: skip
    makers = optimizers()
    if arguments.toy:
        makers = {label: makers[label] for label in ("Adam", "binary", "ternary rule")}
    steps = {label: make_step(maker, layout, arguments.jit) for label, maker in makers.items()}
    print(f"{'optimizer':36} {'time / Adam':>11}   quartiles")
    for label, ratios in measure(steps, rounds, repeats).items():
        low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
        print(f"{label:36} {statistics.median(ratios):11.2f}   {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
