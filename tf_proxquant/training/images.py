"""The image task: a network that classifies pixels, scored by its accuracy on the test images."""

import math

import keras
import numpy as np

from tf_proxquant import datasets, selection
from tf_proxquant.models import resnet
from tf_proxquant.optimizers import RestartedAdam
from tf_proxquant.training import classifier, distribution

# Data whose labels a flip from left to right would change.
_NOT_FLIPPED = ("digits", "mnist")

# Training images that the static profile is calibrated on.
_CALIBRATION_IMAGES = 256
# Test images that an exported file is verified with.
_EXAMPLES = 8
# Values of a batch that only evaluates, so that large images do not fill the memory.
_EVALUATION_VALUES = 2**22


class ImageTask:
    """What a run needs to know about images; `text.TextTask` is the other one.

    Args:
      settings: `Settings`.
      data: `datasets.Images`; None loads those that the settings name.
      processes: `distribution.Processes` that share each batch.

    Attributes:
      metric: name of the score, in logs and reports.
      name: of the data set.
      train, validation: what `fit` reads: pixels as the data have them.
      names: (file name, names of the classes), to be written beside the model.

    Raises: ValueError: for data that are not there or do not fit.
    """

    metric = "accuracy"

    def __init__(self, settings, data=None, processes=None):
        self.settings = settings
        self.processes = processes or distribution.Processes()
        if data is None:
            data = datasets.load(settings.dataset, settings.data_dir, settings.download)
        self.data = data
        self.name = self.data.name
        self.names = "labels.txt", self.data.class_names
        self.mean, self.std = datasets.channel_statistics(self.data.x_train)
        self.train, self.validation = self._make_batches()

    def _make_batches(self):
        data, seed, devices = self.data, self.settings.seed, self.processes.devices
        # The paper's 4 pixels for 32, in proportion.
        pad, flip = data.x_train.shape[1] // 8, data.name not in _NOT_FLIPPED
        train = datasets.Batches(
            data.x_train, data.y_train, self.settings.batch_size,
            pad=pad, fill=self.mean, flip=flip, shuffle=True, seed=seed,
            shard=self.processes.shard, multiple_of=self.processes.count * devices,
        )  # fmt: skip
        # Each process reads the whole test set: the mean over equal parts is that of one.
        size = min(500, max(1, _EVALUATION_VALUES // math.prod(data.x_test.shape[1:])))
        size = max(devices, size - size % devices)
        test = datasets.Batches(data.x_test, data.y_test, size, multiple_of=devices)
        return train, test

    def make_model(self):
        """Returns the model, from pixels to logits, not compiled."""
        shape, classes = self.data.x_train.shape[1:], self.data.num_classes
        first = classifier.normalization(self.mean, self.std)
        depth, width = self.settings.depth, self.settings.width
        return resnet(depth, shape, classes, width=width, preprocessing=first)

    def adopt(self, model):
        """Returns a model to train that starts as `model`, which the settings name.

        A model that does not scale its pixels itself gets the normalization before it.

        Raises: ValueError: if it does not fit the data.
        """
        expected = (None, *self.data.x_train.shape[1:]), (None, self.data.num_classes)
        if (tuple(model.input_shape), tuple(model.output_shape)) != expected:
            raise ValueError(
                "The model of `init_from` does not fit the data. Received: input "
                f"{model.input_shape}, output {model.output_shape}. Expected: {expected[0]} and "
                f"{expected[1]}."
            )
        return classifier.from_pixels(classifier.with_logits(model), self.mean, self.std)

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
        return phase == "full_precision" and self.settings.method != "full_precision"

    def _learning_rate(self, phase):
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
        return [datasets.EpochCounter(self.train)]

    def evaluation_callbacks(self):
        """Callbacks that every `evaluate` needs."""
        return []

    def quantization(self, model):
        """(quantizer, other arguments) of the optimizer, the paper's choice.

        Binary quantizes every kernel, the others leave the first and the last one alone.
        """
        inner_only = self.settings.quantizer != "binary"
        select = selection.select_kernels(
            model, skip_first=inner_only, skip_last=inner_only, skip="shortcut"
        )
        return self.settings.make_quantizer(), {"select": select, "clip": self.settings.clip}

    def score(self, model):
        """Returns the accuracy on the test images."""
        return float(model.evaluate(self.validation, verbose=0, return_dict=True)["accuracy"])

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
        return {"input": pixels, "output": scores}

    def said(self):
        """Returns what is written into an exported file, arguments of `litert.export`."""
        return {"labels": self.data.class_names, "value_range": self.data.value_range}

    def score_file(self, path):
        """Returns the accuracy of a .tflite file on the test images."""
        from tf_proxquant import litert

        content, right = path.read_bytes(), 0
        for number in range(len(self.validation)):
            images, labels = self.validation[number]
            right += np.sum(np.argmax(litert.predict(content, images), axis=-1) == labels)
        return float(right / len(self.validation.labels))

    def examples(self):
        """Returns some images to verify an exported file with."""
        return self.validation[0][0][:_EXAMPLES]

    def calibration(self):
        """Returns images for the calibration of integer activations."""
        return self.train.normalize(self.train.images[:_CALIBRATION_IMAGES])


def half_cosine(learning_rate, epochs):
    """Callback: half a cosine, from `learning_rate` at epoch 0 towards 0 at epoch `epochs`."""

    def rate(epoch, _):
        return learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2

    return keras.callbacks.LearningRateScheduler(rate)
