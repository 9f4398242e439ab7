"""Pictures of a training: scores over the epochs, weights arriving on their grid.

Both functions return a `matplotlib.figure.Figure`, which a notebook shows. It belongs to no
window and to no list of pyplot's, so that there is nothing to close.
"""

import pathlib
from typing import TYPE_CHECKING

import keras

from tf_proxquant import files
from tf_proxquant.checks import check_integer
from tf_proxquant.plot import runs
from tf_proxquant.typing import PathLike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["history", "weights"]


def history(
    run: PathLike | keras.callbacks.History | dict, path: PathLike | None = None
) -> "Figure":
    """Draws the scores of a training over its epochs, and the way of its weights to the grid.

    The warm start is shaded, and a line marks the freeze. The lower panel is that of
    `QuantizationMonitor`, the line "quantized" that of `QuantizedEvaluation`: what was not
    recorded is not drawn.

    Args:
      run: what `fit` returned, or its dict `.history`; or the folder of a run of train.py, where
        `curves.png` is written, and `weights.png` if weights were recorded.
      path: of the picture to write instead (.png, .svg, .pdf, ...), replaced in one step.

    Returns: `matplotlib.figure.Figure`.
    Raises: ValueError: if there is nothing to draw in `run`.
    """
    from tf_proxquant.plot import drawing

    figure = drawing.curves(runs.read(run))
    if path is not None:
        _save(figure, path)
    elif isinstance(run, PathLike):
        folder = pathlib.Path(run)
        _save(figure, folder / "curves.png")
        counted = runs.histograms(folder)
        if counted:
            _save(drawing.arrival(counted), folder / "weights.png")
    return figure


def weights(model: keras.Model, path: PathLike | None = None, max_panels: int = 16) -> "Figure":
    """Draws a histogram of each quantized variable, with its levels as lines.

    Where each channel has levels of its own, each weight is divided by the largest level of its
    channel: what is on the grid then stands on the same few lines in every channel.

    Args:
      model: a built model. Compiled with `ProxQuant` or `ProxConnect` it shows the selected
        variables; otherwise all kernels and embedding tables, without levels.
      path: of the picture to write (.png, .svg, .pdf, ...), replaced in one step; None writes none.
      max_panels: int >= 1, at most so many variables are drawn, the first ones.

    Returns: `matplotlib.figure.Figure`.
    Raises: ValueError: if the model is not built, nothing in it can be quantized, or `max_panels`
      is no such number.
    """
    from tf_proxquant.plot import drawing

    max_panels = check_integer("max_panels", max_panels, 1)
    figure = drawing.histograms(runs.weights_of(model)[:max_panels])
    if path is not None:
        _save(figure, path)
    return figure


def _save(figure, path):
    with files.replacing(pathlib.Path(path)) as temporary:
        figure.savefig(temporary, dpi=120)
