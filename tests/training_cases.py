"""Whole runs of train.py for the tests: started, finished or killed."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras

from tests import processes
from tests.processes import ROOT

SHORT = ["--full_precision_epochs=2", "--epochs=3", "--freeze_epoch=2", "--batch_size=128"]
# Has a layer of each kind of the default network, and is traced and compiled sooner.
SMALL = "tests.training_cases:small"
LIKE_DIGITS = [f"--model={SMALL}", "--method=memory", "--quantizer=binary", "--edge_bits=1"]

# Runs train.py with a checkpoint after each epoch, and kills the process, as `kill -9` does,
# when it has reported so many epochs.
KILLED = """
import os, signal, sys
from tf_proxquant.training import workdir
workdir._CHECKPOINT_SECONDS = -1
epochs_left = int(sys.argv.pop(1))
report = workdir._print_progress
def report_and_die(*arguments):
    global epochs_left
    report(*arguments)
    epochs_left -= 1
    if epochs_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
workdir._print_progress = report_and_die
import train
from absl import app
app.run(train.main)
"""


def small(shape, classes):
    """A network for `--model`."""
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(16, 3, strides=2, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes),
        ]
    )


def run_train(*flags, kill_after=None, environment=None):
    command = ["train.py"] if kill_after is None else ["-c", KILLED, str(kill_after)]
    return processes.run(*command, *flags, environment=environment)


def start_train(*flags, environment=None):
    """As a user does, and as the backend of an environment needs it: nothing is imported yet."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    command = [sys.executable, "train.py", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def finish_run(test_class, flags):
    """Gives a test class a finished run: its folder, workdir, result and report."""
    test_class.folder = tempfile.TemporaryDirectory()
    test_class.addClassCleanup(test_class.folder.cleanup)
    test_class.workdir = pathlib.Path(test_class.folder.name, "run")
    test_class.result = start_train(*flags, f"--workdir={test_class.workdir}")
    assert test_class.result.returncode == 0, test_class.result.stderr
    test_class.report = json.loads(test_class.result.stdout.splitlines()[-1])
