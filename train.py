"""Trains a low-precision network and exports it: full precision, then towards the grid, .tflite.

    python train.py                                   # digits, a small ResNet, binary
    python train.py --dataset=FOLDER --model=MobileNetV2     # pictures, one folder a class
    python train.py --model=lstm --quantizer=multibit --bits=2      # a language model

`--help` lists the flags; `--helpfull` also those of published settings and of many machines. The
run ends with a summary; the last line of standard output is one JSON object with the results.
"""

import dataclasses
import json
import os
import sys

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tf_proxquant import training
from tf_proxquant.quiet import quiet

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
