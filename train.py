"""Trains a low-precision network and exports it: full precision, then towards the grid, .tflite.

    python train.py                                   # digits, a small ResNet, binary
    python train.py --dataset=FOLDER --model=MobileNetV2     # pictures, one folder a class
    python train.py --model=lstm --quantizer=multibit --bits=2      # a language model

`--help` lists the flags; `--helpfull` also those of published settings and of many machines. The
run ends with a summary; the last line of standard output is one JSON object with the results.
"""

import contextlib
import dataclasses
import json
import os
import sys
import tempfile

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def quiet():
    """Context in which only Python writes to the terminal's standard error.

    What libraries write there by themselves, such as TensorFlow on what it did not find, is shown
    only after an exception that nobody foresaw.
    """
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as notes, os.fdopen(terminal, "w", buffering=1) as sys.stderr:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except Exception:
            notes.seek(0)
            sys.stderr.write(notes.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(terminal, 2)
            sys.stderr = sys.__stderr__


with quiet() if __name__ == "__main__" else contextlib.nullcontext():
    from tf_proxquant import training

# absl calls the module that is run by the name of the command.
training.define_flags(flags.FLAGS, sys.argv[0] if __name__ == "__main__" else __name__)


def settings(values):
    """Returns the `training.Settings` of parsed absl flags; raises ValueError for bad ones."""
    given = {name: values[name].value for name in training.flag_names() if values[name].present}
    return training.Settings(**{**training.recorded(given), **given})


def main(_):
    try:
        chosen = settings(flags.FLAGS)
        chosen = dataclasses.replace(chosen, workdir=str(chosen.new_workdir()))
        report = training.run(chosen)
    except ValueError as error:
        sys.exit(f"train.py: {error}")
    except KeyboardInterrupt:
        sys.exit(training.interrupted(chosen))
    if "tflite_path" in report:  # the first of several processes
        print(training.summary(report, chosen))
    print(json.dumps(report))


if __name__ == "__main__":
    with quiet():
        app.run(main)
