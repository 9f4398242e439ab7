"""The theory as six experiments: a table and a picture, in under a minute.

    python -m examples.theory [--picture=theory.png]

1. A pair of functions that have equal derivatives at -1 and +1. BinaryConnect, which sees
   only those, takes the same path on both and is wrong on one; ProxQuant solves both.
2. On a smooth function the lazy prox-gradient method oscillates for ever, the eager one
   converges, with the step size 1 / (2 beta) of theorem 5.1.
3. Dual averaging over {-1, +1}^d and the straight-through method: the same iterates.
4. BinaryConnect has a fixed point s only where the gradient at s points against s in every
   coordinate: the share of random least-squares problems that have one.
5. ProxQuant and BinaryConnect from one warm start on digits: the signs that change.
6. The memory, on one weight with levels -1 and +1 and the loss (x - 0.3)^2, whose better level is
   +1. With the hard map and a memory the residual obeys |v - w| <= step / (1 - memory): for w is a
   level, and the nearest one to v is no farther than w,
       |v' - w'| <= |v' - w| = |memory (v - w) + step| <= memory |v - w| + step.
   So a weight leaves a level only if step / (1 - memory) times its mean gradient exceeds its
   distance to the midpoint. Without memory no step is long enough, and the weight stays where it
   started; with all of it none is too short, and it jumps for ever; in between it leaves -1, where
   the slope is 2.6, and stays at +1, where it is 1.4.

Reference: Bai, Wang, Liberty, ICLR 2019, arXiv:1810.00861, figure 1b and section 5.
"""

import itertools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags
from keras import ops

import tf_proxquant as pq
from tf_proxquant import files

MEMORIES = (0.0, 0.9, 1.0)

_PICTURE = flags.DEFINE_string("picture", "theory.png", "The picture to write.")


def pair_function(x, minimum):
    """|x - minimum| - 1/2 for minimum = -1/2 or +1/2, the paper's pair; at -1 and +1 both
    have the derivatives -1 and +1, and the better of the two points has the minimum's sign.
    """
    return abs(x - minimum) - 0.5


def run_pair(make_optimizer, minimum, steps=60, start=0.2):
    """Minimizes one function of the pair; returns the path of x, array (steps + 1,)."""
    x = keras.Variable(np.array([start]), dtype="float64", name="kernel")
    optimizer = make_optimizer()
    optimizer.build([x])
    path = [float(x[0])]
    for _ in range(steps):
        derivative = 1.0 if float(x[0]) > minimum else -1.0
        optimizer.apply([ops.convert_to_tensor([derivative], dtype="float64")], [x])
        path.append(float(x[0]))
    return np.array(path)


def eager_binary():
    """ProxQuant on one weight, with a strength that grows until the weight is on the grid."""
    return pq.ProxQuant(keras.optimizers.SGD(0.05), pq.Binary(), pq.schedules.Linear(0.1))


def lazy_binary():
    """BinaryConnect on one weight."""
    return pq.ProxConnect(keras.optimizers.SGD(0.05), pq.Binary())


def smooth_prox(v, tau):
    """Prox of tau R for a smooth W: R(x) = 1/4 - x^2/2 for |x| <= 1/2, else (|x| - 1)^2 / 2.

    R is differentiable, with a derivative of Lipschitz constant 1. Closed form, the smaller of
    the two branches' minima; from tau = 1 on the inner branch has none, and the prox jumps at 0.
    """
    outer = np.sign(v) * (abs(v) + tau) / (1 + tau) if v else tau / (1 + tau)
    inner = v / (1 - tau) if tau < 1 else np.inf
    return inner if abs(inner) <= 0.5 else outer


def smooth_objective_slope(x, strength, target):
    """Derivative of 1/2 (x - target)^2 + strength R(x)."""
    slope = -x if abs(x) <= 0.5 else x - np.sign(x)
    return x - target + strength * slope


def run_smooth(lazy, steps=200, start=0.05, strength=1.5, target=0.1):
    """Minimizes L(x) = 1/2 (x - target)^2, beta = 1, plus strength R(x), at step size 1/2.

    Returns: path of x, where lazy means x_t = prox_{strength R}(u_t) and the gradient at x_t.
    """
    step_size = 1 / 2
    latent = x = start
    path = []
    for _ in range(steps):
        if lazy:
            x = smooth_prox(latent, strength)
            latent -= step_size * (x - target)
        else:
            x = smooth_prox(x - step_size * (x - target), step_size * strength)
        path.append(x)
    return np.array(path)


