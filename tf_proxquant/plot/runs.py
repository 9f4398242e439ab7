"""What the pictures show, read from a run's folder, from what `fit` returned, or from a model."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from tf_proxquant import metrics, selection
from tf_proxquant.optimizers import built_optimizer, is_quantizing
from tf_proxquant.typing import PathLike

# What is logged beside the scores.
_NO_SCORES = {"loss", "learning_rate", "phase", "epoch", "frozen", "strength", "tau"}
_OF_GRID = {"quantization_error", "sign_change", "on_grid"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A training, epoch by epoch.

    Attributes:
      score: name of what the upper panel shows, such as "accuracy".
      warm: list of dicts, the logs of each epoch in full precision.
      pulled: list of dicts, those of each epoch with quantized training.
      first: int >= 0, the epochs before the first one.
    """

    score: str
    warm: list[dict]
    pulled: list[dict]
    first: int = 0

    def points(self, rows: list[dict], key: str) -> tuple[list[int], list[float]]:
        """Epochs, from 1, and values of those `rows` of this run that have a `key`."""
        start = self.first + 1 + (len(self.warm) if rows is self.pulled else 0)
        found = [(start + i, row[key]) for i, row in enumerate(rows) if key in row]
        return [epoch for epoch, _ in found], [value for _, value in found]

    @property
    def last_warm_epoch(self) -> int:
        """Number of epochs until the quantized training begins."""
        return self.first + len(self.warm)

    @property
    def freeze(self) -> int | None:
        """The epoch with whose end all weights stay on the grid; None if that was not seen."""
        epochs, values = self.points(self.pulled, "frozen")
        return next((epoch for epoch, value in zip(epochs, values, strict=True) if value), None)


def read(run: PathLike | keras.callbacks.History | dict) -> Run:
    """Reads a run, see `plot.history`."""
    if isinstance(run, PathLike):
        first = 0
        rows = _lines(pathlib.Path(run) / "metrics.jsonl")
        if not rows:
            raise ValueError(f"There are no metrics in '{run}'. Pass the workdir of a run.")
    else:
        first = next(iter(getattr(run, "epoch", ())), 0)
        logs = getattr(run, "history", run)
        are_lists = isinstance(logs, dict) and all(isinstance(v, Sequence) for v in logs.values())
        if not are_lists or not any(logs.values()):
            raise ValueError(
                "There is nothing to draw. Pass what `fit` returned after an epoch or more, or "
                f"the workdir of a run. Received: run={run!r}."
            )
        rows = _as_rows(logs)
    warm = [row for row in rows if not _is_pulled(row)]
    pulled = [row for row in rows if _is_pulled(row)]
    return Run(_score(rows[-1]), warm, pulled, first)


def _as_rows(logs):
    """A dict of lists as a list of dicts; a list that is shorter is of the first epochs."""
    num_epochs = max(map(len, logs.values()))
    return [{k: v[i] for k, v in logs.items() if i < len(v)} for i in range(num_epochs)]


def _is_pulled(row):
    if "phase" in row:
        return row["phase"] == "quantized"
    return any(key in _OF_GRID or key.startswith("quantized_") for key in row)


def _score(row):
    """The first metric that was logged, "loss" if there is none."""
    others = _NO_SCORES | _OF_GRID
    derived = ("val_", "quantized_")
    keys = (key for key in row if key not in others and not key.startswith(derived))
    return next((key for key in keys if "/" not in key), "loss")


def histograms(folder: pathlib.Path) -> list[dict]:
    """The counted weights of a run, a dict an epoch, each with its share on the grid if known."""
    shares = {
        row["epoch"]: row.get("on_grid")
        for row in _lines(folder / "metrics.jsonl")
        if row["phase"] == "quantized"
    }
    rows = _lines(folder / "histograms.jsonl")
    return [{"on_grid": shares.get(row["epoch"]), **row} for row in rows]


def _lines(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights_of(model: keras.Model) -> list[tuple]:
    """List of (path, weights, levels) of the variables to show, as arrays.

    Of a quantizer with an axis both are relative to the largest level of each channel.
    """
    if not model.built:
        raise ValueError(
            f"The model must be built, to know its weights. Received: {model!r}. Call it on data "
            "or `model.build(input_shape)` first."
        )
    if not is_quantizing(model):
        pairs = selection.resolve(None, None, model.trainable_variables)
        return [(selection.path(v), ops.convert_to_numpy(v), np.zeros(0)) for v, _ in pairs]
    found = []
    for variable, quantizer, levels in built_optimizer(model).fit_levels():
        values, lines = ops.convert_to_numpy(variable), ops.convert_to_numpy(levels)
        if quantizer.axis is not None:
            values = metrics.relative_to_levels(values, quantizer, levels)
            largest = np.max(np.abs(lines), axis=-1, keepdims=True)
            # What each channel rounds otherwise is one line.
            lines = np.round(lines / np.where(largest > 0, largest, 1), 3)
        found.append((selection.path(variable), values, np.unique(lines)))
    return found
