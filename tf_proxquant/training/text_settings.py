"""The settings of a language model."""

import dataclasses

from tf_proxquant.checks import check_integer, check_number
from tf_proxquant.training.settings import LANGUAGE_MODEL, Settings, check_choice, setting

PROFILES = ("fast", "small", "dynamic")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings(Settings):
    """Settings of a run with text; the flags of train.py with --model=lstm."""

    others = "images"

    model: str = setting(LANGUAGE_MODEL, "lstm: a language model.")
    dataset: str = setting(
        "grammar",
        "grammar (generated sentences), tiny_shakespeare or another text set of "
        "tensorflow-datasets, or the path of a text file or of a folder with *.train.txt, "
        "*.valid.txt and *.test.txt.",
    )
    quantizer: str = setting("binary", "binary, ternary, multibit or uniform; levels by row.")
    bits: int | None = setting(
        None, "Bits per weight of multibit, 1 to 4, and uniform, 2 to 8. Default: 2."
    )
    optimizer: str = setting("sgd", "adam or sgd, the gradient's norm clipped to 0.25.")
    learning_rate: float = setting(20.0, "Learning rate of both phases.")
    decay: str | None = setting(
        None,
        "How the learning rate falls: cosine, or stall, divided by 1.2 whenever the validation "
        "perplexity exceeds its best. Default: stall in full precision, then cosine.",
    )
    full_precision_epochs: int = setting(10, "Epochs of the full-precision warm start.")
    epochs: int = setting(15, "Epochs of the main phase.")
    batch_size: int = setting(20, "Streams of text per step.")
    export_profile: str = setting("small", f"Profile of the .tflite: {', '.join(PROFILES)}.")
    hidden: int = setting(128, "Units of each layer, and size of the embedding.")
    layers: int = setting(1, "Number of layers.")
    tied: bool = setting(False, "Share the table of the embedding and the output.")
    dropout: float = setting(0.5, "Dropout before and after each layer.")
    steps: int = setting(20, "Words that the gradient goes back through.")
    vocabulary: int = setting(10_000, "Largest number of different words.")

    def __post_init__(self):
        self.fill_bits(2)
        super().__post_init__()
        if self.export_profile not in PROFILES:
            raise ValueError(
                f"The profiles of a language model are {', '.join(PROFILES)}. "
                f"Received: export_profile={self.export_profile!r}."
            )
        for name, least in (("hidden", 1), ("layers", 1), ("steps", 1), ("vocabulary", 2)):
            check_integer(name, getattr(self, name), least)
        if self.decay is not None:
            check_choice("decay", self.decay, ("cosine", "stall"))
        if not 0 <= check_number("dropout", self.dropout) < 1:
            raise ValueError(
                f"`dropout` must be at least 0 and below 1. Received: dropout={self.dropout}."
            )

    @property
    def default_memory(self):
        """What did best in docs/results.md."""
        return 0.998

    @property
    def effective_regularizer(self):
        """`regularizer`, by default the paper's for several levels."""
        return self.regularizer or "l2"
