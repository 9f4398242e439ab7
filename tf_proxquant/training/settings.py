"""The settings of one training run, checked before anything is read or written."""

import dataclasses
import datetime
import pathlib

from tf_proxquant import quantizers
from tf_proxquant.schedules import check_integer, check_number

METHODS = ("proxquant", "binaryconnect", "binaryrelax", "parq", "full_precision")
REGULARIZERS = ("l1", "l2", "concave")
QUANTIZERS = ("binary", "ternary", "multibit", "uniform")
OPTIMIZERS = ("adam", "sgd")
PROFILES = ("fast", "small", "balanced", "dynamic", "static")
DISTRIBUTIONS = ("none", "mirrored", "data_parallel")
LANGUAGE_MODEL = "lstm"

# What stands for None, for images and for text.
_DEFAULTS = {
    "dataset": ("digits", "grammar"),
    "optimizer": ("adam", "sgd"),
    "full_precision_learning_rate": (0.01, 20.0),
    "full_precision_epochs": (20, 10),
    "epochs": (50, 15),
    "batch_size": (32, 20),
    "export_profile": ("fast", "small"),
    # Of text: stall in full precision, cosine where weights are quantized.
    "decay": ("cosine", None),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a run; the flags of train.py, which document them.

    None becomes the default of the model's kind, images or text, where there is one.

    Raises: ValueError: for a value out of range, naming it and what is expected.
    """

    workdir: str | None = None
    dataset: str | None = None
    data_dir: str | None = None
    download: bool = False
    model: str = "resnet8"
    width: int = 16
    method: str = "proxquant"
    quantizer: str = "binary"
    bits: int = 2
    regularizer: str | None = None
    optimizer: str | None = None
    restart_optimizer: bool = False
    learning_rate: float | None = None
    full_precision_learning_rate: float | None = None
    decay: str | None = None
    per_channel: bool = True
    strength: float | None = None
    full_precision_epochs: int | None = None
    epochs: int | None = None
    freeze_epoch: int | None = None
    batch_size: int | None = None
    seed: int = 0
    init_from: str | None = None
    export_profile: str | None = None
    resume: bool = False
    distribution: str = "none"
    job_addresses: str | None = None
    num_processes: int = 1
    process_id: int = 0
    hidden: int = 128
    layers: int = 1
    tied: bool = False
    dropout: float = 0.5
    steps: int = 20
    vocabulary: int = 10_000

    def __post_init__(self):
        for name, choices in _DEFAULTS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, choices[self.is_language_model])
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", self._default_learning_rate)
        self._check_choices()
        self._check_numbers()
        self._check_model()
        self._check_processes()
        if self.init_from is not None and not pathlib.Path(self.init_from).is_file():
            raise ValueError(
                f"`init_from` must be an existing .keras file. Received: {self.init_from!r}."
            )

    def _check_choices(self):
        _check_choice("method", self.method, METHODS)
        _check_choice("quantizer", self.quantizer, QUANTIZERS)
        if self.regularizer is not None:
            _check_choice("regularizer", self.regularizer, REGULARIZERS)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("export_profile", self.export_profile, PROFILES)
        _check_choice("distribution", self.distribution, DISTRIBUTIONS)

    def _check_numbers(self):
        for name, minimum in (("full_precision_epochs", 0), ("epochs", 1), ("batch_size", 1),
                              ("seed", 0), ("width", 1), ("hidden", 1), ("layers", 1), ("steps", 1),
                              ("vocabulary", 2)):  # fmt: skip
            check_integer(name, getattr(self, name), minimum)
        if not 1 <= check_integer("bits", self.bits, 1) <= 8:
            raise ValueError(f"`bits` must be from 1 to 8. Received: bits={self.bits}.")
        for name in ("full_precision_learning_rate", "learning_rate"):
            if check_number(name, getattr(self, name)) == 0:
                raise ValueError(f"`{name}` must be greater than 0. Received: {name}=0.")
        self.decay_epochs  # noqa: B018, raises
        if self.strength is not None:
            check_number("strength", self.strength)
        if not 0 <= check_integer("freeze_epoch", self.first_frozen_epoch, 0) <= self.epochs:
            raise ValueError(
                f"`freeze_epoch` must be from 0 to epochs={self.epochs}. "
                f"Received: freeze_epoch={self.freeze_epoch}."
            )
        if not 0 <= check_number("dropout", self.dropout) < 1:
            raise ValueError(
                f"`dropout` must be at least 0 and below 1. Received: dropout={self.dropout}."
            )

    def _check_model(self):
        depth = self.depth
        if not self.is_language_model and (depth < 8 or (depth - 2) % 6):
            raise ValueError(
                f"`model` must be '{LANGUAGE_MODEL}', or 'resnet' and 6 n + 2: resnet8, resnet14, "
                f"resnet20, ... Received: model={self.model!r}."
            )
        if self.is_language_model and self.export_profile in ("balanced", "static"):
            raise ValueError(
                "The profiles of a language model are fast, small and dynamic. "
                f"Received: export_profile={self.export_profile!r}."
            )
        if self.restart_optimizer and (self.is_language_model or self.optimizer != "adam"):
            raise ValueError(
                "`restart_optimizer` is for images and optimizer='adam'. Received: "
                f"model={self.model!r}, optimizer={self.optimizer!r}."
            )

    def _check_processes(self):
        check_integer("num_processes", self.num_processes, 1)
        if check_integer("process_id", self.process_id, 0) >= self.num_processes:
            raise ValueError(
                f"`process_id` must be below num_processes={self.num_processes}. "
                f"Received: process_id={self.process_id}."
            )
        if self.distribution != "none" and self.is_language_model:
            raise ValueError(
                f"distribution={self.distribution!r} is for images: the state of a language model "
                f"goes with the streams of one batch. Received: model={self.model!r}."
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
    def is_language_model(self):
        """True for a model of text, False for one of images."""
        return self.model == LANGUAGE_MODEL

    @property
    def depth(self):
        """Depth of the ResNet, 0 if `model` names none."""
        digits = self.model.removeprefix("resnet")
        return int(digits) if self.model.startswith("resnet") and digits.isdecimal() else 0

    @property
    def first_frozen_epoch(self):
        """`freeze_epoch`, by default after two thirds of the epochs as in the paper's recipes."""
        return 2 * self.epochs // 3 if self.freeze_epoch is None else self.freeze_epoch

    @property
    def _default_learning_rate(self):
        """Of images by Adam, five times that of the warm start, up to three levels.

        So that weights still change sign: see docs/decisions, number 0004.
        """
        few_levels = self.quantizer in ("binary", "ternary") and self.method != "full_precision"
        if self.is_language_model or self.optimizer == "sgd" or not few_levels:
            return self.full_precision_learning_rate
        return 5 * self.full_precision_learning_rate

    @property
    def decay_epochs(self):
        """None for half a cosine, else the epochs from which the learning rate is a tenth."""
        if self.is_language_model:
            if self.decay is not None:
                _check_choice("decay", self.decay, ("cosine", "stall"))
            return None
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
        return 1.0 if in_box and not self.is_language_model else None

    @property
    def effective_regularizer(self):
        """`regularizer`, by default what does best in short runs: see docs/results.md."""
        few_levels = self.quantizer in ("binary", "ternary") and not self.is_language_model
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

    def new_workdir(self):
        """Returns `workdir`, by default a new folder under runs/ named after time and content."""
        if self.workdir is not None:
            return pathlib.Path(self.workdir).expanduser()
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        dataset = pathlib.Path(self.dataset).stem
        return pathlib.Path("runs", f"{now}-{dataset}-{self.model}-{self.method}-{self.quantizer}")


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}.")
