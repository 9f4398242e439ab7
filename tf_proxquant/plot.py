"""Pictures of a run: the score over the epochs, weights drifting on to the grid."""

import json
import pathlib
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_proxquant import files, selection
from tf_proxquant.optimizers import built_optimizer, is_quantizing
from tf_proxquant.typing import PathLike

_MAX_LINES = 64
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def history(workdir: PathLike) -> list:
    """Draws `curves.png`, and `weights.png` if weights were recorded, into a run's folder.

    Args:
      workdir: folder of a run of train.py, with metrics.jsonl and histograms.jsonl.

    Returns: list of the paths written.
    Raises: ValueError: if the folder holds no metrics.
    """
    workdir = pathlib.Path(workdir)
    rows = _read(workdir / "metrics.jsonl")
    if not rows:
        raise ValueError(f"There are no metrics in '{workdir}'. Pass the workdir of a run.")
    written = [_save(_curves(rows), workdir / "curves.png")]
    histograms = _read(workdir / "histograms.jsonl")
    if histograms:
        written.append(_save(_drift(histograms), workdir / "weights.png"))
    return written


def weights(model: keras.Model, path: PathLike | None = None, max_panels: int = 16) -> Any:
    """Draws a histogram of each quantized variable, with its levels as lines.

    Args:
      model: a built model. Compiled with `ProxQuant` or `ProxConnect` it shows the selected
        variables; otherwise all kernels and embedding tables, without levels.
      path: of the picture to write (.png, .svg, .pdf, ...), replaced in one step; None writes none.
      max_panels: int >= 1, at most so many variables are drawn, the first ones.

    Returns: `matplotlib.figure.Figure`; a notebook shows it.
    Raises: ValueError: if the model is not built, or nothing in it can be quantized.
    """
    from matplotlib.figure import Figure

    panels = _grids(model)[:max_panels]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3 * columns, 2 * rows), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, values, levels) in zip(every, panels, strict=False):
        axes.hist(values.ravel(), bins=121, color=_BLUE)
        # Of a variable with levels per channel only a sample, or lines are all one sees.
        for level in np.unique(levels)[:: max(1, levels.size // _MAX_LINES)]:
            axes.axvline(level, color=_ORANGE, linewidth=0.8, alpha=0.6)
        axes.set_title(name, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    if path is not None:
        _save(figure, pathlib.Path(path))
    return figure


def _grids(model):
    """List of (path, weights, levels) of the variables to show, as arrays."""
    if not model.built:
        raise ValueError(
            f"The model must be built, to know its weights. Received: {model!r}. Call it on data "
            "or `model.build(input_shape)` first."
        )
    if not is_quantizing(model):
        pairs = selection.resolve(None, None, model.trainable_variables)
        return [(selection.path(v), ops.convert_to_numpy(v), np.zeros(0)) for v, _ in pairs]
    return [
        (selection.path(v), ops.convert_to_numpy(v), ops.convert_to_numpy(levels))
        for v, _, levels in built_optimizer(model).fit_levels()
    ]


def _curves(rows):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    score, grid = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    metric = "perplexity" if "val_perplexity" in rows[0] else "accuracy"
    warm = [r for r in rows if r["phase"] != "quantized"]
    pulled = [r for r in rows if r["phase"] == "quantized"]
    offset = len(warm)
    for label, part, start, key, color in (
        ("full precision", warm, 1, f"val_{metric}", _GREY),
        ("weights after the prox", pulled, offset + 1, f"val_{metric}", _BLUE),
        ("quantized", pulled, offset + 1, f"quantized_{metric}", _ORANGE),
    ):
        values = [r[key] for r in part if key in r]
        score.plot(range(start, start + len(values)), values, color=color, label=label)
    score.set_ylabel("test accuracy" if metric == "accuracy" else "validation perplexity")
    score.legend(loc="lower right" if metric == "accuracy" else "upper right")
    steps = range(offset + 1, offset + 1 + len(pulled))
    for label, key, color in (
        ("share on the grid", "on_grid", _GREEN),
        ("share of signs changed", "sign_change", _ORANGE),
    ):
        grid.plot(steps, [r[key] for r in pulled], color=color, label=label)
    grid.set_ylim(-0.03, 1.03)
    grid.set_xlabel("epoch")
    if pulled:
        grid.legend(loc="center left")
    for axes in (score, grid):
        axes.grid(alpha=0.3)
    return figure


def _drift(rows, panels=6):
    from matplotlib.figure import Figure

    # All but the last panel while the weights still move, where there is something to see.
    moving = [i for i, row in enumerate(rows) if row["counts"] != rows[-1]["counts"]]
    last = moving[-1] if moving else 0
    chosen = {round(i * last / (panels - 2)) for i in range(panels - 1)}
    chosen = sorted(chosen | {len(rows) - 1})
    figure = Figure(figsize=(8, 1.1 * len(chosen) + 0.6), layout="constrained")
    every = figure.subplots(len(chosen), sharex=True, squeeze=False)[:, 0]
    for axes, index in zip(every, chosen, strict=True):
        row = rows[index]
        counts, low, high = row["counts"], row["low"], row["high"]
        width = (high - low) / len(counts)
        centers = [low + (i + 0.5) * width for i in range(len(counts))]
        total = max(1, sum(counts))
        axes.bar(centers, [c / total for c in counts], width, color=_BLUE)
        axes.set_yticks([])
        axes.set_ylabel(f"epoch {row['epoch'] + 1}", rotation=0, ha="right", va="center")
    every[-1].set_xlabel("weight / largest level")
    every[0].set_title("the selected weights, each panel to its own scale")
    return figure


def _save(figure, path):
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def _read(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
