"""The two phases of a run: full-precision warm start, then training towards the grid."""

import contextlib

import keras
import numpy as np
from keras import ops

from tf_proxquant import callbacks, schedules
from tf_proxquant.optimizers import ProxConnect, ProxQuant, find_optimizer
from tf_proxquant.training.workdir import Recorder

# Sum of tau over the steps up to the freeze, where the settings give no strength. "l1" is in
# units of the levels, which are 1 from their midpoint. "l2" shrinks the distance to the grid by
# exp(-pull); 31 is what the paper's ternary recipe comes to. "concave" brings every weight to a
# level that is farther than exp(-pull) from a midpoint.
TOTAL_PULL = {"l1": 10.0, "l2": 31.0, "concave": 6.0}


def full_precision(settings, task, workdir):
    """Trains the full-precision model, or takes it from `init_from` or an earlier start.

    Returns: (compiled model, dict with its score on the test data).
    """
    epochs = 0 if settings.init_from else settings.full_precision_epochs
    if settings.method == "full_precision":
        epochs = settings.epochs

    def make_model():
        model = _load_initial(task, settings.init_from) if settings.init_from else task.make_model()
        task.compile(model, task.inner_optimizer(weight_decay=1e-4))
        return model

    rate = task.rate_callback(0, epochs, workdir.read_metrics("full_precision"))
    model = _fit(workdir, "full_precision", epochs, make_model, task, [rate])
    return model, {f"full_precision_{task.metric}": task.score(model)}


def quantized(settings, task, workdir, warm):
    """Trains from the warm start to weights on their grid.

    Returns: (compiled model, dict of its score on the test data and of its weights' measures).
    """
    before = {v.path: ops.convert_to_numpy(v) for v in warm.trainable_variables}

    def make_model():
        task.compile(warm, _quantizing_optimizer(settings, task, warm))
        find_optimizer(warm).build(warm.trainable_variables)
        return warm

    monitor = _Monitor(before)
    start = 0 if settings.method != "proxquant" else settings.first_frozen_epoch
    watchers = [
        task.rate_callback(start, settings.epochs, workdir.read_metrics("quantized")),
        monitor,
        callbacks.QuantizedEvaluation(task.validation, callbacks=task.evaluation_callbacks()),
    ]
    model = _fit(workdir, "quantized", settings.epochs, make_model, task, watchers, _histogram)
    monitor.set_model(model)
    return model, {f"quantized_{task.metric}": task.score(model), **monitor.measure()}


class _Monitor(callbacks.QuantizationMonitor):
    """Counts sign changes from the warm start, also in a run that was resumed."""

    def __init__(self, before):
        super().__init__()
        self.before = before

    def set_model(self, model):
        super().set_model(model)
        pairs = find_optimizer(model).quantized_variables
        self.reference = [self.before[v.path] for v, _ in pairs]


def _histogram(model):
    """Counts the selected weights in 121 bins from -1.5 to 1.5 of the largest level."""
    counts = np.zeros(121, int)
    for variable, quantizer in find_optimizer(model).quantized_variables:
        unit = float(ops.max(ops.abs(quantizer(variable)))) or 1.0
        relative = np.clip(ops.convert_to_numpy(variable) / unit, -1.5, 1.5)
        counts += np.histogram(relative, bins=121, range=(-1.5, 1.5))[0]
    return {"low": -1.5, "high": 1.5, "counts": counts.tolist()}


def _fit(workdir, phase, epochs, make_model, task, watchers, histogram=None):
    """Runs one phase, from where an earlier start left it; keeps its result."""
    finished = workdir / f"{phase}.keras"
    if finished.exists():
        workdir.drop_checkpoints(phase)  # of a run that was killed in between
        return workdir.load_model(finished)
    checkpoint, done = workdir.checkpoint(phase)
    model = workdir.load_model(checkpoint) if checkpoint else make_model()
    if done < epochs:
        recorder = Recorder(workdir, phase, epochs, histogram)
        model.fit(
            task.train,
            validation_data=task.validation,
            initial_epoch=done,
            epochs=epochs,
            shuffle=False,  # of the order of the batches, whose contents are shuffled
            verbose=0,
            callbacks=[*task.fit_callbacks(), *watchers, recorder],
        )
    workdir.save_model(model, finished.name)
    workdir.drop_checkpoints(phase)
    return model


def _quantizing_optimizer(settings, task, model):
    steps_per_epoch = len(task.train)
    freeze_step = settings.first_frozen_epoch * steps_per_epoch
    select, quantizer = task.selection(model)
    common = {
        "select": select,
        "clip": 1.0 if settings.quantizer in ("binary", "ternary") else None,
        "freeze_step": freeze_step,
    }
    inner = task.inner_optimizer()
    if settings.method == "proxquant":
        rate = settings.strength
        if rate is None:
            rate = strength_rate(
                TOTAL_PULL[settings.effective_regularizer],
                settings.learning_rate,
                steps_per_epoch,
                settings.first_frozen_epoch,
            )
        strength = schedules.Linear(rate, every=steps_per_epoch)
        return ProxQuant(
            inner, quantizer, strength, regularizer=settings.effective_regularizer, **common
        )
    if settings.method == "binaryrelax":
        strength = schedules.Linear(1 / max(1, freeze_step))
        return ProxConnect(inner, quantizer, strength, prox="l2", **common)
    if settings.method == "parq":
        strength = schedules.Sigmoid(0, max(1, freeze_step))
        return ProxConnect(inner, quantizer, strength, prox="piecewise_affine", **common)
    return ProxConnect(inner, quantizer, **common)


def strength_rate(total_pull, learning_rate, steps_per_epoch, freeze_epoch):
    """Returns the rate of `Linear(rate, every=steps_per_epoch)` for a wanted total pull.

    The sum of tau = learning_rate * rate * epoch over the steps of epochs 0 to
    freeze_epoch - 1 is `total_pull`.

    Args:
      total_pull: float > 0, in the unit of the weights for "l1", without unit for "l2".
      learning_rate: float > 0, constant up to the freeze.
      steps_per_epoch: int >= 1.
      freeze_epoch: int; below 2 no epoch has a strength above 0, and 2 is taken.

    Returns: float.

    Example:
      >>> strength_rate(10.0, 0.01, steps_per_epoch=100, freeze_epoch=5)
      1.0
    """
    stairs = max(2, freeze_epoch) * (max(2, freeze_epoch) - 1) / 2
    return total_pull / (learning_rate * steps_per_epoch * stairs)


def _load_initial(task, path):
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(f"`init_from` is not a readable Keras model: {path}. {error}") from error
    return task.adopt(model)


def strategy_scope(distribution):
    """Returns the context to build and train in; "mirrored" spans the GPUs of this machine."""
    if distribution == "none":
        return contextlib.nullcontext()
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "--distribution=mirrored needs the TensorFlow backend. Received: "
            f"KERAS_BACKEND={keras.backend.backend()}."
        )
    from keras.src.utils.module_utils import tensorflow

    return tensorflow.distribute.MirroredStrategy().scope()
