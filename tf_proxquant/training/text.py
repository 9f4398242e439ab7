"""The language-model task: LSTM layers that predict the next word, scored by perplexity."""

import keras
import numpy as np

from tf_proxquant import callbacks, datasets, metrics, models, quantizers
from tf_proxquant.training.images import half_cosine
from tf_proxquant.training.seeding import SeedRandomLayers

# Of the rule of Xu et al.; see `DecayOnStall`.
_DECAY = 1.2
_MAX_NORM = 0.25
# Steps between two fits of the levels, which would else take as long as the rest of a step.
_LEVELS_EVERY = 5


class TextTask:
    """What a run needs to know about text; `images.ImageTask` is the other one.

    Args:
      settings: `TextSettings`.
      data: `datasets.Text`; None loads the one that the settings name.

    Attributes:
      metric: name of the score, in logs and reports.
      name: of the text.
      train, validation, test: `datasets.Streams`.
      names: (file name, words by their numbers), to be written beside the model.

    Raises: ValueError: for data that are not there or do not fit.

    Reference: Xu et al., Alternating multi-bit quantization for recurrent neural networks,
      ICLR 2018, arXiv:1802.00150, section 5: SGD from a rate of 20, norm clipped to 0.25, the rate
      divided by 1.2 when the validation perplexity exceeds its best.
    """

    metric = "perplexity"
    head_epochs = 0

    def __init__(self, settings, data=None):
        self.settings = settings
        if data is None:
            data = datasets.load_text(
                settings.dataset, settings.data_dir, settings.download, settings.vocabulary
            )
        self.data = data
        self.name = data.name
        self.names = "vocabulary.txt", data.vocabulary
        streams = {"batch_size": settings.batch_size, "steps": settings.steps}
        self.train = datasets.Streams(data.train, **streams, drop_last=True)
        self.validation = datasets.Streams(data.valid, **streams)
        self.test = datasets.Streams(data.test, **streams)

    def make_model(self):
        """Returns the model, stateful, not compiled."""
        return self._build(
            batch_size=self.settings.batch_size, steps=self.settings.steps, stateful=True
        )

    def _build(self, **options):
        settings = self.settings
        return models.lstm_language_model(
            len(self.data.vocabulary),
            settings.hidden,
            settings.hidden,
            settings.layers,
            settings.tied,
            settings.dropout,
            **options,
        )

    def adopt(self, model):
        """Returns a model to train that starts with the weights of `model`.

        Raises: ValueError: if they do not fit.
        """
        mine = self.make_model()
        _copy_weights(model, mine)
        return mine

    def compile(self, model, optimizer):
        """Compiles a model with its loss and metric."""
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss=loss, weighted_metrics=[metrics.Perplexity()])

    def inner_optimizer(self, phase):
        """Returns the optimizer of either phase, which clips the norm of the whole gradient."""
        kind = keras.optimizers.SGD if self.settings.optimizer == "sgd" else keras.optimizers.Adam
        return kind(self.settings.learning_rate, global_clipnorm=_MAX_NORM)

    def rate_callback(self, phase, epochs, rows):
        """Callback: the rule of Xu et al., or half a cosine over the phase.

        The cosine is the default where weights are quantized: see decision 0040.
        """
        decay = self.settings.decay or ("cosine" if phase == "quantized" else "stall")
        if decay == "cosine":
            return half_cosine(self.settings.learning_rate, epochs)
        return DecayOnStall(self.settings.learning_rate, rows)

    def fit_callbacks(self):
        """Callbacks that every `fit` needs, first of all."""
        return [callbacks.ResetStates(), SeedRandomLayers(self.settings.seed)]

    def evaluation_callbacks(self):
        """Callbacks that every `evaluate` needs."""
        return [callbacks.ResetStates()]

    def quantization(self, model):
        """(quantizer, other arguments) of the optimizer: levels of their own for each row.

        A row is what belongs to one output: of the embedding table a word's vector, of the other
        kernels, which Keras stores (inputs, outputs), a column: one gate of one unit, one
        word's score. A tied table is one variable, and its rows serve both ends.
        """
        by_word, by_output = (_make_quantizer(self.settings, axis) for axis in (0, -1))
        select = {r"embeddings$": by_word, r"kernel$": by_output}
        return by_output, {"select": select, "update_levels_every": _LEVELS_EVERY}

    def score(self, model):
        """Returns the perplexity per word of the test text."""
        results = model.evaluate(
            self.test, verbose=0, return_dict=True, callbacks=self.evaluation_callbacks()
        )
        return float(results["perplexity"])

    def deployed(self, model):
        """Returns the models to save and export, by file name; "model" is the one to report.

        "model" reads `steps` words at a time and "streaming" one; both take their states.
        """
        return {
            "model": models.with_states(model, self.settings.steps),
            "streaming": models.with_states(model),
        }

    def describe(self):
        """Returns what the models take and give, for the report: a dict of two dicts."""
        words = {
            "shape": [None, self.settings.steps],
            "axes": "batch, words; one word in streaming.tflite",
            "dtype": "int32",
            "range": [0, len(self.data.vocabulary) - 1],
            "meaning": "words: numbers of words, lines of vocabulary.txt counted from 0; and the "
            "states, zeros at the start of a text",
        }
        logits = {
            "shape": [None, self.settings.steps, len(self.data.vocabulary)],
            "dtype": "float32",
            "meaning": "logits of the next word, by its number; and the states for the next call",
        }
        return {"input": words, "output": logits}

    def examples(self):
        """Returns what to verify an exported file with: None, what the export draws itself."""
        return None

    def said(self):
        """Returns what is written into an exported file, arguments of `litert.export`."""
        return {"vocabulary": self.data.vocabulary}

    def listing(self):
        """Returns rows for pictures.csv: None, there are no pictures."""
        return None

    def score_file(self, path):
        """Returns the perplexity per word of a .tflite file of a `models.with_states`."""
        return perplexity_of_file(path, self.test)


