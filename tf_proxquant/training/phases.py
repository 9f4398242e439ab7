"""The two phases of a run: full-precision warm start, then training towards the grid."""

import numpy as np
from keras import ops

from tf_proxquant import callbacks, metrics, schedules
from tf_proxquant.optimizers import ProxConnect, ProxQuant, find_optimizer
from tf_proxquant.training import networks
from tf_proxquant.training.workdir import Recorder
from tf_proxquant.typing import Strength


def full_precision(settings, task, workdir):
    """Trains the full-precision model, or takes it from `init_from` or an earlier start.

    Where the model has weights but a new last layer, that learns alone first.

    Returns: (compiled model, dict with its score on the test data).
    """
    epochs = 0 if settings.init_from else settings.full_precision_epochs
    if settings.method == "full_precision":
        epochs = settings.epochs

    def make_model():
        model = _load_initial(task, settings.init_from) if settings.init_from else task.make_model()
        if task.head_epochs:
            model = _train_head(task, workdir, model)
        task.compile(model, task.inner_optimizer("full_precision"))
        return model

    rate = task.rate_callback("full_precision", epochs, workdir.read_metrics("full_precision"))
    model = _fit(workdir, "full_precision", epochs, make_model, task, [rate])
    return model, {f"full_precision_{task.metric}": task.score(model)}


def _train_head(task, workdir, model):
    """Trains the last layer alone; returns the model, all of which learns from now on."""

    def frozen():
        networks.freeze_all_but_head(model)
        task.compile(model, task.inner_optimizer("head"))
        return model

    epochs = task.head_epochs
    rate = task.rate_callback("head", epochs, workdir.read_metrics("head"))
    trained = _fit(workdir, "head", epochs, frozen, task, [rate])
    networks.unfreeze(trained)
    return trained


def quantized(settings, task, workdir, warm):
    """Trains from the warm start to weights on their grid.

    Returns: (compiled model, dict of its score on the test data and of its weights' measures).
    """
    before = {v.path: ops.convert_to_numpy(v) for v in warm.trainable_variables}

    def make_model():
        task.compile(warm, quantizing_optimizer(settings, task, warm))
        find_optimizer(warm).build(warm.trainable_variables)
        return warm

    monitor = _Monitor(before)
    watchers = [
        callbacks.SkipFrozenGradients(),
        monitor,
        _QuantizedEvaluation(task.validation, callbacks=task.evaluation_callbacks()),
        task.rate_callback("quantized", settings.epochs, workdir.read_metrics("quantized")),
    ]
    model = _fit(workdir, "quantized", settings.epochs, make_model, task, watchers, _histogram)
    monitor.set_model(model)
    measured = monitor.measure()
    kept = {name: measured[name] for name in ("quantization_error", "sign_change", "on_grid")}
    return model, {f"quantized_{task.metric}": task.score(model), **kept}


class _Monitor(callbacks.QuantizationMonitor):
    """Counts sign changes from the warm start, also in a run that was resumed."""

    def __init__(self, before):
        super().__init__()
        self.before = before

    def set_model(self, model):
        super().set_model(model)
        pairs = find_optimizer(model).quantized_variables
        self.reference = [self.before[v.path] for v, _ in pairs]


class _QuantizedEvaluation(callbacks.QuantizedEvaluation):
    """Does not evaluate frozen weights anew: `fit` has, and they are on the grid."""

    def on_epoch_end(self, epoch, logs=None):
        watched = {k.removeprefix("val_"): v for k, v in logs.items() if k.startswith("val_")}
        if watched and find_optimizer(self.model).frozen:
            logs.update({f"quantized_{name}": value for name, value in watched.items()})
        else:
            super().on_epoch_end(epoch, logs)


def _histogram(model):
    """Counts the selected weights in 241 bins of -3 to 3 of their channel's largest level."""
    counts = np.zeros(241, int)
    for variable, quantizer, levels in find_optimizer(model).fit_levels():
        relative = np.clip(metrics.relative_to_levels(variable, quantizer, levels), -3.0, 3.0)
        counts += np.histogram(relative, bins=241, range=(-3.0, 3.0))[0]
    return {"low": -3.0, "high": 3.0, "counts": counts.tolist()}


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
        if checkpoint is None:
            recorder.record_start(model)
        model.fit(
            task.train,
            validation_data=task.validation,
            initial_epoch=done,
            epochs=epochs,
            shuffle=False,  # of the order of the batches, whose contents are shuffled
            verbose=0,
            callbacks=[
                *task.fit_callbacks(),
                callbacks.StopOnNonFinite(),
                *watchers,
                recorder,
            ],
        )
    workdir.save_model(model, finished.name)
    workdir.drop_checkpoints(phase)
    return model


def quantizing_optimizer(settings, task, model):
    """Returns the ProxQuant or ProxConnect of the settings' method for a model, not built."""
    steps_per_epoch = len(task.train)
    steps = settings.first_frozen_epoch * steps_per_epoch
    quantizer, options = task.quantization(model)
    common = {"freeze_step": steps, **options}
    inner = task.inner_optimizer("quantized")
    # A freeze at the beginning leaves no way to go.
    strength: Strength = "auto" if steps > 1 else 1.0
    if settings.method == "memory":
        common = {"memory": settings.memory, **common}
        return ProxQuant(inner, quantizer, strength, prox="piecewise_affine", **common)
    if settings.method == "proxquant":
        if settings.strength is not None:
            strength = schedules.Linear(settings.strength, every=steps_per_epoch)
        return ProxQuant(inner, quantizer, strength, prox=settings.effective_regularizer, **common)
    if settings.method == "binaryrelax":
        return ProxConnect(inner, quantizer, strength, prox="l2", **common)
    if settings.method == "parq":
        return ProxConnect(inner, quantizer, strength, prox="piecewise_affine", **common)
    return ProxConnect(inner, quantizer, **common)


def _load_initial(task, path):
    return task.adopt(networks.load(path))