def run_dual_averaging(steps=100, dimensions=8, seed=0):
    """Returns the iterates (steps, dimensions) of straight-through, and of dual averaging.

    Dual averaging over Q = {-1, +1}^d: x_t = argmin over Q of <eta sum of gradients - u_0, x>.
    """
    random = np.random.default_rng(seed)
    matrix, target = random.normal(size=(20, dimensions)), random.normal(size=20)
    start, step_size = random.normal(size=dimensions), 0.01

    def gradient(x):
        return matrix.T @ (matrix @ x - target)

    x = keras.Variable(start, dtype="float64", name="kernel")
    optimizer = pq.ProxConnect(keras.optimizers.SGD(step_size), pq.Binary())
    optimizer.build([x])
    straight_through, averaged = [], []
    gradients = np.zeros(dimensions)
    for _ in range(steps):
        # The same float operation as the optimizer's: a rate that float32 has rounded.
        scores = start - float(np.float32(step_size)) * gradients
        averaged.append(np.where(scores >= 0, 1.0, -1.0))
        straight_through.append(ops.convert_to_numpy(x).copy())
        gradients += gradient(averaged[-1])
        optimizer.apply([ops.convert_to_tensor(gradient(straight_through[-1]))], [x])
    return np.array(straight_through), np.array(averaged)


def run_memory(memory, start=-1.0, steps=300, step_size=0.05):
    """Minimizes (x - 0.3)^2 over {-1, +1} with a memory and the hard map.

    Returns: paths of w and of v, arrays (steps,).
    """
    x = keras.Variable(np.array([start]), dtype="float64", name="kernel")
    optimizer = pq.ProxConnect(keras.optimizers.SGD(step_size), pq.Binary(), memory=memory)
    optimizer.build([x])
    path, latent = [], []
    for _ in range(steps):
        slope = 2 * (float(x[0]) - 0.3)
        optimizer.apply([ops.convert_to_tensor([slope], dtype="float64")], [x])
        path.append(float(x[0]))
        # Without memory v is not kept: w + step.
        kept = optimizer.latent_of(x) if memory else x
        latent.append(float(kept[0]))
    return np.array(path), np.array(latent)


def share_with_fixed_point(dimensions, problems=200, seed=0):
    """Share of random problems min 1/2 ||A s - b||^2 over {-1, +1}^d, A of shape (2 d, d), where
    some s has a gradient against s in every coordinate, so that BinaryConnect can stop.
    """
    random = np.random.default_rng(seed)
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=dimensions)))
    found = 0
    for _ in range(problems):
        matrix = random.normal(size=(2 * dimensions, dimensions))
        target = random.normal(size=2 * dimensions)
        gradients = (corners @ matrix.T - target) @ matrix
        found += bool(np.any(np.all(gradients * corners <= 0, axis=1)))
    return found / problems


def run_digits(seed=0, epochs=15):
    """Trains a small network from one warm start by both methods.

    Returns: dict from the method's name to its history: lists "sign_change" and "accuracy", of
      the held-out quarter of the training images, per epoch.
    """
    keras.utils.set_random_seed(seed)
    digits = pq.datasets.load("digits")
    x, y = digits.x_train / 16.0, digits.y_train
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(64, use_bias=False),
         layers.BatchNormalization(), layers.ReLU(), layers.Dense(64, use_bias=False),
         layers.BatchNormalization(), layers.ReLU(), layers.Dense(10)]
    )  # fmt: skip
    _fit(model, keras.optimizers.Adam(0.01), x, y, epochs=15)
    warm = model.get_weights()
    steps = 2 * epochs // 3 * -(-len(x) * 3 // 4 // 32)
    methods = {
        "ProxQuant": lambda: pq.ProxQuant(
            keras.optimizers.Adam(0.01), pq.Binary(), pq.schedules.Linear(0.004), clip=1.0,
            freeze_step=steps),
        "BinaryConnect": lambda: pq.ProxConnect(
            keras.optimizers.Adam(0.01), pq.Binary(), clip=1.0, freeze_step=steps),
    }  # fmt: skip
    histories = {}
    for name, make_optimizer in methods.items():
        model.set_weights(warm)
        optimizer = make_optimizer()
        optimizer.build(model.trainable_variables)
        reference = [v for v in warm if v.ndim == 2]
        monitor = pq.callbacks.QuantizationMonitor(reference)
        history = _fit(model, optimizer, x, y, epochs, [monitor])
        histories[name] = {
            "sign_change": history["sign_change"],
            "accuracy": history["val_accuracy"],
        }
    return histories


