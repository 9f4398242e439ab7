"""The settings of a training run that images and text share, checked before anything is written.

Each field says what it is; train.py makes its flags of them.
"""

import dataclasses
import datetime
import pathlib
from typing import Any

from tf_proxquant.checks import check_integer, check_number

METHODS = ("memory", "proxquant", "binaryconnect", "binaryrelax", "parq", "full_precision")
REGULARIZERS = ("l1", "l2", "concave")
QUANTIZERS = ("binary", "ternary", "multibit", "uniform")
BITS = {"multibit": (1, 4), "uniform": (2, 8)}
OPTIMIZERS = ("adam", "sgd")
# Settings that only some methods have.
_ONLY_FOR = {
    "memory": ("memory",),
    "regularizer": ("proxquant",),
    "strength": ("proxquant",),
    "freeze_epoch": tuple(method for method in METHODS if method != "full_precision"),
}
LANGUAGE_MODEL = "lstm"

# Groups of fields that `train.py --help` leaves to --helpfull.
PUBLISHED = "for published settings"
MACHINES = "for many machines"


def setting(default: Any, help: str, group: str = "") -> Any:
    """A field of the settings: its default, what it is, and the group of flags it belongs to."""
    return dataclasses.field(default=default, metadata={"help": help, "group": group})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every run has; `Settings(**values)` makes the settings of the kind of its model.

    None stands for a default that depends on other settings.

    Raises: ValueError: for a value out of range, naming it and what is expected, and for the name
      of a setting that models of this kind do not have.
    """

    workdir: str | None = setting(
        None,
        "Folder for everything that the run writes; must be empty unless --resume. Default: a new "
        "folder under runs/.",
    )
    resume: bool = setting(False, "Go on with the unfinished run in --workdir.")
    seed: int = setting(0, "Seed of initial weights, data order and augmentation.")
    data_dir: str | None = setting(
        None,
        "Where a named data set is: a .npz file, a folder of IDX files or a folder of "
        "tensorflow-datasets. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.",
    )
    download: bool = setting(False, "Let tensorflow-datasets download a missing data set.")
    method: str | None = setting(
        None,
        f"How weights reach their levels: {', '.join(METHODS)}. Default: memory, and proxquant for "
        "more than four levels or where --strength or --regularizer is given.",
    )
    memory: float | None = setting(
        None,
        "Share of what the prox cuts off that method memory remembers, 0 to 1. Default: 0.99 for "
        "binary images, 0.997 for others, 0.998 for text.",
        PUBLISHED,
    )
    regularizer: str | None = setting(
        None,
        "Penalty of proxquant: l1 (the paper's for binary), l2 (the paper's for others), concave. "
        "Default: concave for binary and ternary images, else l2.",
        PUBLISHED,
    )
    strength: float | None = setting(
        None,
        "Growth of proxquant's pull lambda per epoch (the paper's reg_rate, 1e-4 for CIFAR-10). "
        "Default: automatic, on the grid by the freeze.",
        PUBLISHED,
    )
    freeze_epoch: int | None = setting(
        None,
        "Epoch from which on the quantized weights are frozen and the rest is fine-tuned. Default: "
        "two thirds of --epochs; nine tenths for images with method memory.",
    )
    init_from: str | None = setting(
        None, "A .keras model, of an earlier run for example, to start from without a warm start."
    )

    def __new__(cls, **values):
        """Picks the class of the model's kind, and names what it does not have."""
        if cls is Settings:
            cls = settings_class(values.get("model"))
        names = {field.name for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in names:
                raise ValueError(
                    f"{name}={value!r} is for {cls.others}. "
                    f"Received: model={values.get('model', cls.model)!r}."
                )
        return super().__new__(cls)

    def __post_init__(self):
        self._fill_method()
        check_choice("method", self.method, METHODS)
        check_choice("quantizer", self.quantizer, QUANTIZERS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if self.regularizer is not None:
            check_choice("regularizer", self.regularizer, REGULARIZERS)
        for name in ("full_precision_epochs", "epochs", "batch_size"):
            check_integer(name, getattr(self, name), int(name != "full_precision_epochs"))
        check_integer("seed", self.seed, 0, 2**32 - 1)
        self._check_bits()
        check_rate("learning_rate", self.learning_rate)
        if self.memory is not None:
            check_number("memory", self.memory, 0, 1)
        if self.strength is not None:
            check_number("strength", self.strength)
        if not 0 <= check_integer("freeze_epoch", self.first_frozen_epoch, 0) <= self.epochs:
            raise ValueError(
                f"`freeze_epoch` must be from 0 to epochs={self.epochs}. "
                f"Received: freeze_epoch={self.freeze_epoch}."
            )
        if self.init_from is not None and not pathlib.Path(self.init_from).is_file():
            raise ValueError(
                f"`init_from` must be an existing .keras file. Received: {self.init_from!r}."
            )

    def _check_bits(self):
        if self.quantizer not in BITS:
            if self.bits is not None and (self.quantizer, self.bits) != ("binary", 1):
                raise ValueError(
                    f"`bits` is for quantizer='multibit' or 'uniform'. Received: bits={self.bits}, "
                    f"quantizer={self.quantizer!r}."
                )
            return
        least, most = BITS[self.quantizer]
        if not least <= check_integer("bits", self.bits, 1) <= most:
            raise ValueError(
                f"`bits` must be from {least} to {most} for quantizer={self.quantizer!r}; one bit "
                "is 'binary', more than 4 are 'uniform'. Received: "
                f"bits={self.bits}."
            )

    def _fill_method(self):
        """Gives `method` and `memory` their defaults; raises for what other methods have."""
        is_published = self.strength is not None or self.regularizer is not None
        few = self.quantizer in ("binary", "ternary") or self.bits in (1, 2)
        self.fill("method", "memory" if few and not is_published else "proxquant")
        if self.method == "memory":
            self.fill("memory", self.default_memory)
        for name, methods in _ONLY_FOR.items():
            value = getattr(self, name)
            if value is not None and self.method not in methods:
                raise ValueError(
                    f"`{name}` is for method={' or '.join(map(repr, methods))}. Received: "
                    f"{name}={value!r}, method={self.method!r}."
                )

    @property
    def default_memory(self):
        """The memory of method memory where none is given."""
        raise NotImplementedError

    @property
    def first_frozen_epoch(self):
        """`freeze_epoch`, by default after two thirds of the epochs as in the paper's recipes."""
        return 2 * self.epochs // 3 if self.freeze_epoch is None else self.freeze_epoch

    def fill_bits(self, value):
        """Gives `bits` its value where the quantizer has any number of them."""
        if self.quantizer in BITS:
            self.fill("bits", value)

    def fill(self, name, value):
        """Gives a setting that was left at None its value."""
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    def new_workdir(self):
        """Returns `workdir`, by default a new folder under runs/ named after time and content."""
        if self.workdir is not None:
            return pathlib.Path(self.workdir).expanduser()
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        names = (pathlib.Path(self.dataset).stem, pathlib.Path(self.model).stem.replace(":", "-"))
        return pathlib.Path("runs", "-".join((now, *names, self.method, self.quantizer)))


def settings_class(model):
    """`TextSettings` or `ImageSettings`, by the name of the model."""
    from tf_proxquant.training.image_settings import ImageSettings
    from tf_proxquant.training.text_settings import TextSettings

    return TextSettings if model == LANGUAGE_MODEL else ImageSettings


def check_choice(name, value, choices):
    """Raises ValueError unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}.")


def check_rate(name, value):
    """Raises ValueError unless a learning rate is greater than 0."""
    if check_number(name, value) == 0:
        raise ValueError(f"`{name}` must be greater than 0. Received: {name}=0.")