class DecayOnStall(keras.callbacks.Callback):
    """Divides the learning rate whenever the validation perplexity exceeds its best.

    Args:
      learning_rate: float > 0, the rate at the beginning.
      rows: list of dicts with "epoch" and "val_perplexity" of the epochs before a resumed run.
      factor: float > 1.
    """

    def __init__(self, learning_rate, rows=(), factor=_DECAY):
        super().__init__()
        self.learning_rate, self.factor = learning_rate, factor
        self.perplexities = {row["epoch"]: row["val_perplexity"] for row in rows}

    def on_epoch_begin(self, epoch, logs=None):
        known = [self.perplexities[e] for e in range(epoch)]
        stalls = sum(value > min(known[:i]) for i, value in enumerate(known) if i)
        self.model.optimizer.learning_rate = self.learning_rate / self.factor**stalls

    def on_epoch_end(self, epoch, logs=None):
        self.perplexities[epoch] = logs["val_perplexity"]


def perplexity_of_file(path, streams, kernels="xnnpack"):
    """Runs a .tflite file of a `models.with_states` over a text, carrying its states.

    Args:
      path: of the file; its number of words per call must divide that of `streams`.
      streams: `datasets.Streams`; where the file is for one stream only, they are read one after
        the other.
      kernels: "xnnpack" or "builtin".

    Returns: float, the perplexity per word.
    """
    from tf_proxquant import litert

    with open(path, "rb") as file:
        runner = litert.Runner(file.read(), kernels)
    size = int(runner.inputs["words"]["shape_signature"][0])
    rows = [slice(None)] if size < 0 else [slice(i, i + size) for i in range(streams.batch_size)]
    nats, words = np.sum([_sum_nats(runner, streams, row) for row in rows], axis=0)
    return float(np.exp(nats / words))


def _sum_nats(runner, streams, rows):
    """(negative log-likelihood, number) of the words of some streams."""
    steps = int(runner.inputs["words"]["shape_signature"][1])
    total = np.zeros(2)
    states = None
    for inputs, targets, weights in (streams[i] for i in range(len(streams))):
        inputs, targets, weights = inputs[rows], targets[rows], weights[rows]
        if states is None:
            states = {
                name: np.zeros((len(inputs), details["shape_signature"][1]), "float32")
                for name, details in runner.inputs.items()
                if name != "words"
            }
        for first in range(0, inputs.shape[1], steps):
            part = slice(first, first + steps)
            outputs = runner({"words": np.ascontiguousarray(inputs[:, part]), **states})
            states = {name: outputs[name] for name in states}
            nats = cross_entropy(outputs["logits"], targets[:, part])
            total += np.sum(nats * weights[:, part]), np.sum(weights[:, part])
    return total


def cross_entropy(logits, targets):
    """Negative log-likelihood of each target, float64; logits have one more axis, the last."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    normalizer = np.log(np.exp(logits).sum(axis=-1, dtype="float64"))
    return normalizer - np.take_along_axis(logits, targets[..., np.newaxis], axis=-1)[..., 0]


def _make_quantizer(settings, axis):
    if settings.quantizer == "binary":
        return quantizers.Binary("mean", axis=axis)
    if settings.quantizer == "ternary":
        return quantizers.Ternary(symmetric=True, axis=axis)
    if settings.quantizer == "multibit":
        return quantizers.MultiBit(settings.bits, axis=axis, integer_ratios=settings.bits > 1)
    return quantizers.Uniform(settings.bits, axis=axis)


def _copy_weights(source, target):
    pairs = source.trainable_variables, target.trainable_variables
    shapes = [[tuple(v.shape) for v in variables] for variables in pairs]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "The model of `init_from` does not fit the data and the settings. Received: weights of "
            f"shapes {shapes[0]}. Expected: {shapes[1]}."
        )
    for variable, value in zip(pairs[1], pairs[0], strict=True):
        variable.assign(value)
