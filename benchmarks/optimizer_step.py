"""Cost of one optimizer step, as a ratio to the bare inner optimizer in the same run.

    python -m benchmarks.optimizer_step [--model=resnet20|resnet56|wide] [--inner=adam|sgd]
        [--compile=auto|always|never|outside] [--whole] [--memory] [--only=REGEX] [--toy]

All optimizers take turns, round by round, on copies of the same variables; the figure is the
median over the rounds of (its time / the bare optimizer's time in that round). On TensorFlow a step
is a `tf.function`; ProxQuant compiles its update in it where the kernels are large
(`--compile=auto`, its default), or always, as it does in a long run, or never, or XLA compiles the
function as a whole, for the bare optimizer too (outside). On JAX it is `jax.jit` of
`stateless_apply`.

    --whole    also the share of a training step of the ResNet, 128 images of 32 x 32: what the
               step takes more than the bare one, over the time of forward, backward and bare step
    --memory   also the peak memory of a step above that between steps, in copies of the weights,
               each in a process of its own (Linux)

The roofline of Adam: it must read weight, gradient and two moments and write three of them, 28
bytes a weight, 3.5 times what an in-place multiplication moves (8). That multiplication is timed
in the same rounds.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops

import tf_proxquant as pq

MULTIPLY = "in-place multiply"
BATCH = 128
INNER = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
}
# Bytes that a step must move, over those of the in-place multiplication.
ROOFLINE = {"adam": 28 / 8, "sgd": 20 / 8}


def optimizers(inner, jit_compile):
    """Returns makers of the optimizers that are compared, by label; the bare one first."""

    def prox_quant(quantizer, strength=1.0, **arguments):
        return lambda: pq.ProxQuant(
            INNER[inner](), quantizer, strength, jit_compile=jit_compile, **arguments
        )

    def prox_connect(quantizer, strength=None, **arguments):
        return lambda: pq.ProxConnect(
            INNER[inner](), quantizer, strength, jit_compile=jit_compile, **arguments
        )

    frozen_later = {"freeze_step": 10**6}
    return {
        inner: INNER[inner],
        "binary": prox_quant(pq.Binary(), clip=1.0),
        "binary, freeze_step set": prox_quant(pq.Binary(), clip=1.0, **frozen_later),
        "binary, mean per channel": prox_quant(pq.Binary(scale="mean", axis=-1)),
        "the same, concave, auto": prox_quant(
            pq.Binary(scale="mean", axis=-1), "auto", prox="concave", **frozen_later
        ),
        "ternary rule": prox_quant(pq.Ternary(), clip=1.0),
        "ternary rule, freeze_step set": prox_quant(pq.Ternary(), clip=1.0, **frozen_later),
        "ternary rule, levels every 10": prox_quant(pq.Ternary(), update_levels_every=10),
        "ternary optimal": prox_quant(pq.Ternary(optimal=True)),
        "ternary optimal, every 10": prox_quant(pq.Ternary(optimal=True), update_levels_every=10),
        "2 bits": prox_quant(pq.MultiBit(2)),
        "2 bits, freeze_step set": prox_quant(pq.MultiBit(2), **frozen_later),
        "2 bits, levels every 10": prox_quant(pq.MultiBit(2), update_levels_every=10),
        "2 bits optimal": prox_quant(pq.MultiBit(2, optimal=True)),
        "2 bits optimal, every 10": prox_quant(
            pq.MultiBit(2, optimal=True), update_levels_every=10
        ),
        "3 bits": prox_quant(pq.MultiBit(3)),
        "3 bits, levels every 10": prox_quant(pq.MultiBit(3), update_levels_every=10),
        "uniform 4 bits, per channel": prox_quant(pq.Uniform(4, axis=-1)),
        "the same, levels every 10": prox_quant(pq.Uniform(4, axis=-1), update_levels_every=10),
        "BinaryConnect": prox_connect(pq.Binary(), clip=1.0),
        "PARQ, ternary rule": prox_connect(pq.Ternary(), 0.5, prox="piecewise_affine"),
    }


def make_network(model):
    """Returns the ResNet of a model's name."""
    depth, width = {"toy": (8, 4), "resnet20": (20, 16), "resnet56": (56, 16)}[model]
    return pq.models.resnet(depth, (32, 32, 3), 10, width=width)


def shapes(model):
    """Returns (path, shape) of the variables of a model."""
    if model == "wide":
        return [(f"dense{i}/kernel", (2500, 2500)) for i in range(4)]
    return [(v.path, tuple(v.shape)) for v in make_network(model).trainable_variables]


def made_up(layout):
    """Returns variables of this layout, and gradients, all of normal numbers."""
    random = np.random.default_rng(0)
    variables, gradients = [], []
    for path, shape in layout:
        value = random.standard_normal(shape, dtype="float32")
        variable = keras.Variable(value * 0.1, dtype="float32", name="kernel")
        variable._path = path
        variables.append(variable)
        gradients.append(ops.convert_to_tensor(value[::-1]))
    return variables, gradients


def make_step(make_optimizer, layout, outside):
    """Returns a function without arguments that does one step, and waits for it."""
    variables, gradients = made_up(layout)
    optimizer = make_optimizer()
    optimizer.build(variables)
    if keras.backend.backend() == "jax":
        return _jax_step(optimizer, variables, gradients)
    return _graph(lambda: optimizer.apply(gradients, variables), variables, outside)


