"""Callbacks that watch the weights go to their grid."""

import contextlib

import keras
from keras import ops

from tf_proxquant import metrics
from tf_proxquant.optimizers import built_optimizer


class QuantizationMonitor(keras.callbacks.Callback):
    """Adds the state of the selected weights to the logs of each epoch.

        quantization_error   relative distance to the grid, `metrics.quantization_error`
        sign_change          share of signs that differ from those at the start of the first
                             `fit`, `metrics.sign_changes`
        on_grid              share of weights on the grid, `metrics.share_on_grid`

    Put it before the callbacks that read the logs (CSVLogger, TensorBoard, early stopping).

    Args:
      reference: list of arrays, the weights to count sign changes from, in the order of the
        optimizer's `quantized_variables`. None = those when `fit` begins for the first time.
    """

    def __init__(self, reference=None):
        super().__init__()
        self.reference = reference

    def on_train_begin(self, logs=None):
        if self.reference is None:
            optimizer = built_optimizer(self.model)
            self.reference = [_numpy(v) for v, _ in optimizer.quantized_variables]

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update(self.measure())

    def measure(self):
        """Returns the three figures of the present weights, a dict of floats."""
        optimizer = built_optimizer(self.model)
        pairs = optimizer.quantized_variables
        weights = [_numpy(v) for v, _ in pairs]
        # Frozen weights are the grid: levels fitted to them anew could be others.
        quantized = weights if optimizer.frozen else [_numpy(q(v)) for v, q in pairs]
        return {
            "quantization_error": metrics.quantization_error(weights, quantized),
            "sign_change": metrics.sign_changes(self.reference, weights),
            "on_grid": metrics.share_on_grid(weights, quantized),
        }


class QuantizedEvaluation(keras.callbacks.Callback):
    """Evaluates the snapped model at the end of each epoch.

    Adds `quantized_loss` and `quantized_<metric>` to the logs. The weights are snapped for
    one `model.evaluate` and then put back bit for bit; only the selected ones are copied.

    Args:
      data: what `model.evaluate` takes as its first argument, or a tuple (x, y) or
        (x, y, sample_weight).
      batch_size: int, for arrays; None takes Keras' default.
    """

    def __init__(self, data, batch_size=None):
        super().__init__()
        self.arguments = (
            dict(zip(("x", "y", "sample_weight"), data, strict=False))
            if isinstance(data, (tuple, list))
            else {"x": data}
        )
        self.batch_size = batch_size

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update(self.measure())

    def measure(self):
        """Returns the figures of the snapped model, a dict of floats."""
        with snapped(self.model):
            results = self.model.evaluate(
                **self.arguments, batch_size=self.batch_size, verbose=0, return_dict=True
            )
        return {f"quantized_{name}": value for name, value in results.items()}


@contextlib.contextmanager
def snapped(model):
    """Context in which the model's selected weights are on their grid.

    On leaving, they have their former values bit for bit, after an exception too.

    Args:
      model: a model compiled with `ProxQuant` or `ProxConnect`.
    """
    optimizer = built_optimizer(model)
    variables = [v for v, _ in optimizer.quantized_variables]
    before = [ops.copy(v) for v in variables]
    try:
        optimizer.snap()
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def _numpy(tensor):
    return ops.convert_to_numpy(tensor)
