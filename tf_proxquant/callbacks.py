"""Callbacks that watch the weights go to their grid."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from tf_proxquant import metrics, selection
from tf_proxquant.checks import evaluation_data
from tf_proxquant.describing import describe
from tf_proxquant.optimizers import built_optimizer, find_optimizer


class _Callback(keras.callbacks.Callback):
    """A callback that says in a notebook what it was made from."""

    def __repr__(self):
        return describe(self)


class QuantizationMonitor(_Callback):
    """Adds the state of the selected weights to the logs of each epoch.

        quantization_error   relative distance to the grid, `metrics.quantization_error`
        sign_change          share of signs that differ from those at the start of the first
                             `fit`, `metrics.sign_changes`
        on_grid              share of weights on the grid, `metrics.share_on_grid`
        strength             lambda of the next update, where the optimizer has a strength
        tau                  pull of the next update, where the prox takes it
        frozen               1 from the freeze on, 0 before, where there is a `freeze_step`

    Put it before the callbacks that read the logs: CSVLogger, early stopping, and TensorBoard,
    which then shows them as scalars, and with `histogram_freq=1` the weights as histograms.

    Args:
      reference: list of arrays, the weights to count sign changes from, in the order of the
        optimizer's `quantized_variables`. None = those when `fit` begins for the first time.
      per_layer: whether to log the first three for each selected variable as well, as
        "<figure>/<path of the variable>", with _1, _2, ... behind paths that are equal.
    """

    def __init__(self, reference: list | None = None, per_layer: bool = False):
        super().__init__()
        self.reference: Any = reference
        self.per_layer = per_layer

    def on_train_begin(self, logs=None):
        if self.reference is None:
            optimizer = built_optimizer(self.model)
            self.reference = [_numpy(v) for v, _ in optimizer.quantized_variables]

    def on_epoch_end(self, epoch, logs=None):
        built_optimizer(self.model).warn_of_snap()
        if logs is not None:
            logs.update(self.measure())

    def measure(self) -> dict[str, float]:
        """Returns the figures of the present weights, a dict of floats.

        Raises: ValueError: naming the first selected variable with a NaN or inf.
        """
        optimizer = built_optimizer(self.model)
        paths = _distinct([selection.path(v) for v, _ in optimizer.quantized_variables])
        weights, quantized = map(list, zip(*optimizer.grid(), strict=True))
        figures = self._figures(self.reference, weights, quantized)
        if self.per_layer:
            for path, *tensors in zip(paths, self.reference, weights, quantized, strict=True):
                for name, value in self._figures(*tensors).items():
                    figures[f"{name}/{path}"] = value
        if optimizer.strength is not None:
            figures["strength"] = float(optimizer.strength(optimizer.iterations))
        tau = optimizer.tau(optimizer.iterations)
        if tau is not None:
            figures["tau"] = float(tau)
        if optimizer.freeze_step is not None:
            figures["frozen"] = float(optimizer.frozen)
        return figures

    def _figures(self, before, weights, quantized):
        return {
            "quantization_error": metrics.quantization_error(weights, quantized),
            "sign_change": metrics.sign_changes(before, weights),
            "on_grid": metrics.share_on_grid(weights, quantized),
        }


class StopOnNonFinite(_Callback):
    """Ends training at the first NaN or inf, and says where it is.

    The loss is looked at after each batch, all variables only if it is not finite and at the end
    of each epoch. To go on over bad batches instead, let Keras skip their updates, which leaves
    weights, moments and the step count as they are:

        model.compile(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0), ...)

    Args:
      action: "raise" raises ValueError; "stop" ends `fit` after the batch, with a warning.

    Raises: ValueError: for another action; and from `fit`, naming the variables.

    Example:
      >>> callback = StopOnNonFinite(action="stop")
    """

    def __init__(self, action: str = "raise"):
        super().__init__()
        if action not in ("raise", "stop"):
            raise ValueError(f"`action` must be 'raise' or 'stop'. Received: action={action!r}.")
        self.action = action

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            self._react([*nonfinite_variables(self.model), f"the loss ({loss})"], f"batch {batch}")

    def on_epoch_end(self, epoch, logs=None):
        found = nonfinite_variables(self.model)
        if found and not self.model.stop_training:
            self._react(found, f"the end of epoch {epoch}")

    def _react(self, found, when):
        message = (
            f"Training diverged or met bad data. Received: NaN or inf at {when} in "
            f"{', '.join(found)}. Lower the learning rate, check the data, or skip such updates "
            "with keras.optimizers.LossScaleOptimizer."
        )
        if self.action == "raise":
            raise ValueError(message)
        warnings.warn(message, stacklevel=2)
        self.model.stop_training = True


def _distinct(paths):
    """The paths, with a number behind those that were there before."""
    seen: dict = {}
    numbered = []
    for path in paths:
        count = seen[path] = seen.get(path, -1) + 1
        numbered.append(f"{path}_{count}" if count else path)
    return numbered


def nonfinite_variables(model: keras.Model) -> list[str]:
    """Names the model's variables that hold a NaN or inf.

    Args:
      model: a built `keras.Model`.

    Returns: list of str, path and number of such values.
    """
    found = []
    for variable in model.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            finite = ops.isfinite(ops.convert_to_tensor(variable))
            bad = int(ops.sum(ops.cast(ops.logical_not(finite), "int32")))
            if bad:
                found.append(f"'{variable.path}' ({bad} values)")
    return found


class SkipFrozenGradients(_Callback):
    """Saves the work that the frozen weights no longer need.

    At the first end of an epoch (or start of `fit`) with the optimizer's `freeze_step` behind it,
    the selected variables become not trainable and the training step is traced anew, without
    their gradients and their part of the inner update. They stay bit for bit what they are, and
    all others train on. When `fit` ends, the variables are trainable again; where an exception or
    Ctrl-C ends it they are so with the next `fit` that has this callback, or by
    `model.trainable = True`.

    Other weights move as they would without it, unless the inner optimizer looks at all gradients
    together, as `global_clipnorm` does: those of the frozen weights then no longer count.

    Does nothing where the optimizer has no `freeze_step`, and on JAX under a `keras.distribution`,
    inside a `LossScaleOptimizer` and around an inner optimizer that averages weights.
    """

    def on_train_begin(self, logs=None):
        if self._restore():  # left by a `fit` that did not come to its end
            self.model.make_train_function(force=True)
        self._skip()

    def on_epoch_end(self, epoch, logs=None):
        self._skip()

    def on_train_end(self, logs=None):
        if self._restore():
            self.model.train_function = None  # `fit` makes it anew

    def _skip(self):
        if not (find_optimizer(self.model).built or self.model.built):
            return  # `fit` builds it: nothing is frozen yet
        optimizer = built_optimizer(self.model)
        if not optimizer.frozen or not self._is_possible(optimizer):
            return
        skipped = [v for v, _ in optimizer.quantized_variables if v.trainable]
        for variable in skipped:
            variable.trainable, variable._is_skipped = False, True
        if skipped:
            self.model.make_train_function(force=True)

    def _restore(self):
        """Makes what was skipped trainable again; returns whether there was any."""
        skipped = [v for v in self.model.variables if getattr(v, "_is_skipped", False)]
        for variable in skipped:
            variable.trainable, variable._is_skipped = True, False
        return bool(skipped)

    def _is_possible(self, optimizer):
        """On JAX, `fit` shows the optimizer only the trainable variables: no average of others."""
        if keras.backend.backend() != "jax":
            return True
        is_wrapped = self.model.optimizer is not optimizer
        is_distributed = keras.distribution.distribution() is not None
        return not (is_wrapped or is_distributed or optimizer.inner_optimizer.use_ema)


class QuantizedEvaluation(_Callback):
    """Evaluates the snapped model at the end of each epoch.

    Adds `quantized_loss` and `quantized_<metric>` to the logs. The weights are snapped for
    one `model.evaluate` and then put back bit for bit; only the selected ones are copied.

    Args:
      data: what `model.evaluate` takes as its first argument, or a tuple (x, y) or
        (x, y, sample_weight).
      batch_size: int, for arrays; None takes Keras' default.
      callbacks: list of callbacks of that evaluation, such as `ResetStates()`.
    """

    def __init__(
        self,
        data: Any,
        batch_size: int | None = None,
        callbacks: list[keras.callbacks.Callback] | None = None,
    ):
        super().__init__()
        self.data, self.callbacks = data, callbacks
        self.batch_size = batch_size

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update(self.measure())

    def measure(self) -> dict[str, float]:
        """Returns the figures of the snapped model, a dict of floats."""
        with snapped(self.model):
            results = self.model.evaluate(
                **evaluation_data(self.data, self.model),
                batch_size=self.batch_size,
                verbose=0,
                return_dict=True,
                callbacks=self.callbacks,
            )
        return {f"quantized_{name}": value for name, value in results.items()}


class ResetStates(_Callback):
    """Starts every epoch, and every evaluation, of a stateful recurrent model from zero states.

    Layers are found at any depth, inside of nested models and of custom layers too. Give it to
    `fit`, and to `evaluate` where that is called by itself.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._reset()

    def on_test_begin(self, logs=None):
        self._reset()

    def _reset(self):
        for layer in self.model._flatten_layers():
            if not getattr(layer, "stateful", False):
                continue
            if isinstance(layer, keras.layers.RNN):
                # Its own reset_state expects a flat list; stacked cells have a list of lists.
                for state in keras.tree.flatten(layer.states or []):
                    state.assign(ops.zeros(state.shape, state.dtype))
            elif hasattr(layer, "reset_state"):
                layer.reset_state()


@contextlib.contextmanager
def snapped(model: keras.Model) -> Iterator[None]:
    """Context in which the model's selected weights are on their grid.

    On leaving, they have their former values bit for bit, after an exception too.

    Args:
      model: a model compiled with `ProxQuant` or `ProxConnect`.
    """
    optimizer = built_optimizer(model)
    variables = [v for v, _ in optimizer.quantized_variables]
    before = [ops.copy(v) for v in variables]
    try:
        optimizer.snap(warn=False)
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def _numpy(tensor):
    return ops.convert_to_numpy(tensor)
