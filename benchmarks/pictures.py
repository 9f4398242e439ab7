"""Pictures of real runs on digits: levels on trained weights, and what a memory does to one weight.

python -m benchmarks.pictures            # docs/images/levels.png and docs/images/memory.png
"""

import pathlib
import tempfile

import keras
import numpy as np
from absl import app, flags
from keras import ops

import tf_proxquant as pq

_TOY = flags.DEFINE_bool("toy", False, "A few steps, into a folder that goes away.")

IMAGES = pathlib.Path(__file__).parents[1] / "docs" / "images"
BATCH, EPOCHS, TOY_EPOCHS = 32, 15, 2
MEMORIES = {0.0: "memory 0", 0.99: "memory 0.99", 1.0: "memory 1"}
QUANTIZERS = {
    'Binary("mean")': pq.Binary("mean"),
    "Ternary()": pq.Ternary(),
    "MultiBit(2)": pq.MultiBit(2),
    "Uniform(2, mid_rise=True)": pq.Uniform(2, mid_rise=True),
    "Uniform(4)": pq.Uniform(4),
}
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.8"


def warm_start():
    """The network of the README after five epochs in full precision."""
    keras.utils.set_random_seed(0)
    conv = keras.layers.Conv2D(16, 3, activation="relu", name="conv")
    head = keras.layers.Dense(10, activation="softmax", name="head")
    model = keras.Sequential([keras.Input((8, 8, 1)), conv, keras.layers.Flatten(), head])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*training_data(), BATCH, epochs=5, verbose=0)
    return model


def training_data():
    """Images from 0 to 1, and labels."""
    digits = pq.datasets.load("digits")
    return digits.x_train / 16.0, digits.y_train


class Path(keras.callbacks.Callback):
    """Records a channel's weights and the points before the prox, in units of its level."""

    def __init__(self, channel):
        super().__init__()
        self.channel, self.weights, self.points = channel, [], []

    def on_train_batch_end(self, batch, logs=None):
        optimizer = self.model.optimizer
        (kernel, quantizer) = optimizer.quantized_variables[-1]
        point = optimizer.latent_of(kernel) if optimizer.memory else kernel
        level = quantizer.levels(ops.convert_to_tensor(point))[self.channel, 1]
        for found, variable in ((self.weights, kernel), (self.points, point)):
            found.append(ops.convert_to_numpy(variable[:, self.channel] / level))


def paths(epochs):
    """Weights and points, (steps, weights) each, by memory: the README's run, channel 0."""
    start, found = warm_start().get_weights(), {}
    x, y = training_data()
    steps = epochs * len(x) // BATCH
    for memory in MEMORIES:
        model = warm_start()
        model.set_weights(start)
        rate = keras.optimizers.schedules.CosineDecay(0.02, steps)
        optimizer = pq.ProxQuant(
            keras.optimizers.Adam(rate), pq.Binary("mean", axis=-1), prox="piecewise_affine",
            memory=memory, freeze_step=9 * steps // 10,
        )  # fmt: skip
        model.compile(optimizer, "sparse_categorical_crossentropy")
        path = Path(0)
        model.fit(x, y, BATCH, epochs=epochs, verbose=0, callbacks=[path])
        found[memory] = np.array(path.weights), np.array(path.points)
    return found


def draw_memory(found, path):
    """One weight's way under each memory: the one that changes its sign last at memory 1."""
    from matplotlib.figure import Figure

    signs = found[1.0][0] >= 0
    last_changes = [np.flatnonzero(np.diff(sign)).max(initial=0) for sign in signs.T]
    chosen = int(np.argmax(last_changes))
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    panels = figure.subplots(len(found), 1, sharex=True)
    for axes, (memory, (weights, points)) in zip(panels, found.items(), strict=True):
        for level in (-1, 1):
            axes.axhline(level, color=GREY, linewidth=1, zorder=0)
        axes.axvline(9 * len(weights) // 10, color=GREY, linewidth=1, linestyle="--", zorder=0)
        if memory:
            axes.plot(points[:, chosen], color=ORANGE, linewidth=1, label="v, before the prox")
        axes.plot(weights[:, chosen], color=BLUE, linewidth=1.2, label="w, the weight")
        axes.set(ylabel=MEMORIES[memory], ylim=(-1.7, 1.7), yticks=(-1, 1))
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(loc="upper right", frameon=False, ncols=2, fontsize="small")
    panels[-1].set(xlabel="step; the dashed line is the freeze")
    panels[0].set_title("one weight / the level of its channel", loc="left", fontsize="medium")
    save(figure, path)


def draw_levels(weights, path):
    """A histogram of weights, and for each quantizer its levels and how many weights go there."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    panels = figure.subplots(len(QUANTIZERS), 1, sharex=True)
    for axes, (name, quantizer) in zip(panels, QUANTIZERS.items(), strict=True):
        axes.hist(weights, 150, color=GREY, density=True, histtype="stepfilled")
        levels = ops.convert_to_numpy(quantizer.levels(weights))
        counts = np.array([np.sum(ops.convert_to_numpy(quantizer(weights)) == k) for k in levels])
        top = axes.get_ylim()[1]
        axes.vlines(levels, 0, top * counts / counts.max(), color=BLUE, linewidth=2.5)
        axes.plot(levels, np.zeros(len(levels)), "|", color=BLUE, markersize=8, clip_on=False)
        axes.set(yticks=())
        axes.set_title(name, loc="left", fontsize="medium", family="monospace")
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set(xlabel="weight")
    save(figure, path)


def save(figure, path):
    """Writes the picture, the same bytes each time."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
    print(path)


def main(_):
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) if _TOY.value else IMAGES
        kernel = warm_start().get_layer("head").get_weights()[0]
        draw_levels(kernel.ravel(), folder / "levels.png")
        draw_memory(paths(TOY_EPOCHS if _TOY.value else EPOCHS), folder / "memory.png")


if __name__ == "__main__":
    app.run(main)
