"""Trains a low-precision network and exports it: full-precision warm start, ProxQuant, .tflite.

    python train.py                                   # digits, a small ResNet, binary
    python train.py --dataset=cifar10 --model=resnet20 --quantizer=ternary --workdir=runs/cifar

The last line of standard output is one JSON object with the results.
"""

import json
import os
import sys

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

flags.DEFINE_string(
    "workdir",
    None,
    "Folder for everything that the run writes; must be empty "
    "unless --resume. Default: a new folder under runs/.",
)
flags.DEFINE_string(
    "dataset",
    "digits",
    "digits, fashion_mnist, cifar10, cifar100, mnist, or the "
    "path of a .npz file or of a folder of IDX files.",
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Where the named data set is: a .npz file, a folder of IDX "
    "files or a tensorflow-datasets folder. Default: $TFDS_DATA_DIR.",
)
flags.DEFINE_boolean("download", False, "Let tensorflow-datasets download a missing data set.")
flags.DEFINE_string("model", "resnet8", "resnet8, resnet14, resnet20, ...: depth 6 n + 2.")
flags.DEFINE_string(
    "method", "proxquant", "proxquant, binaryconnect, binaryrelax, parq or full_precision."
)
flags.DEFINE_string("quantizer", "binary", "binary, ternary, multibit or uniform.")
flags.DEFINE_integer("bits", 2, "Bits per weight of multibit and uniform, 1 to 8.")
flags.DEFINE_string(
    "regularizer",
    None,
    "Penalty of proxquant: l1 (the paper's for binary), l2 (the paper's for others), concave. "
    "Default: concave for binary, else l2.",
)
flags.DEFINE_string("optimizer", "adam", "Inner optimizer: adam, or sgd with momentum 0.9.")
flags.DEFINE_float("learning_rate", 0.01, "Learning rate of both phases.")
flags.DEFINE_float(
    "strength",
    None,
    "Growth of the pull lambda per epoch (the paper's reg_rate, "
    "1e-4 for CIFAR-10). Default: a total pull that reaches the grid.",
)
flags.DEFINE_integer("full_precision_epochs", 20, "Epochs of the full-precision warm start.")
flags.DEFINE_integer("epochs", 50, "Epochs of the main phase.")
flags.DEFINE_integer(
    "freeze_epoch",
    None,
    "Epoch from which on the quantized weights are frozen "
    "and the rest is fine-tuned. Default: two thirds of --epochs.",
)
flags.DEFINE_integer("batch_size", 32, "Images per step.")
flags.DEFINE_integer("seed", 0, "Seed of initial weights, data order and augmentation.")
flags.DEFINE_string("init_from", None, "A .keras model to start from instead of a warm start.")
flags.DEFINE_string(
    "export_profile", "fast", "Profile of the .tflite: fast, small, balanced, dynamic or static."
)
flags.DEFINE_boolean("resume", False, "Go on with the unfinished run in --workdir.")
flags.DEFINE_string("distribution", "none", "none, or mirrored: all GPUs of this machine.")


def main(_):
    from tf_proxquant import training

    names = training.Settings.__dataclass_fields__
    try:
        settings = training.Settings(**{name: flags.FLAGS[name].value for name in names})
        report = training.run(settings)
    except ValueError as error:
        sys.exit(f"train.py: {error}")
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main)