def make_multiply(layout):
    """Returns a function that multiplies all variables in place, compiled."""
    variables, _ = made_up(layout)
    if keras.backend.backend() == "jax":
        import jax

        multiply = jax.jit(lambda x: [v * 1.0000001 for v in x], donate_argnums=0)
        state = [[v.value for v in variables]]

        def run():
            state[0] = jax.block_until_ready(multiply(state[0]))

        return run

    def multiply_all():
        for variable in variables:
            variable.assign(variable * 1.0000001)

    return _graph(multiply_all, variables, True)


def _graph(function, variables, jit_compile):
    import tensorflow as tf

    step = tf.function(function, jit_compile=True if jit_compile else None)

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
    """Returns the seconds of each round, and of the first call, by label."""
    first, times = {}, {label: [] for label in steps}
    for label, run in steps.items():
        start = time.perf_counter()
        run()
        first[label] = time.perf_counter() - start
        run()
    for done in range(rounds):
        for label, run in steps.items():
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            times[label].append((time.perf_counter() - start) / repeats)
        if sys.stderr.isatty():
            print(f"\rround {done + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    return times, first


def compiled_network(model, optimizer):
    """Returns the ResNet of a model's name, compiled."""
    keras.utils.set_random_seed(0)
    network = make_network(model)
    network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return network


def random_images(batch):
    """Returns images of 32 x 32 and labels."""
    random = np.random.default_rng(0)
    images = random.normal(size=(batch, 32, 32, 3)).astype("float32")
    return images, random.integers(0, 10, batch)


def whole_step(model, inner, rounds):
    """Returns the median seconds of a training step with the bare optimizer, at batch 128."""
    network = compiled_network(model, INNER[inner]())
    images, labels = random_images(4 if model == "toy" else BATCH)
    step = {inner: lambda: network.train_on_batch(images, labels)}
    return statistics.median(measure(step, rounds, 1)[0][inner])


def peak_copies(label, options):
    """Returns the peak memory of a step, above that between steps, in copies of the weights."""
    command = [sys.executable, "-m", "benchmarks.optimizer_step", "--memory-of", label, *options]
    # So that freed buffers go back to the system at once.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(finished.stdout.splitlines()[-1])


def memory_of(step, layout):
    """Prints what `peak_copies` reads: the peak of three steps above the memory between steps."""
    bytes_of_weights = 4 * sum(int(np.prod(shape)) for _, shape in layout)
    step()
    step()
    forget_peak()
    for _ in range(3):
        step()
    print((resident("VmHWM") - resident("VmRSS")) / bytes_of_weights)


def forget_peak():
    """Makes Linux begin anew with the peak of the resident memory."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def resident(key):
    """Returns the resident memory of this process in bytes: "VmRSS" now, "VmHWM" at its peak."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", action="store_true", help="a small model and two rounds")
    parser.add_argument("--model", choices=("resnet20", "resnet56", "wide"), default="resnet20")
    parser.add_argument("--inner", choices=tuple(INNER), default="adam")
    parser.add_argument("--compile", choices=("auto", "always", "never", "outside"), default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="labels that this regular expression finds")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    model = "toy" if arguments.toy else arguments.model
    layout = shapes(model)
    outside = arguments.compile == "outside"
    jit_compile = {"auto": "auto", "always": True}.get(arguments.compile, False)
    makers = optimizers(arguments.inner, True if arguments.toy and not outside else jit_compile)
    if arguments.memory_of:
        memory_of(make_step(makers[arguments.memory_of], layout, outside), layout)
        return
    pattern = "^binary$|ternary rule$" if arguments.toy else arguments.only
    bare = arguments.inner
    makers = {k: m for k, m in makers.items() if k == bare or re.search(pattern, k)}
    rounds, repeats = (2, 1) if arguments.toy else (arguments.rounds, 1 if model == "wide" else 10)
    steps = {label: make_step(maker, layout, outside) for label, maker in makers.items()}
    steps[MULTIPLY] = make_multiply(layout)
    times, first = measure(steps, rounds, repeats)
    report(arguments, model, layout, times, first, rounds)


def report(arguments, model, layout, times, first, rounds):
    """Prints the table."""
    bare = arguments.inner
    count = sum(int(np.prod(shape)) for _, shape in layout)
    floor = ROOFLINE[bare] * statistics.median(times[MULTIPLY])
    print(f"{model}: {count:,} weights, {keras.backend.backend()}, compiled: {arguments.compile}, "
          f"{rounds} rounds; {bare} {1e3 * statistics.median(times[bare]):.2f} ms, "
          f"roofline {1e3 * floor:.2f} ms")  # fmt: skip
    headings = ["time / bare", "quartiles", "/ roofline", "first call"]
    whole = whole_step(model, bare, min(rounds, 7)) if arguments.whole and model != "wide" else None
    if whole:
        print(f"training step at batch {BATCH}: {1e3 * whole:.0f} ms")
        headings.append("of a training step")
    if arguments.memory:
        headings.append("peak copies")
    print(f"| optimizer | {' | '.join(headings)} |\n|{'---|' * (len(headings) + 1)}")
    options = [f"--model={arguments.model}", f"--inner={bare}", f"--compile={arguments.compile}"]
    for label, seconds in times.items():
        ratios = sorted(t / b for t, b in zip(seconds, times[bare], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
        cells = [f"{statistics.median(ratios):.2f}", f"{low:.2f} to {high:.2f}",
                 f"{statistics.median(seconds) / floor:.2f}", f"{first[label]:.1f} s"]  # fmt: skip
        if whole:
            extra = statistics.median(t - b for t, b in zip(seconds, times[bare], strict=True))
            cells.append(f"{100 * extra / whole:+.2f} %")
        if arguments.memory and label != MULTIPLY:
            cells.append(f"{peak_copies(label, options + ['--toy'] * arguments.toy):.2f}")
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
