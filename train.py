"""Trains a low-precision network and exports it: full-precision warm start, ProxQuant, .tflite.

    python train.py                                   # digits, a small ResNet, binary
    python train.py --dataset=cifar10 --model=resnet20 --quantizer=ternary --workdir=runs/cifar
    python train.py --model=lstm --quantizer=multibit --bits=2      # a language model

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
    None,
    "Images: digits, fashion_mnist, cifar10, cifar100, mnist, or the path of a .npz file or of a "
    "folder of IDX files. Text: grammar (generated), tiny_shakespeare or another text set of "
    "tensorflow-datasets, or the path of a text file or of a folder with *.train.txt, "
    "*.valid.txt and *.test.txt. Default: digits, grammar.",
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Where the named data set is: a .npz file, a folder of IDX "
    "files or a tensorflow-datasets folder. Default: $TFDS_DATA_DIR.",
)
flags.DEFINE_boolean("download", False, "Let tensorflow-datasets download a missing data set.")
flags.DEFINE_string("model", "resnet8", "resnet8, resnet14, resnet20, ...: depth 6 n + 2; or lstm.")
flags.DEFINE_integer("width", 16, "resnet: filters of the first stage.")
flags.DEFINE_string(
    "method", "proxquant", "proxquant, binaryconnect, binaryrelax, parq or full_precision."
)
flags.DEFINE_string("quantizer", "binary", "binary, ternary, multibit or uniform.")
flags.DEFINE_integer("bits", 2, "Bits per weight of multibit and uniform, 1 to 8.")
flags.DEFINE_string(
    "regularizer",
    None,
    "Penalty of proxquant: l1 (the paper's for binary), l2 (the paper's for others), concave. "
    "Default: concave for binary and ternary images, else l2.",
)
flags.DEFINE_string(
    "optimizer",
    None,
    "Inner optimizer: adam, or sgd; with momentum 0.9 for images, with the gradient's norm clipped "
    "to 0.25 for text. Default: adam, sgd.",
)
flags.DEFINE_boolean(
    "restart_optimizer",
    False,
    "Images, adam: forget its moments at each epoch of the main phase, as the authors' code does.",
)
flags.DEFINE_float(
    "learning_rate",
    None,
    "Learning rate of the main phase, for text of both. Default: by Adam on images, binary and "
    "ternary, five times --full_precision_learning_rate, else once; 20 for text.",
)
flags.DEFINE_float(
    "full_precision_learning_rate",
    None,
    "Images: learning rate of the warm start. Default: 0.01.",
)
flags.DEFINE_string(
    "decay",
    None,
    "How the learning rate of each phase falls. Images: cosine, constant, or the epochs from which "
    "it is a tenth, such as 81,122. lstm: cosine, or stall, divided by 1.2 whenever the validation "
    "perplexity exceeds its best. Default: cosine; stall for the warm start of lstm.",
)
flags.DEFINE_boolean(
    "per_channel",
    True,
    "Images: fit levels for each output channel. --noper_channel: the paper's, -1 and +1 for "
    "binary, one set per tensor for the others, and weights clipped to [-1, 1].",
)
flags.DEFINE_float(
    "strength",
    None,
    "Growth of proxquant's pull lambda per epoch (the paper's reg_rate, "
    "1e-4 for CIFAR-10). Default: automatic, on the grid by the freeze.",
)
flags.DEFINE_integer(
    "full_precision_epochs", None, "Epochs of the full-precision warm start. Default: 20, 10."
)
flags.DEFINE_integer("epochs", None, "Epochs of the main phase. Default: 50, 15.")
flags.DEFINE_integer(
    "freeze_epoch",
    None,
    "Epoch from which on the quantized weights are frozen "
    "and the rest is fine-tuned. Default: two thirds of --epochs.",
)
flags.DEFINE_integer("batch_size", None, "Images, or streams of text, per step. Default: 32, 20.")
flags.DEFINE_integer("seed", 0, "Seed of initial weights, data order and augmentation.")
flags.DEFINE_string("init_from", None, "A .keras model to start from instead of a warm start.")
flags.DEFINE_string(
    "export_profile",
    None,
    "Profile of the .tflite: fast, small, balanced, dynamic or static. Default: fast, small.",
)
flags.DEFINE_boolean("resume", False, "Go on with the unfinished run in --workdir.")
flags.DEFINE_string(
    "distribution",
    "none",
    "none; mirrored: all GPUs of this machine, TensorFlow; data_parallel: all devices of this "
    "machine or of many, JAX (KERAS_BACKEND=jax).",
)
flags.DEFINE_string(
    "job_addresses",
    None,
    "With data_parallel on many machines: host:port of each process, or of process 0 only.",
)
flags.DEFINE_integer("num_processes", 1, "With data_parallel: number of processes.")
flags.DEFINE_integer("process_id", 0, "Which of them this is; 0 is the one that writes.")
flags.DEFINE_integer("hidden", 128, "lstm: units of each layer, and size of the embedding.")
flags.DEFINE_integer("layers", 1, "lstm: number of layers.")
flags.DEFINE_boolean("tied", False, "lstm: share the table of the embedding and the output.")
flags.DEFINE_float("dropout", 0.5, "lstm: dropout before and after each layer.")
flags.DEFINE_integer("steps", 20, "lstm: words that the gradient goes back through.")
flags.DEFINE_integer("vocabulary", 10_000, "lstm: largest number of different words.")


def settings(values):
    """Returns the `training.Settings` of parsed absl flags; raises ValueError for bad ones."""
    from tf_proxquant import training

    names = training.Settings.__dataclass_fields__
    return training.Settings(**{name: values[name].value for name in names})


def main(_):
    from tf_proxquant import training

    try:
        report = training.run(settings(flags.FLAGS))
    except ValueError as error:
        sys.exit(f"train.py: {error}")
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main)
