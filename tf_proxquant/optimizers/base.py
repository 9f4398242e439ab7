"""What ProxQuant and ProxConnect share: wrapping, selection, freeze and saving."""

import keras
from keras import ops

from tf_proxquant import schedules, selection
from tf_proxquant.optimizers import arguments, graphs
from tf_proxquant.optimizers.bundles import make_bundles
from tf_proxquant.quantizers import Quantizer
from tf_proxquant.typing import Select, Strength, Tensor

# What becomes of the selected weights at one call of `apply`: how often they are moved.
HOLD, PULL, SNAP = 0, 1, 2


class QuantizingOptimizer(keras.optimizers.Optimizer):
    """Base of the optimizers that wrap another one and keep weights near a grid.

    A subclass writes `_update`: what the inner optimizer and the prox make of the weights.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        quantizer: Quantizer,
        strength: Strength,
        *,
        select: Select,
        clip: float | None,
        freeze_step: int | None,
        update_levels_every: int,
        jit_compile: bool | str,
        name: str,
        refused: dict,
    ):
        arguments.refuse(type(self).__name__, refused)
        inner_optimizer = arguments.check_inner(
            type(self).__name__, inner_optimizer, not_a=QuantizingOptimizer
        )
        arguments.check_quantizers(quantizer, select)
        selection.validate(select)
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.quantizer = quantizer
        self.strength = strength
        self.select = select
        self.clip = None if clip is None else arguments.check_positive("clip", clip)
        self.freeze_step = (
            None if freeze_step is None else schedules.check_integer("freeze_step", freeze_step, 0)
        )
        self.update_levels_every = schedules.check_integer(
            "update_levels_every", update_levels_every, 1
        )
        self.jit_compile = arguments.check_jit_compile(jit_compile)
        self._quantizers = {}
        self._kept_levels = {}
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
        pairs = selection.resolve(self.select, self.quantizer, variables)
        self._quantizers = {self._var_key(v): quantizer for v, quantizer in pairs}
        with graphs.outside():
            self.inner_optimizer.build(variables)
            super().build(variables)
            if self.update_levels_every > 1:
                self._kept_levels = self._make_kept_levels()
            self._make_state()
        self._place_when_known()

    def _place_when_known(self):
        """Places the weights once, as soon as they have values.

        A model that `fit` builds on TensorFlow has none yet in the trace that creates them.
        """
        if self._is_placed:
            return
        with graphs.outside():
            if all(_has_value(v) for v, _ in self.quantized_variables):
                self._place_weights()
                self._is_placed = True

    def _make_kept_levels(self):
        kept = {}
        for variable, quantizer in self.quantized_variables:
            if quantizer.fixed_level is not None:
                continue
            levels = quantizer.levels(ops.ones(variable.shape, variable.dtype))
            kept[self._var_key(variable)] = self.add_variable(
                shape=levels.shape, dtype=variable.dtype, name="levels"
            )
        return kept

    def _make_state(self):
        """Creates the variables that a subclass keeps."""

    def _place_weights(self):
        """Moves the selected weights to where training starts: onto the grid if frozen."""
        if self.frozen:
            self._snap()

    @property
    def quantized_variables(self) -> list[tuple]:
        """List of (variable, quantizer) of the selected variables; empty before `build`."""
        return [
            (v, self._quantizers[self._var_key(v)])
            for v in self._trainable_variables
            if self._var_key(v) in self._quantizers
        ]

    def tau(self, step: Tensor) -> Tensor:
        """Returns tau of the update number `step`, counted from 0.

        The learning rate times the strength, or the pull itself where the schedule gives that.

        Args:
          step: scalar, the number of finished updates.

        Returns: scalar tensor, or None where the prox does not take tau.
        """
        if self.strength is None:
            return None
        strength = self.strength(step)
        if getattr(self.strength, "is_pull", False):
            return strength
        return ops.multiply(self.learning_rate, strength)

    @property
    def frozen(self) -> bool:
        """True once `freeze_step` updates are done: the selected weights stay as they are."""
        return self.freeze_step is not None and int(ops.copy(self.iterations)) >= self.freeze_step

    def snap(self) -> None:
        """Rounds the selected weights to their grid now, in place, unless they are frozen.

        Frozen weights are on their grid already, and are never quantized again: the
        mean of equal floats can differ from them by an ulp.
        """
        if not self.frozen:
            self._snap()

    def _snap(self):
        for variable, quantizer, levels in self.fit_levels():
            variable.assign(quantizer.nearest(variable, levels))

    def fit_levels(self) -> list[tuple]:
        """Fits levels to the present weights of every selected variable, before any is moved.

        Returns: list of (variable, quantizer, levels).
        Raises: ValueError: naming the first variable with a NaN or inf.
        """
        fitted = []
        for variable, quantizer in self.quantized_variables:
            try:
                fitted.append((variable, quantizer, quantizer.levels(variable)))
            except ValueError as error:
                raise ValueError(f"'{selection.path(variable)}': {error}") from error
        return fitted

    def apply(self, grads: list, trainable_variables: list | None = None) -> None:
        """Updates the variables by the inner optimizer and moves the selected ones.

        Args:
          grads: list of gradient tensors, taken at the variables' present values.
          trainable_variables: list of the variables they belong to; None = those the
            optimizer was built with.
        """
        bundles = self._start(trainable_variables)

        def update(grads):
            self._update(grads, trainable_variables, bundles)

        if graphs.compiles(self):
            graphs.run(update, grads)
        else:
            update(grads)

    def _update(self, grads, variables, bundles):
        """Updates `variables`, those of `bundles` in the way of the subclass."""
        raise NotImplementedError

    def _start(self, trainable_variables):
        """Returns the selected ones of `trainable_variables` in bundles, building if need be."""
        if not self.built:
            if trainable_variables is None:
                raise ValueError(
                    "`apply(grads)` without variables needs a built optimizer. Call "
                    "`optimizer.build(model.trainable_variables)` first, or pass the variables."
                )
            self.build(list(trainable_variables))
        self._place_when_known()
        variables = (
            self._trainable_variables if trainable_variables is None else trainable_variables
        )
        keys = tuple(key for key in map(self._var_key, variables) if key in self._quantizers)
        if keys not in self._bundles:
            pairs = [(v, q) for v, q in self.quantized_variables if self._var_key(v) in keys]
            self._bundles[keys] = make_bundles(pairs)
        return self._bundles[keys]

    def _before(self, bundles):
        """Returns a dict of the weights to put back on HOLD, copied; None where nothing holds."""
        accumulates = bool(self.inner_optimizer.gradient_accumulation_steps)
        if self.freeze_step is None and not accumulates:
            return dict.fromkeys(bundles)
        return {b: b.join([ops.copy(v) for v in b.variables]) for b in bundles}

    def _moves(self, step):
        """Returns HOLD, PULL or SNAP for the update just made, None if it is always PULL.

        `step` is the number of updates before it. Under gradient accumulation most
        calls of the inner optimizer update nothing, and the weights are held.
        """
        moves = None
        if self.freeze_step is not None:
            moves = ops.where(step >= self.freeze_step, HOLD, PULL)
            moves = ops.where(step == self.freeze_step - 1, SNAP, moves)
        if self.inner_optimizer.gradient_accumulation_steps:
            updated = ops.convert_to_tensor(self.inner_optimizer.iterations) > step
            moves = ops.where(updated, PULL if moves is None else moves, HOLD)
        return moves

    def _is_due(self, step):
        """Returns whether the levels are fitted at this step, a bool scalar tensor."""
        return ops.equal(step % self.update_levels_every, 0)

    def _kept(self, bundle):
        """Returns the kept levels of a bundle in a list, which is empty where none are kept."""
        kept = [self._kept_levels.get(self._var_key(v)) for v in bundle.variables]
        return [] if kept[0] is None else [bundle.join_levels(kept)]

    def _levels(self, quantizer, weights, kept, is_due):
        """Returns the levels for `weights`: `kept` if there are any, unless a fit is due."""
        if kept is None:
            return quantizer.levels(weights)
        # Not `repeat`: XLA would move what does not change within the loop out of it.
        return ops.cond(is_due, lambda: quantizer.levels(weights), lambda: kept)

    def _store(self, moved):
        """Assigns what the updates return: a dict of lists [weights] or [weights, levels]."""
        variables, values = [], []
        for bundle, (weights, *kept) in moved.items():
            variables += bundle.variables
            values += bundle.split(weights)
            for levels in kept:
                variables += [self._kept_levels[self._var_key(v)] for v in bundle.variables]
                values += bundle.split_levels(levels)
        self._assign_all(variables, values)

    def _assign_all(self, variables, values):
        """Assigns values to variables: by Keras' own hook, which calls `update_step` for each.

        Under tf.distribute it does so once per replica and without any reduction, so that
        equal replicas stay equal bit for bit.
        """
        self._backend_update_step(values, variables, None)

    def update_step(self, gradient, variable, learning_rate):
        """Assigns one variable. The names are Keras'; nothing is differentiated here.

        Args:
          gradient: the value to assign.
          variable: on the TensorFlow backend the native variable of this replica.
          learning_rate: not used.
        """
        self.assign(variable, gradient)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # Called by the TensorFlow backend. These are weights, equal on all replicas, to be
        # used as they are: a sum would be wrong, a mean could round.
        return grads_and_vars

    def apply_gradients(self, grads_and_vars):
        """Applies (gradient, variable) pairs; returns `iterations`."""
        grads, variables = zip(*grads_and_vars, strict=True)
        self.apply(grads, variables)
        return self.iterations

    def stateless_apply(
        self, optimizer_variables: list, grads: list, trainable_variables: list
    ) -> tuple[list, list]:
        """See `keras.optimizers.Optimizer`; also for only those variables that are trainable."""
        variables = [v for v in self._trainable_variables if v.trainable]
        if len(trainable_variables) == len(self._trainable_variables) or (
            len(trainable_variables) != len(variables)
        ):
            return super().stateless_apply(optimizer_variables, grads, trainable_variables)
        mapping = [
            *zip(variables, trainable_variables, strict=True),
            *zip(self.variables, optimizer_variables, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self.apply(grads, variables)
        return tuple(
            [scope.get_current_value(v) for v in group] for group in (variables, self.variables)
        )

    def finalize_variable_values(self, var_list: list) -> None:
        """Ends training. Where the inner optimizer averages weights, they go back on the grid.

        An average of on-grid weights is off the grid: frozen weights return to their
        frozen value, others are snapped.
        """
        if not self.inner_optimizer.use_ema:
            return
        before = [ops.copy(variable) for variable, _ in self.quantized_variables]
        self.inner_optimizer.finalize_variable_values(self._trainable_variables)
        for variable in self._trainable_variables:
            # On JAX the assignment above lets variable and average share a buffer, which the
            # next `fit` may not donate twice.
            variable.assign(ops.copy(variable))
        if not self.frozen:
            self._snap()
            return
        for (variable, _), value in zip(self.quantized_variables, before, strict=True):
            variable.assign(value)

    @property
    def variables(self) -> list:
        """All variables of this optimizer: its own, then the inner one's."""
        return self._variables + self.inner_optimizer.variables

    @property
    def learning_rate(self) -> Tensor:
        """The inner optimizer's."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> keras.Variable:
        """Number of updates done, the inner optimizer's count."""
        return self.inner_optimizer.iterations

    def scale_loss(self, loss: Tensor) -> Tensor:
        return self.inner_optimizer.scale_loss(loss)

    def save_own_variables(self, store: dict) -> None:
        """Stores this optimizer's own variables; Keras visits the inner one by itself."""
        for i, variable in enumerate(self._variables):
            store[str(i)] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: dict) -> None:
        """Restores what `save_own_variables` stored."""
        if len(store.keys()) != len(self._variables):
            raise ValueError(
                f"The saved state of '{self.name}' does not fit. Received: {len(store.keys())} "
                f"variables, expected {len(self._variables)}. Build the optimizer with the same "
                "arguments and the same model as when it was saved."
            )
        for i, variable in enumerate(self._variables):
            variable.assign(store[str(i)])

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "quantizer": serialize(self.quantizer),
            "strength": serialize(self.strength),
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
        return cls(**config)


def _has_value(variable):
    """False for a variable of TensorFlow that is created but not initialized."""
    is_initialized = getattr(variable.value, "is_initialized", None)
    return is_initialized is None or bool(is_initialized())
