"""The settings of an image classifier."""

import dataclasses
import difflib
import pathlib
from typing import get_args

import keras

from tf_proxquant import quantizers
from tf_proxquant.checks import check_integer
from tf_proxquant.training.settings import (
    LANGUAGE_MODEL,
    MACHINES,
    PUBLISHED,
    Settings,
    check_choice,
    check_rate,
    setting,
)
from tf_proxquant.typing import Profile, Resize

PROFILES = get_args(Profile)
DISTRIBUTIONS = ("none", "mirrored", "data_parallel")
RESIZES = get_args(Resize)
# Data whose labels a flip from left to right would change.
_NOT_FLIPPED = ("digits", "mnist")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings(Settings):
    """Settings of a run with images; the flags of train.py."""

    others = "text"

    dataset: str = setting(
        "digits",
        "digits; the path of a folder of pictures, with one folder for each class or with such "
        "folders in train/, validation/ and test/; of a .npz file; of a folder of IDX files; or "
        "the name of an image set of tensorflow-datasets, such as cifar10.",
    )
    image_size: str | None = setting(
        None,
        "Side of the pictures that the model takes, or HEIGHTxWIDTH. Default: their own where all "
        "have the same, of at most 256, else 128.",
    )
    resize: str = setting(
        "stretch",
        "How pictures of other sizes come to that size, by Pillow's antialiased BILINEAR: stretch "
        "(Image.resize), crop (ImageOps.fit) or pad (ImageOps.pad, black). An application must do "
        "the same.",
    )
    skip_broken: bool = setting(
        False,
        "Leave out files that are no readable picture, instead of naming them all and ending.",
    )
    flip: bool | None = setting(
        None,
        "Flip half of the training images from left to right; --noflip where that would change "
        "their class, as of letters. Default: yes, but for digits and mnist.",
    )
    model: str = setting(
        "resnet8",
        "resnet8, resnet14, resnet20, ...: depth 6 n + 2; a name of keras.applications, such as "
        "MobileNetV2; MODULE:FUNCTION, called with (input_shape, num_classes); or a .keras file. "
        "lstm: a language model.",
    )
    weights: str | None = setting(
        None,
        "What a model begins with: imagenet, which Keras downloads, or a file of weights, .keras "
        "or .h5. Default: random, or of a .keras model its own.",
    )
    quantizer: str | None = setting(
        None,
        "Levels of the weights: binary, ternary, multibit or uniform. Default: binary for resnet8 "
        "and so on, uniform for others.",
    )
    bits: int | None = setting(
        None,
        "Bits per weight of multibit, 1 to 4, and uniform, 2 to 8. Default: 2 for resnet8 and so "
        "on, 4 for others.",
    )
    edge_bits: int | None = setting(
        None,
        "Bits per weight of the first and the last layer, 1 to 8, or 32: full precision. Default: "
        "8; for resnet8 and so on as published, that is as the others for binary, else 32.",
    )
    head_epochs: int | None = setting(
        None,
        "Epochs in which only the new last layer learns. Default: 3 where the model has weights "
        "to begin with and a new last layer, else 0.",
    )
    full_precision_epochs: int | None = setting(
        None,
        "Epochs of full precision before the main phase. Default: 20; with weights 10.",
    )
    epochs: int | None = setting(None, "Epochs of the main phase. Default: 50; with weights 20.")
    batch_size: int = setting(32, "Images per step.")
    learning_rate: float | None = setting(
        None,
        "Learning rate of the main phase. Default: by Adam with method memory twice "
        "--full_precision_learning_rate, with binary and ternary levels of others five times, else "
        "once.",
    )
    full_precision_learning_rate: float | None = setting(
        None,
        "Learning rate of full precision. Default: 0.01 for resnet8 and so on, 0.001 for others, "
        "0.0001 with weights.",
    )
    export_profile: str = setting("fast", f"Profile of the .tflite: {', '.join(PROFILES)}.")

    width: int = setting(16, "resnet8 and so on: filters of the first stage.", PUBLISHED)
    optimizer: str = setting("adam", "Inner optimizer: adam, or sgd with momentum 0.9.", PUBLISHED)
    restart_optimizer: bool = setting(
        False,
        "Adam forgets its moments at each epoch of the main phase, as in the authors' code.",
        PUBLISHED,
    )
    decay: str = setting(
        "cosine",
        "How the learning rate of each phase falls: cosine, constant, or the epochs from which it "
        "is a tenth, such as 81,122.",
        PUBLISHED,
    )
    per_channel: bool = setting(
        True,
        "Fit levels for each output channel. --noper_channel: the paper's, -1 and +1 for binary, "
        "one set per tensor for the others, and weights clipped to [-1, 1].",
        PUBLISHED,
    )
    distribution: str = setting(
        "none",
        "none; mirrored: all GPUs of this machine, TensorFlow; data_parallel: all devices of this "
        "machine or of many, JAX (KERAS_BACKEND=jax).",
        MACHINES,
    )
    job_addresses: str | None = setting(
        None,
        "With data_parallel on many machines: host:port of each process, or of process 0 only.",
        MACHINES,
    )
    num_processes: int = setting(1, "With data_parallel: number of processes.", MACHINES)
    process_id: int = setting(
        0, "With data_parallel: which of them this is; 0 is the one that writes.", MACHINES
    )

    def __post_init__(self):
        self._check_model()
        self._fill_defaults()
        check_rate("full_precision_learning_rate", self.full_precision_learning_rate)
        super().__post_init__()
        check_choice("resize", self.resize, RESIZES)
        check_choice("export_profile", self.export_profile, PROFILES)
        check_choice("distribution", self.distribution, DISTRIBUTIONS)
        check_integer("width", self.width, 1)
        check_integer("head_epochs", self.head_epochs or 0, 0)
        if self.edge_bits not in (None, *range(1, 9), 32):
            raise ValueError(
                f"`edge_bits` must be from 1 to 8, or 32. Received: edge_bits={self.edge_bits!r}."
            )
        self.decay_epochs, self.size  # noqa: B018, raise
        if self.restart_optimizer and self.optimizer != "adam":
            raise ValueError(
                "`restart_optimizer` is for optimizer='adam'. Received: "
                f"optimizer={self.optimizer!r}."
            )
        self._check_processes()

    def _fill_defaults(self):
        own, begun = not self.depth, self.weights is not None or self.is_file
        self.fill("quantizer", "uniform" if own else "binary")
        self.fill_bits(4 if own else 2)
        self.fill("edge_bits", 8 if own else None)
        self.fill("full_precision_epochs", 10 if begun else 20)
        self.fill("epochs", 20 if begun else 50)
        self._fill_method()
        rate = 0.0001 if begun else 0.001 if own else 0.01
        self.fill("full_precision_learning_rate", rate)
        # So that weights still change sign: see docs/decisions, number 0004.
        few_levels = self.quantizer in ("binary", "ternary") and self.method != "full_precision"
        times = 2 if self.method == "memory" else 5 if few_levels else 1
        times = times if self.optimizer == "adam" else 1
        self.fill("learning_rate", times * self.full_precision_learning_rate)

    def _check_model(self):
        depth, model = self.depth, self.model
        is_resnet = depth >= 8 and (depth - 2) % 6 == 0
        if not is_resnet and ":" not in model and not self.application and not self.is_file:
            meant = difflib.get_close_matches(model.lower(), map(str.lower, applications()), 1, 0.7)
            hint = [f" Did you mean {n}?" for n in applications() if n.lower() in meant]
            raise ValueError(
                f"`model` must be '{LANGUAGE_MODEL}'; 'resnet' and 6 n + 2, such as resnet8; a "
                "name of keras.applications, such as MobileNetV2; MODULE:FUNCTION; or a .keras "
                f"file. Received: model={model!r}.{''.join(hint)}"
            )
        if self.is_file and not pathlib.Path(model).is_file():
            raise ValueError(f"There is no file '{model}'. Received: model={model!r}.")
        if self.weights == "imagenet" and not self.application:
            raise ValueError(
                "weights='imagenet' is for models of keras.applications, such as MobileNetV2. "
                f"Received: model={model!r}."
            )
        if self.weights not in (None, "imagenet") and not pathlib.Path(self.weights).is_file():
            raise ValueError(
                f"`weights` must be imagenet or an existing file. Received: {self.weights!r}."
            )

    def _check_processes(self):
        check_integer("num_processes", self.num_processes, 1)
        if check_integer("process_id", self.process_id, 0) >= self.num_processes:
            raise ValueError(
                f"`process_id` must be below num_processes={self.num_processes}. "
                f"Received: process_id={self.process_id}."
            )
        if self.num_processes == 1:
            return
        if self.distribution != "data_parallel" or not self.job_addresses or not self.workdir:
            raise ValueError(
                "Several processes need distribution='data_parallel', job_addresses="
                "'host:port,...' and one workdir for all. Received: distribution="
                f"{self.distribution!r}, job_addresses={self.job_addresses!r}, "
                f"workdir={self.workdir!r}."
            )
        addresses = self.job_addresses.split(",")
        if len(addresses) not in (1, self.num_processes) or not all(":" in a for a in addresses):
            raise ValueError(
                f"`job_addresses` must be host:port of each of the {self.num_processes} processes, "
                f"or of process 0 only. Received: job_addresses={self.job_addresses!r}."
            )
        if self.batch_size % self.num_processes:
            raise ValueError(
                f"`batch_size` must be a multiple of num_processes={self.num_processes}. "
                f"Received: batch_size={self.batch_size}."
            )

    @property
    def depth(self):
        """Depth of the ResNet of this package, 0 if `model` names none."""
        digits = self.model.removeprefix("resnet")
        return int(digits) if self.model.startswith("resnet") and digits.isdecimal() else 0

    @property
    def application(self):
        """The function of keras.applications that `model` names, or None."""
        return getattr(keras.applications, self.model) if self.model in applications() else None

    @property
    def is_file(self):
        """Whether `model` is a .keras file."""
        return self.model.endswith(".keras")

    @property
    def size(self):
        """(height, width) of `image_size`, or None."""
        if self.image_size is None:
            return None
        sides = str(self.image_size).lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
            raise ValueError(
                "`image_size` must be a number of pixels, or HEIGHTxWIDTH such as 120x160. "
                f"Received: image_size={self.image_size!r}."
            )
        return int(sides[0]), int(sides[-1])

    def flips(self, name):
        """Whether training images of a data set are flipped from left to right."""
        return name not in _NOT_FLIPPED if self.flip is None else self.flip

    @property
    def decay_epochs(self):
        """None for half a cosine, else the epochs from which the learning rate is a tenth."""
        if self.decay in ("cosine", "constant"):
            return None if self.decay == "cosine" else ()
        epochs = self.decay.split(",")
        if not all(epoch.strip().isdecimal() for epoch in epochs):
            raise ValueError(
                "`decay` must be cosine, constant, or epochs such as 81,122. "
                f"Received: decay={self.decay!r}."
            )
        return tuple(int(epoch) for epoch in epochs)

    @property
    def clip(self):
        """The box of the paper's recipes for levels of one scale, else None."""
        in_box = not self.per_channel and self.quantizer in ("binary", "ternary")
        return 1.0 if in_box else None

    @property
    def default_memory(self):
        """What did best in docs/decisions, number 0083."""
        return 0.99 if self.quantizer == "binary" else 0.997

    @property
    def first_frozen_epoch(self):
        """`freeze_epoch`, by default after nine tenths of the epochs for method memory."""
        if self.freeze_epoch is None and self.method == "memory":
            return 9 * self.epochs // 10
        return super().first_frozen_epoch

    @property
    def effective_regularizer(self):
        """`regularizer`, by default what ProxQuant does best with: see docs/results.md."""
        few_levels = self.quantizer in ("binary", "ternary")
        return self.regularizer or ("concave" if few_levels else "l2")

    def make_quantizer(self):
        """Returns the quantizer that the settings name; its levels are fitted per output channel.

        With `per_channel` off they are the paper's: -1 and +1 for binary, else one set of levels
        per tensor.
        """
        axis = -1 if self.per_channel else None
        if self.quantizer == "binary":
            return quantizers.Binary("mean" if self.per_channel else None, axis=axis)
        if self.quantizer == "ternary":
            return quantizers.Ternary(axis=axis)
        if self.quantizer == "multibit":
            return quantizers.MultiBit(self.bits, axis=axis)
        return quantizers.Uniform(self.bits, axis=axis)

    def make_edge_quantizer(self):
        """Returns the quantizer of `edge_bits`; None for full precision and for no such bits."""
        if self.edge_bits in (None, 32):
            return None
        if self.edge_bits == 1:
            return quantizers.Binary("mean", axis=-1)
        return quantizers.Uniform(self.edge_bits, axis=-1)


def applications():
    """Names of the models of keras.applications."""
    return [name for name in dir(keras.applications) if name[0].isupper()]
