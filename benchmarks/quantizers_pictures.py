"""Pictures of the prox: weights in, weights out, for three strengths."""

import pathlib

import numpy as np

from tf_proxquant import prox
from tf_proxquant.quantizers import Binary

BINARY = np.array([-1.0, 1.0], "float32")
TERNARY = np.array([-0.8, 0.0, 1.0], "float32")
FOUR = np.array([-1.25, -0.4, 0.4, 1.25], "float32")


def nearest(weights, levels):
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, weights, side="right")]


PICTURES = {
    "prox_l1": (
        "prox_l1 to {-1, +1}",
        "tau",
        (0.1, 0.4, 0.8),
        BINARY,
        lambda w, tau: prox.prox_l1(w, np.array(Binary()(w)), tau),
    ),
    "prox_l1_box": (
        "prox_l1_box: clipped to [-1, 1] as well",
        "tau",
        (0.1, 0.4, 0.8),
        BINARY,
        lambda w, tau: prox.prox_l1_box(w, 1.0, tau),
    ),
    "prox_l1_levels": (
        "prox_l1 to four levels",
        "tau",
        (0.05, 0.15, 0.3),
        FOUR,
        lambda w, tau: prox.prox_l1(w, nearest(w, FOUR), tau),
    ),
    "prox_l2": (
        "prox_l2 to {-0.8, 0, +1}",
        "tau",
        (0.3, 1.0, 5.0),
        TERNARY,
        lambda w, tau: prox.prox_l2(w, nearest(w, TERNARY), tau),
    ),
    "prox_piecewise_affine": (
        "prox_piecewise_affine to {-0.8, 0, +1}",
        "inverse slope",
        (0.8, 0.4, 0.1),
        TERNARY,
        lambda w, slope: prox.prox_piecewise_affine(w, TERNARY, slope),
    ),
    "prox_concave": (
        "prox_concave to {-0.8, 0, +1}",
        "tau",
        (0.2, 0.5, 0.9),
        TERNARY,
        lambda w, tau: prox.prox_concave(w, TERNARY, tau),
    ),
}
CONTINUOUS = ("prox_piecewise_affine", "prox_concave")


def draw(folder):
    """Writes one .svg per prox into `folder`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "quantizers"
    weights = np.linspace(-1.8, 1.8, 1201).astype("float32")
    for name, (title, parameter, values, levels, operator) in PICTURES.items():
        figure, axes = pyplot.subplots(figsize=(4, 3.4), layout="constrained")
        for level in levels:
            axes.axhline(level, color="0.85", linewidth=0.8, zorder=0)
        axes.plot(weights, weights, color="0.6", linewidth=0.8, linestyle=":")
        for value in values:
            moved = np.array(operator(weights, value), "float64")
            if name not in CONTINUOUS:
                moved[:-1][np.diff(nearest(weights, levels)) > 0] = np.nan
            axes.plot(weights, moved, label=f"{parameter} = {value:g}")
        axes.set(title=title, xlabel="weight in", ylabel="weight out")
        axes.legend(fontsize="small")
        path = pathlib.Path(folder, f"{name}.svg")
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
        print(path)
