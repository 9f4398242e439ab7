"""The folder of a run: settings, metrics, checkpoints, models, report."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import io
import json
import pathlib
import platform
import re
import tempfile
import time

import keras

from tf_proxquant import files

# Of the settings, those that may differ when a run is resumed.
_FREE = (
    "workdir", "resume", "data_dir", "download", "init_from", "job_addresses", "process_id",
)  # fmt: skip
# Of the settings, those that belong to one start and not to the run.
_OF_A_START = ("workdir", "resume", "process_id")
# Counts up when an unfinished run can no longer go on with newer code.
_FORMAT = 3
_CHECKPOINT_SECONDS = 30
_PROGRESS_SECONDS = 20


class Workdir:
    """One run's folder. Every file in it is whole: written beside its name, then renamed.

        settings.json       settings and versions, written first
        metrics.jsonl       one JSON object per phase and epoch
        metrics.csv         the same as a table, at the end of the run
        histograms.jsonl    counts of the selected weights, at the start (-1) and per epoch
        <phase>.keras       the model at the end of a phase
        <phase>-NNNN.keras  checkpoint after epoch NNNN of an unfinished phase
        labels.txt          the name of each class; of text, vocabulary.txt with the words
        pictures.csv        of a folder of pictures, the part and class of each
        model.keras, model.tflite, report.json, curves.png, weights.png

    Args:
      path: the folder.
      is_chief: whether this process writes; otherwise it only reads, and prints nothing.
    """

    def __init__(self, path, is_chief=True):
        self.path = pathlib.Path(path)
        self.is_chief = is_chief
        self.is_shared = False

    @classmethod
    def open(cls, settings, is_chief=True):
        """Makes the folder, or with `resume` enters it, after checking that this is right.

        Not the chief's business: the others take the folder as it is.

        Raises: ValueError: if the folder holds a run and `resume` is off; if it holds none, or
          one with other settings, and `resume` is on; if it cannot be written.
        """
        workdir = cls(settings.new_workdir(), is_chief)
        workdir.is_shared = getattr(settings, "num_processes", 1) > 1
        if not is_chief:
            return workdir
        recorded = workdir / "settings.json"
        if workdir.path.exists() and not workdir.path.is_dir():
            raise ValueError(
                f"`workdir` must be a folder, or a name that is free. Received: '{workdir.path}', "
                "which is a file."
            )
        if settings.resume and workdir.path.is_dir():
            files.remove_debris(workdir.path)
        # An empty folder is that of a run killed before it could write its settings.
        if settings.resume and not workdir.is_empty():
            _check_same(recorded, settings)
            return workdir
        if workdir.path.exists() and not workdir.is_empty():
            raise ValueError(
                f"The workdir '{workdir.path}' is not empty. Pass --resume to go on with the run "
                "in it, or another --workdir."
            )
        try:
            workdir.path.mkdir(parents=True, exist_ok=True)
            content = {"format": _FORMAT, "settings": dataclasses.asdict(settings), **_versions()}
            workdir.write_json("settings.json", content)
        except OSError as error:
            raise ValueError(f"The workdir cannot be written: {error}.") from error
        return workdir

    @contextlib.contextmanager
    def given_up_if_nothing_began(self):
        """Context that takes the folder back where a model cannot be made for the data."""
        try:
            yield
        except ValueError:
            if self.is_chief and [path.name for path in self.path.iterdir()] == ["settings.json"]:
                (self.path / "settings.json").unlink()
                self.path.rmdir()
            raise

    def is_empty(self):
        """Whether the folder is there and holds nothing."""
        return self.path.is_dir() and not any(self.path.iterdir())

    def __truediv__(self, name):
        return self.path / name

    def write_json(self, name, content):
        """Writes a JSON file."""
        self._write(name, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))

    def save_model(self, model, name):
        """Saves a model with its optimizer's state.

        Every process does, the others to nowhere: on many machines saving is a joint computation.
        """
        if self.is_chief:
            self._write(name, model.save)
        else:
            with tempfile.TemporaryDirectory() as folder:
                model.save(pathlib.Path(folder, name))

    def write_names(self, name, names):
        """Writes a text file with one name in each line, UTF-8."""
        text = "".join(f"{each}\n" for each in names)
        self._write(name, lambda path: path.write_text(text, encoding="utf-8"))

    def read_lines(self, name):
        """Returns the objects of a JSON-lines file; empty if there is none."""
        path = self.path / name
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def read_metrics(self, phase):
        """Returns the rows of metrics.jsonl of one phase, by epoch."""
        return [row for row in self.read_lines("metrics.jsonl") if row["phase"] == phase]

    def write_lines(self, name, rows):
        """Writes a JSON-lines file."""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        self._write(name, lambda path: path.write_text(lines))

    def _write(self, name, write):
        if self.is_chief:
            with files.replacing(self.path / name) as path:
                write(path)

    def write_table(self, name, rows):
        """Writes dicts as a CSV file whose header has the keys of all of them."""
        header = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        table = csv.DictWriter(text, header, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        self._write(name, lambda path: path.write_text(text.getvalue(), "utf-8", "surrogateescape"))

    def checkpoint(self, phase):
        """Returns (path, epochs done) of the newest checkpoint of a phase, or (None, 0)."""
        found = []
        for path in self.path.glob(f"{phase}-*.keras"):
            match = re.fullmatch(rf"{phase}-(\d+)\.keras", path.name)
            if match:
                found.append((int(match[1]), path))
        epochs, path = max(found, default=(0, None))
        return path, epochs

    def load_model(self, path):
        """Loads a model that `save_model` wrote.

        Raises: ValueError: naming the file, if it is damaged or of another version.
        """
        try:
            return keras.saving.load_model(path)
        except Exception as error:
            raise ValueError(
                f"'{path}' is damaged, or of another version: {error}. Move it away and --resume "
                "from what is before it, or begin anew in another --workdir."
            ) from error

    def drop_checkpoints(self, phase, keep=None):
        """Deletes the checkpoints of a phase but the one at path `keep`."""
        for path in self.path.glob(f"{phase}-*.keras"):
            if self.is_chief and path != keep:
                path.unlink()


class Recorder(keras.callbacks.Callback):
    """Writes each epoch's logs, prints a line of progress, keeps a checkpoint.

    Args:
      workdir: the `Workdir`.
      phase: name of the phase.
      epochs: int, number of epochs of the phase.
      histogram: function (model) -> dict, a row for histograms.jsonl; or None.
    """

    def __init__(self, workdir, phase, epochs, histogram=None):
        super().__init__()
        self.workdir, self.phase, self.epochs = workdir, phase, epochs
        self.histogram = histogram

    def record_start(self, model):
        """Writes the histogram of the weights that the phase begins with, as epoch -1."""
        if self.histogram:
            row = {"phase": self.phase, "epoch": -1, **self.histogram(model)}
            self._append("histograms.jsonl", row)

    def on_train_begin(self, logs=None):
        self._saved = self._began = self._shown = time.monotonic()
        self._first = None

    def on_epoch_begin(self, epoch, logs=None):
        self._first = epoch if self._first is None else self._first

    def on_train_batch_end(self, batch, logs=None):
        if self.workdir.is_chief and time.monotonic() - self._shown > _PROGRESS_SECONDS:
            steps = self.params.get("steps") or "?"
            print(f"  {self.phase}, step {batch + 1} of {steps}", flush=True)
            self._shown = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        self._shown = time.monotonic()
        row = {"phase": self.phase, "epoch": epoch}
        row.update({key: float(value) for key, value in (logs or {}).items()})
        self._append("metrics.jsonl", row)
        if self.histogram:
            counted = self.histogram(self.model)
            self._append("histograms.jsonl", {"phase": self.phase, "epoch": epoch, **counted})
        now = time.monotonic()
        per_epoch = (now - self._began) / (epoch + 1 - self._first)
        if self.workdir.is_chief:
            _print_progress(row, self.epochs, per_epoch * (self.epochs - epoch - 1))
        # Where saving is joint work, no clock may decide on it.
        if self.workdir.is_shared or now - self._saved > _CHECKPOINT_SECONDS:
            name = f"{self.phase}-{epoch + 1:04d}.keras"
            self.workdir.save_model(self.model, name)
            self.workdir.drop_checkpoints(self.phase, keep=self.workdir / name)
            self._saved = time.monotonic()

    def _append(self, name, row):
        # A resumed phase repeats epochs after its checkpoint: their old rows go.
        rows = self.workdir.read_lines(name)
        kept = [r for r in rows if r["phase"] != self.phase or r["epoch"] < row["epoch"]]
        self.workdir.write_lines(name, [*kept, row])


def _print_progress(row, epochs, seconds_left):
    shown = ("loss", "accuracy", "val_accuracy", "quantized_accuracy", "val_perplexity")
    shown = (*shown, "quantized_perplexity", "on_grid")
    figures = "  ".join(f"{key} {row[key]:.4f}" for key in shown if key in row)
    phase = row["phase"].replace("_", " ")
    print(f"{phase} {row['epoch'] + 1}/{epochs}  {figures}  {seconds_left:.0f} s left", flush=True)


def recorded(given):
    """The settings that a run to be resumed began with, so that they need not be given again.

    Args:
      given: dict of settings, such as those of the command line.

    Returns: dict; empty unless `given` resumes a run whose settings can be read, for `Workdir.open`
      says what is wrong with another one.
    """
    path = pathlib.Path(given.get("workdir") or ".").expanduser() / "settings.json"
    if not given.get("resume") or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
        settings = content["settings"] if content["format"] == _FORMAT else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: value for name, value in settings.items() if name not in _OF_A_START}


def _check_same(recorded, settings):
    if not recorded.exists():
        raise ValueError(
            f"There is no run to resume in '{recorded.parent}'. Pass the --workdir of one, or "
            "leave --resume away."
        )
    try:
        content = json.loads(recorded.read_text())
        before, version = content["settings"], content.get("format", 1)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{recorded}' is damaged ({error}). Take another --workdir.") from error
    if version != _FORMAT:
        raise ValueError(
            f"The run in '{recorded.parent}' was begun by another version of this package, which "
            "recorded runs differently: finish it with that version, or begin anew in another "
            "--workdir."
        )
    now = dataclasses.asdict(settings)
    changed = [key for key in now if key not in _FREE and before.get(key) != now[key]]
    if changed:
        differences = ", ".join(f"{key}: {before.get(key)!r} -> {now[key]!r}" for key in changed)
        raise ValueError(
            f"A run resumes with the settings it began with. Changed: {differences}. Pass the old "
            "values, or another --workdir."
        )


def _versions():
    packages = ("tf_proxquant", "keras", "tensorflow", "jax", "numpy", "ai-edge-litert")
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "versions": {**versions, "python": platform.python_version()},
        "backend": keras.backend.backend(),
        "machine": platform.platform(),
    }
