"""The image task: a network that classifies pixels, scored by its accuracy on the test images."""

import math
import sys

import keras
import numpy as np

from tf_proxquant import datasets, selection
from tf_proxquant.optimizers import RestartedAdam
from tf_proxquant.training import classifier, distribution, networks
from tf_proxquant.training.seeding import SeedRandomLayers

# Of a new last layer on a network that has learned already.
_HEAD_EPOCHS, _HEAD_LEARNING_RATE = 3, 0.001
# Training images that the static profile is calibrated on.
_CALIBRATION_IMAGES = 256
# Test images that an exported file is verified with.
_EXAMPLES = 8
# Values of a batch that only evaluates, so that large images do not fill the memory.
_EVALUATION_VALUES = 2**22


class ImageTask:
    """What a run needs to know about images; `text.TextTask` is the other one.

    Args:
      settings: `ImageSettings`.
      data: `datasets.Images`; None loads those that the settings name.
      processes: `distribution.Processes` that share each batch.

    Attributes:
      metric: name of the score, in logs and reports.
      name: of the data set.
      train, validation: what `fit` reads: pixels as the data have them.
      test: what the score is of; where there is no other validation, the same.
      head_epochs: epochs in which only the last layer learns, of the model made last.
      names: (file name, names of the classes), to be written beside the model.

    Raises: ValueError: for data that are not there or do not fit.
    """

    metric = "accuracy"

    def __init__(self, settings, data=None, processes=None):
        self.settings = settings
        self.processes = processes or distribution.Processes()
        self.data = data or _load(settings)
        self.name = self.data.name
        self.names = "labels.txt", self.data.class_names
        statistics = self.data.statistics or datasets.channel_statistics(self.data.x_train)
        self.mean, self.std = statistics
        self.head_epochs = 0
        self.train = self._training_batches()
        self.test = self._batches(self.data.x_test, self.data.y_test)
        watched = self.data.validation
        self.validation = self.test if watched is None else self._batches(*watched)

    def _training_batches(self):
        data, devices = self.data, self.processes.devices
        return datasets.Batches(
            data.x_train, data.y_train, self.settings.batch_size,
            # The paper's 4 pixels for 32, in proportion.
            pad=data.x_train.shape[1] // 8, fill=self.mean, flip=self.settings.flips(data.name),
            shuffle=True, seed=self.settings.seed, shard=self.processes.shard,
            multiple_of=self.processes.count * devices,
        )  # fmt: skip

    def _batches(self, images, labels):
        """Batches to evaluate on; each process reads them all, for equal parts have one mean."""
        devices = self.processes.devices
        size = min(500, max(1, _EVALUATION_VALUES // math.prod(images.shape[1:])))
        size = max(devices, size - size % devices)
        return datasets.Batches(images, labels, size, multiple_of=devices)

    def make_model(self):
        """Returns the model, from pixels to logits, not compiled; sets `head_epochs`."""
        shape = self.data.x_train.shape[1:]
        model, is_begun = networks.build(
            self.settings, shape, self.data.num_classes, self.mean, self.std
        )
        asked = self.settings.head_epochs
        self.head_epochs = _HEAD_EPOCHS * is_begun if asked is None else asked
        return model

    def adopt(self, model):
        """Returns a model to train that starts as `model`, which the settings name.

        A model that does not scale its pixels itself gets the normalization before it.

        Raises: ValueError: if it does not fit the data.
        """
        shape, name = self.data.x_train.shape[1:], self.settings.init_from
        return networks.fitted(model, name, shape, self.data.num_classes, self.mean, self.std)

    def compile(self, model, optimizer):
        """Compiles a model with its loss and metric."""
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss=loss, metrics=["accuracy"])

    def inner_optimizer(self, phase):
        """Returns the optimizer of a phase; weight decay goes with full precision by SGD only."""
        rate = self._learning_rate(phase)
        if self.settings.optimizer == "sgd":
            weight_decay = 1e-4 if phase == "full_precision" else None
            return keras.optimizers.SGD(rate, momentum=0.9, weight_decay=weight_decay)
        if self.settings.restart_optimizer and not self._is_warm_start(phase):
            return RestartedAdam(rate, every=len(self.train))
        return keras.optimizers.Adam(rate)

    def _is_warm_start(self, phase):
        return phase != "quantized" and self.settings.method != "full_precision"

    def _learning_rate(self, phase):
        if phase == "head":
            return max(_HEAD_LEARNING_RATE, self.settings.full_precision_learning_rate)
        if self._is_warm_start(phase):
            return self.settings.full_precision_learning_rate
        return self.settings.learning_rate

    def rate_callback(self, phase, epochs, rows):
        """Callback: the learning rate of each epoch, by the settings' `decay`."""
        highest, decay = self._learning_rate(phase), self.settings.decay_epochs
        if decay is None:
            return half_cosine(highest, epochs)

        def rate(epoch, _):
            return highest * 0.1 ** sum(epoch >= start for start in decay)

        return keras.callbacks.LearningRateScheduler(rate)

    def fit_callbacks(self):
        """Callbacks that every `fit` needs, first of all."""
        return [datasets.EpochCounter(self.train), SeedRandomLayers(self.settings.seed)]

    def evaluation_callbacks(self):
        """Callbacks that every `evaluate` needs."""
        return []

    def quantization(self, model):
        """(quantizer, other arguments) of the optimizer.

        With `edge_bits` the first and the last kernel have a precision of their own; without, the
        paper's choice: binary quantizes every kernel, the others leave these two alone.
        """
        quantizer, edge_bits = self.settings.make_quantizer(), self.settings.edge_bits
        skip = ["shortcut"] if self.settings.depth else []
        edges = self.settings.make_edge_quantizer()
        if edge_bits is not None and len(selection.select_kernels(model, skip=skip)) <= 2:
            # All of them are edges.
            select = selection.select_kernels(model, skip=skip)
            if edges is not None:
                print(
                    f"The network has no kernel between its first and its last: {edge_bits} bits "
                    f"for them (--edge_bits), and --quantizer={self.settings.quantizer} is not "
                    "used. With --edge_bits=32 it is, for both.",
                    file=sys.stderr,
                )
                quantizer = edges
        elif edge_bits is None:
            inner_only = self.settings.quantizer != "binary"
            select = selection.select_kernels(
                model, skip_first=inner_only, skip_last=inner_only, skip=skip
            )
        else:
            # A dict leaves what it does not name to the optimizer's own quantizer: the edges.
            inner = selection.select_kernels(model, skip_first=True, skip_last=True, skip=skip)
            select = {**dict.fromkeys(inner, quantizer), **dict.fromkeys(skip)}
            quantizer = edges
        return quantizer, {"select": select, "clip": self.settings.clip}

    def score(self, model):
        """Returns the accuracy on the test images."""
        return float(model.evaluate(self.test, verbose=0, return_dict=True)["accuracy"])

    def deployed(self, model):
        """Returns the models to save and export, by file name; "model" is the one to report."""
        return {"model": classifier.with_scores(model)}

    def describe(self):
        """Returns what the model takes and gives, for the report: a dict of two dicts."""
        height, width, channels = self.data.x_train.shape[1:]
        colors = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        pixels = {
            "shape": [None, height, width, channels],
            "axes": "batch, height, width, channels",
            "dtype": "float32",
            "channels": colors,
            "range": list(self.data.value_range),
        }
        scores = {
            "shape": [None, self.data.num_classes],
            "dtype": "float32",
            "meaning": "softmax: the score of each class, in the order of labels.txt",
            "labels": list(self.data.class_names),
        }
        counts = {"train": len(self.data.x_train), "test": len(self.data.x_test)}
        if isinstance(self.data.x_train, datasets.Pictures):
            pixels["resize"] = f"{self.data.x_train.resize}, Pillow's BILINEAR"
            counts["left_out"] = len(self.data.left_out)
        return {"images": counts, "input": pixels, "output": scores}

    def listing(self):
        """Returns rows for pictures.csv: the part, class and name of each file; or None."""
        data = self.data
        if not isinstance(data.x_train, datasets.Pictures):
            return None
        parts = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
        if data.validation is not None:
            parts["validation"] = data.validation
        rows = [
            {"part": part, "class": data.class_names[label], "picture": images.names[number]}
            for part, (images, labels) in parts.items()
            for number, label in enumerate(labels)
        ]
        left_out = [
            {"part": f"left out: {what}", "class": "", "picture": name}
            for name, what in data.left_out
        ]
        return rows + left_out

    def said(self):
        """Returns what is written into an exported file, arguments of `litert.export`."""
        return {"labels": self.data.class_names, "value_range": self.data.value_range}

    def score_file(self, path):
        """Returns the accuracy of a .tflite file on the test images."""
        from tf_proxquant import litert

        content, right = path.read_bytes(), 0
        for number in range(len(self.test)):
            images, labels = self.test[number]
            right += np.sum(np.argmax(litert.predict(content, images), axis=-1) == labels)
        return float(right / len(self.test.labels))

    def examples(self):
        """Returns some images to verify an exported file with."""
        return self.test.normalize(self.data.x_test[:_EXAMPLES])

    def calibration(self):
        """Returns images for the calibration of integer activations."""
        chosen = np.random.default_rng(0).permutation(len(self.data.x_train))
        return self.train.normalize(self.data.x_train[np.sort(chosen[:_CALIBRATION_IMAGES])])


def half_cosine(learning_rate, epochs):
    """Callback: half a cosine, from `learning_rate` at epoch 0 towards 0 at epoch `epochs`."""

    def rate(epoch, _):
        return learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2

    return keras.callbacks.LearningRateScheduler(rate)


def _load(settings):
    """The images that the settings name."""

    def show(done, count):
        print(f"  checked {done:,} of {count:,} pictures", flush=True)

    return datasets.load(
        settings.dataset, settings.data_dir, settings.download, image_size=settings.size,
        resize=settings.resize, skip_broken=settings.skip_broken, progress=show,
    )  # fmt: skip