def _fit(model, optimizer, x, y, epochs, callbacks=()):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    return model.fit(
        x, y, batch_size=32, epochs=epochs, validation_split=0.25, verbose=0,
        callbacks=list(callbacks),
    ).history  # fmt: skip


def run_all():
    """Runs the experiments; returns a dict of what they gave."""
    pairs = {
        (name, minimum): run_pair(make, minimum)
        for name, make in (("ProxQuant", eager_binary), ("BinaryConnect", lazy_binary))
        for minimum in (-0.5, 0.5)
    }
    straight_through, averaged = run_dual_averaging()
    return {
        "pair": pairs,
        "eager": run_smooth(lazy=False),
        "lazy": run_smooth(lazy=True),
        "dual_averaging_difference": float(np.abs(straight_through - averaged).max()),
        "sign_flips": int(np.abs(np.diff(averaged, axis=0)).sum() / 2),
        "fixed_points": {d: share_with_fixed_point(d) for d in (1, 2, 4, 8)},
        "digits": run_digits(),
        "memory": {memory: run_memory(memory) for memory in MEMORIES},
    }


def table(found):
    """Returns the table of the results as text."""
    rows = []
    for (name, minimum), path in found["pair"].items():
        tail = set(path[-10:].tolist())
        where = f"stays at {path[-1]:+.0f}" if len(tail) == 1 else "jumps between -1 and +1"
        verdict = "right" if tail == {2 * minimum} else "wrong"
        rows.append(("1 pair", f"{name}, minimum at {minimum:+.1f}", f"{where}: {verdict}"))
    for name in ("eager", "lazy"):
        last = found[name][-20:]
        rows.append(("2 smooth", f"{name}, range of the last 20 x", f"{np.ptp(last):.1e}"))
    slope = abs(smooth_objective_slope(found["eager"][-1], 1.5, 0.1))
    rows.append(("2 smooth", "eager, slope of the objective at the end", f"{slope:.1e}"))
    difference, flips = found["dual_averaging_difference"], found["sign_flips"]
    rows.append(("3 dual averaging", f"largest difference, over {flips} flips", f"{difference:g}"))
    for dimensions, share in found["fixed_points"].items():
        rows.append(("4 fixed points", f"problems that have one, d = {dimensions}", f"{share:.0%}"))
    for name, history in found["digits"].items():
        figures = f"{history['sign_change'][-1]:.3f}, accuracy {history['accuracy'][-1]:.3f}"
        rows.append(("5 digits", f"{name}, share of signs changed", figures))
    for memory, (w, v) in found["memory"].items():
        share = f"{np.mean(w[-100:] > 0):.0%} of the last 100 steps"
        residual = f"largest |v - w| {np.abs(v - w).max():.2f}"
        rows.append(("6 memory", f"{memory:g}, at the better level, +1", f"{share}, {residual}"))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows)


def draw(found, path):
    """Draws experiments 1, 2, 5 and 6 into a picture file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.4), layout="constrained")
    pair, smooth, digits, memory = figure.subplots(1, 4)
    styles = {"ProxQuant": "#0072B2", "BinaryConnect": "#D55E00"}
    for (name, minimum), values in found["pair"].items():
        dashes = "-" if minimum < 0 else "--"
        label = f"{name}, minimum at {minimum:+.1f}"
        pair.plot(values, dashes, color=styles[name], label=label, linewidth=1.2)
    pair.set(title="1  the pair", xlabel="step", ylabel="x", xlim=(0, 40))
    smooth.plot(found["eager"][:40], color="#0072B2", label="eager")
    smooth.plot(found["lazy"][:40], color="#D55E00", label="lazy", linewidth=1.2)
    smooth.set(title="2  a smooth function", xlabel="step", ylabel="x")
    for name, history in found["digits"].items():
        epochs = range(1, len(history["sign_change"]) + 1)
        digits.plot(epochs, history["sign_change"], color=styles[name], label=name)
    digits.set(title="5  digits", xlabel="epoch", ylabel="share of signs changed")
    colors = ("#D55E00", "#009E73", "#0072B2")
    for color, (share, (_, v)) in zip(colors, found["memory"].items(), strict=True):
        memory.plot(v[:100], color=color, label=f"memory {share:g}", linewidth=1.2)
    memory.set(title="6  memory", xlabel="step", ylabel="v")
    for axes in (pair, smooth, digits, memory):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="center" if axes is pair else "best", framealpha=0.9)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main(_):
    found = run_all()
    print(table(found))
    draw(found, pathlib.Path(_PICTURE.value))
    print(f"picture: {_PICTURE.value}")


if __name__ == "__main__":
    app.run(main)
