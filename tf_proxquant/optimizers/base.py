"""What ProxQuant and ProxConnect share beside the mathematics: selection and state."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_proxquant import checks, selection
from tf_proxquant.describing import describe
from tf_proxquant.optimizers import arguments, graphs, watching
from tf_proxquant.optimizers.bundles import levels_shapes, make_bundles
from tf_proxquant.optimizers.freezing import FreezingOptimizer
from tf_proxquant.quantizers import Quantizer
from tf_proxquant.quantizers.groups import NotFiniteError
from tf_proxquant.typing import JitCompile, Select, Tensor, TensorLike


class NoVariablesError(ValueError, NotImplementedError):
    """There is nothing to build on.

    Keras' reader of .h5 files builds every optimizer on an empty list, and goes on to
    `set_weights` only after a NotImplementedError.
    """


class QuantizingOptimizer(FreezingOptimizer):
    """Base of the optimizers that bring weights to a grid.

    A subclass writes `_update`, one step of its mathematics, and `_place`, the weights at which
    the first gradient is taken.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        quantizer: Quantizer,
        strength: Callable[[TensorLike], Tensor] | None,
        *,
        memory: float,
        select: Select,
        clip: float | None,
        freeze_step: int | None,
        update_levels_every: int,
        jit_compile: JitCompile,
        name: str,
        refused: dict,
    ):
        arguments.refuse(type(self).__name__, refused)
        inner_optimizer = arguments.check_inner(
            type(self).__name__, inner_optimizer, not_a=QuantizingOptimizer
        )
        arguments.check_quantizers(quantizer, select)
        selection.validate(select)
        super().__init__(inner_optimizer, name)
        self.quantizer = quantizer
        self.strength: Any = strength
        self.memory = memory
        self.select = select
        self.clip = None if clip is None else arguments.check_positive("clip", clip)
        self.freeze_step = (
            None if freeze_step is None else checks.check_integer("freeze_step", freeze_step, 0)
        )
        self.update_levels_every = checks.check_integer(
            "update_levels_every", update_levels_every, 1
        )
        self.jit_compile = arguments.check_jit_compile(jit_compile)
        self._latents = {}
        self._left = {}
        self._bundles = {}
        self._is_placed = False

    def build(self, variables):
        """Selects the variables to quantize and builds the inner optimizer.

        Args:
          variables: list of the model's trainable `keras.Variable`s.

        Raises: ValueError: if `select` matches none of them; see `selection.resolve`.
        """
        if self.built:
            return
        if not variables:
            raise NoVariablesError(
                "Nothing to quantize: there are no trainable variables. Received: variables=[]. "
                "Build the model first, or make its layers trainable."
            )
        pairs = selection.resolve(self.select, self.quantizer, variables)
        self._quantizers = {self._var_key(v): quantizer for v, quantizer in pairs}
        with graphs.outside():
            self.inner_optimizer.build(variables)
            super().build(variables)
            self._make_state()
            if self._pending is not None:
                self.set_weights(self._pending)
                self._pending, self._is_placed = None, True
        self._place_when_known()

    def _make_state(self):
        """Creates the variables kept beside the weights; first those that older files hold too."""
        if self.update_levels_every > 1:
            self._make_kept_levels()
        if self.memory > 0:
            for variable, _ in self.quantized_variables:
                latent = self.add_variable_from_reference(variable, name="latent")
                self._latents[self._var_key(variable)] = latent
        self._num_saved_before = [len(self._variables)]
        accumulates = bool(self.inner_optimizer.gradient_accumulation_steps)
        if self.update_levels_every == 1 and (self.freeze_step is not None or accumulates):
            self._make_kept_levels()
        if self.freeze_step is not None:
            self._snap_distance = self.add_variable(shape=(), dtype="float32", name="snap_distance")
        self._num_saved_before.append(len(self._variables))
        if self.memory > 0:
            for variable, _ in self.quantized_variables:
                left = self.add_variable_from_reference(variable, name="left")
                self._left[self._var_key(variable)] = left

    def _fill_added(self, saved):
        super()._fill_added(saved)
        for left in self._left.values():  # nothing is known of them
            left.assign(ops.full(left.shape, math.nan, left.dtype))

    def _make_kept_levels(self):
        pairs = [(v, q) for v, q in self.quantized_variables if q.fixed_level is None]
        for (variable, _), shape in zip(pairs, levels_shapes(pairs), strict=True):
            path = selection.path(variable).replace("/", "_")  # .h5 files need unique names
            self._kept_levels[self._var_key(variable)] = self.add_variable(
                shape=shape, dtype=variable.dtype, name=f"{path}_levels"
            )

    def _place_when_known(self):
        """Places the weights once, as soon as they have values.

        A model that `fit` builds on TensorFlow has none yet in the trace that creates them.
        """
        if self._is_placed:
            return
        with graphs.outside():
            if not all(_has_value(v) for v, _ in self.quantized_variables):
                return
            for variable, _ in self.quantized_variables if self.memory else ():
                self.latent_of(variable).assign(variable)
            if self._is_past_freeze():
                self.snap()
            elif self.memory:
                self._place()
            for variable, _ in self.quantized_variables if self.memory else ():
                self._left_of(variable).assign(ops.copy(variable))
            self._is_placed = True

    def _place(self):
        """Moves the selected weights to where the first gradient is taken."""
        raise NotImplementedError

    @property
    def quantized_variables(self) -> list[tuple]:
        """List of (variable, quantizer) of the selected variables; empty before `build`."""
        return [
            (v, self._quantizers[self._var_key(v)])
            for v in self._trainable_variables
            if self._var_key(v) in self._quantizers
        ]

    def latent_of(self, variable: keras.Variable) -> keras.Variable:
        """Returns v, the point before the prox, of a selected variable w.

        Args:
          variable: one of `quantized_variables`.

        Returns: an optimizer variable; at memory 0, which keeps none, `variable` itself.
        """
        return self._latents.get(self._var_key(variable), variable)

    def apply(self, grads: list, trainable_variables: list | None = None) -> None:
        """Updates the variables by the inner optimizer and moves the selected ones.

        Args:
          grads: list of gradient tensors, taken at the variables' present values.
          trainable_variables: list of the variables they belong to; None = those the
            optimizer was built with.
        """
        self._start(trainable_variables)

        def update(grads, is_compiled):
            bundles = self._bundles_of(trainable_variables, is_compiled)
            self._update(grads, trainable_variables, bundles)

        try:
            graphs.run(self, update, grads)
        except NotFiniteError:
            self.fit_levels()  # which names the variable, and not a row of a bundle
            raise

    def _update(self, grads, variables, bundles):
        """Updates `variables`, those of `bundles` in the way of the subclass."""
        raise NotImplementedError

    def _start(self, trainable_variables):
        """Builds and places what is not yet."""
        if not self.built:
            if trainable_variables is None:
                raise ValueError(
                    "`apply(grads)` without variables needs a built optimizer. Call "
                    "`optimizer.build(model.trainable_variables)` first, or pass the variables."
                )
            self.build(list(trainable_variables))
        self._place_when_known()

    def _bundles_of(self, variables, is_compiled):
        """Returns the selected ones of `variables`, None for all, in bundles."""
        variables = self._trainable_variables if variables is None else variables
        keys = tuple(key for key in map(self._var_key, variables) if key in self._quantizers)
        if (keys, is_compiled) not in self._bundles:
            pairs = [(v, q) for v, q in self.quantized_variables if self._var_key(v) in keys]
            is_fused = is_compiled or keras.backend.backend() == "jax"
            self._bundles[keys, is_compiled] = make_bundles(pairs, is_fused)
        return self._bundles[keys, is_compiled]

    def _followed(self, v, w):
        """Returns v, a dict from bundles, after what others did to the weights since: `w`."""
        left = {b: b.read(map(self._left_of, b.variables)) for b in v}
        followed = graphs.cond(
            watching.has_changed(v, w, left),
            lambda: [watching.follow(b, v[b], w[b], left[b]) for b in v],
            lambda: list(v.values()),
        )
        return dict(zip(v, followed, strict=True))

    def _left_of(self, variable):
        """The weights of a selected variable as the last update left them."""
        return self._left[self._var_key(variable)]

    def _read(self, bundles):
        """Returns dicts from bundles to copies of w and v; None of each that nothing needs."""
        w, v = dict.fromkeys(bundles), dict.fromkeys(bundles)
        accumulates = bool(self.inner_optimizer.gradient_accumulation_steps)
        if self.memory or self.freeze_step is not None or accumulates:
            w = {b: b.read() for b in bundles}
        if self.memory:
            v = {b: b.read(map(self.latent_of, b.variables)) for b in bundles}
            v = self._followed(v, w) if v else v
        return w, v

    def _assign(self, weights):
        variables = [x for b in weights for x in b.variables]
        self._assign_all(variables, [part for b in weights for part in b.split(weights[b])])

    def _store(self, stage, w, v, levels):
        """Assigns the results of an update.

        Args:
          stage: a `Stage`; where the inner optimizer moved nothing, the old tensors stay.
          w, v: pairs of dicts from bundles to the new and to the old tensors.
          levels: dict from bundles to levels.
        """
        variables, values = [], []
        weights = {b: stage.new_or_old(w[0][b], w[1][b]) for b in levels}
        for b in levels:
            variables += b.variables
            values += b.split(weights[b])
            if self.memory:
                variables += [self.latent_of(x) for x in b.variables]
                values += b.split(stage.new_or_old(v[0][b], v[1][b]))
                variables += map(self._left_of, b.variables)
                values += map(ops.copy, b.split(weights[b]))
            kept = self._kept_of(b)
            variables += kept
            values += b.split_levels(levels[b]) if kept else []
        self._assign_all(variables, values)

    def __repr__(self):
        is_automatic = arguments.is_automatic(
            self.strength, self._map, self.memory, self.freeze_step
        )
        return describe(self, **({"strength": "auto"} if is_automatic else {}))

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "quantizer": serialize(self.quantizer),
            "strength": serialize(self.strength),
            "memory": self.memory,
            "select": arguments.serialize_select(self.select),
            "clip": self.clip,
            "freeze_step": self.freeze_step,
            "update_levels_every": self.update_levels_every,
            "jit_compile": self.jit_compile,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("inner_optimizer", "quantizer", "strength", "select"):
            if isinstance(config.get(key), dict):
                config[key] = arguments.deserialize(config[key], custom_objects)
        if "regularizer" in config:  # of a file from before `prox`
            config["prox"] = config.pop("regularizer")
        return cls(**config)


def _has_value(variable):
    """False for a variable of TensorFlow that is created but not initialized."""
    is_initialized = getattr(variable.value, "is_initialized", None)
    return is_initialized is None or bool(is_initialized())
