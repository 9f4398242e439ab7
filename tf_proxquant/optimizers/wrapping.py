"""Keras' protocol for an optimizer around another one: variables, assignment, saving."""

import keras
import numpy as np
from keras import ops

from tf_proxquant.optimizers.graphs import is_known
from tf_proxquant.typing import Tensor


class WrappingOptimizer(keras.optimizers.Optimizer):
    """An optimizer that shows the learning rate, the step and the variables of its inner one.

    A subclass writes `apply`.

    Args:
      inner_optimizer: a `keras.optimizers.Optimizer`.
      name: name of the optimizer.
    """

    def __init__(self, inner_optimizer: keras.optimizers.Optimizer, name: str):
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self._num_saved_before = []  # how many own variables earlier versions had, the first ones
        self._pending: list | None = None

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

    def exclude_from_weight_decay(
        self, var_list: list | None = None, var_names: list[str] | None = None
    ) -> None:
        """The inner optimizer's, which does the decay; before `build`, as Keras has it."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def apply_gradients(self, grads_and_vars):
        """Applies (gradient, variable) pairs; returns `iterations`."""
        grads, variables = zip(*grads_and_vars, strict=True)
        self.apply(grads, variables)
        return self.iterations

    def stateless_apply(
        self, optimizer_variables: list, grads: list, trainable_variables: list
    ) -> tuple[list, ...]:
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

    def _finalize_inner(self):
        """Lets the inner optimizer put its averages into the variables."""
        self.inner_optimizer.finalize_variable_values(self._trainable_variables)
        for variable in self._trainable_variables:
            # On JAX the assignment above lets variable and average share a buffer, which the
            # next `fit` may not donate twice.
            variable.assign(ops.copy(variable))

    def __reduce__(self):
        """What `copy` and `pickle` take: the configuration, and the state of a built optimizer.

        The copy is not built. It takes the state when it is, on the variables of some model. What
        may be of the user's own, functions and classes, goes as it is.
        """
        state = [ops.convert_to_numpy(v) for v in self.variables] if self.built else None
        own = {key: getattr(self, key) for key in ("quantizer", "strength", "select")}
        own = {k: v for k, v in own.items() if not isinstance(v, dict) and not is_known(v)}
        config = keras.saving.serialize_keras_object(self)["config"]
        return _make_again, (type(self), {**config, **own}, state)

    def save_own_variables(self, store: dict) -> None:
        """Stores this optimizer's own variables; Keras visits the inner one by itself."""
        for i, variable in enumerate(self._variables):
            store[str(i)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: dict) -> None:
        """Restores what `save_own_variables` stored, in this version or an earlier one.

        Raises: ValueError: if the optimizer is not built, or if the file is of another one.
        """
        saved, own = len(store.keys()), len(self._variables)
        if saved == 0:  # a file of weights only
            return
        if not self.built:
            raise ValueError(
                f"'{self.name}' must be built before its state is loaded. Received: {saved} saved "
                "variables, for an optimizer that does not know the model's yet. Call "
                "`model.optimizer.build(model.trainable_variables)` first; to load only the "
                "weights, do so before `compile`."
            )
        if saved not in (own, *self._num_saved_before):
            raise ValueError(
                f"The saved state of '{self.name}' does not fit. Received: {saved} variables, "
                f"expected {own}. Build the optimizer with the arguments and the model that it was "
                "saved with; to load only the weights, of a model that had another optimizer, do "
                "so before `compile`."
            )
        for i in range(saved):
            self._variables[i].assign(store[str(i)])
        if saved < own:
            self._fill_added(saved)

    def _fill_added(self, saved):
        """Gives values to the variables from number `saved` on, which a file does not have."""

    def set_weights(self, weights: list) -> None:
        """Sets all variables; before `build`, to be set there: Keras' .h5 files load so.

        Args:
          weights: list of arrays in the order of `variables`.
        """
        if not self.built:
            self._pending = [np.array(w) for w in weights]  # copies: the file is closed then
            return
        expected, received = ([tuple(x.shape) for x in xs] for xs in (self.variables, weights))
        if expected != received:
            raise ValueError(
                f"The weights do not fit '{self.name}'. Received: {len(received)} of shapes "
                f"{received[:8]}, expected {len(expected)} of shapes {expected[:8]}."
            )
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)


def _make_again(cls, config, state):
    """The optimizer of a configuration, to be built with a state; None for that of a new one."""
    optimizer = cls.from_config(config)
    if state is not None:
        optimizer.set_weights(state)
    return optimizer
