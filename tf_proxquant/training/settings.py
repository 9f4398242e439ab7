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
DISTRIBUTIONS = ("none", "mirrored")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a run; the flags of train.py, which document them.

    Raises: ValueError: for a value out of range, naming it and what is expected.
    """

    workdir: str | None = None
    dataset: str = "digits"
    data_dir: str | None = None
    download: bool = False
    model: str = "resnet8"
    method: str = "proxquant"
    quantizer: str = "binary"
    bits: int = 2
    regularizer: str | None = None
    optimizer: str = "adam"
    learning_rate: float = 0.01
    strength: float | None = None
    full_precision_epochs: int = 20
    epochs: int = 50
    freeze_epoch: int | None = None
    batch_size: int = 32
    seed: int = 0
    init_from: str | None = None
    export_profile: str = "fast"
    resume: bool = False
    distribution: str = "none"

    def __post_init__(self):
        _check_choice("method", self.method, METHODS)
        _check_choice("quantizer", self.quantizer, QUANTIZERS)
        if self.regularizer is not None:
            _check_choice("regularizer", self.regularizer, REGULARIZERS)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("export_profile", self.export_profile, PROFILES)
        _check_choice("distribution", self.distribution, DISTRIBUTIONS)
        for name, minimum in (("full_precision_epochs", 0), ("epochs", 1), ("batch_size", 1),
                              ("seed", 0)):  # fmt: skip
            check_integer(name, getattr(self, name), minimum)
        if not 1 <= check_integer("bits", self.bits, 1) <= 8:
            raise ValueError(f"`bits` must be from 1 to 8. Received: bits={self.bits}.")
        if check_number("learning_rate", self.learning_rate) == 0:
            raise ValueError("`learning_rate` must be greater than 0. Received: learning_rate=0.")
        if self.strength is not None:
            check_number("strength", self.strength)
        if not 0 <= check_integer("freeze_epoch", self.first_frozen_epoch, 0) <= self.epochs:
            raise ValueError(
                f"`freeze_epoch` must be from 0 to epochs={self.epochs}. "
                f"Received: freeze_epoch={self.freeze_epoch}."
            )
        depth = self.depth
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(
                "`model` must be resnet8, resnet14, resnet20, ...: 'resnet' and 6 n + 2. "
                f"Received: model={self.model!r}."
            )
        if self.init_from is not None and not pathlib.Path(self.init_from).is_file():
            raise ValueError(
                f"`init_from` must be an existing .keras file. Received: {self.init_from!r}."
            )

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
    def effective_regularizer(self):
        """`regularizer`, by default what does best in short runs: see docs/results.md."""
        return self.regularizer or ("concave" if self.quantizer == "binary" else "l2")

    def make_quantizer(self):
        """Returns the quantizer that the settings name."""
        if self.quantizer == "binary":
            return quantizers.Binary()
        if self.quantizer == "ternary":
            return quantizers.Ternary()
        if self.quantizer == "multibit":
            return quantizers.MultiBit(self.bits)
        return quantizers.Uniform(self.bits, axis=-1)

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
