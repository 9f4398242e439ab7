"""ProxConnect: the lazy relative, with the gradient at the quantized weights."""

import functools
from typing import Any

import keras
from keras import ops

from tf_proxquant import prox, schedules
from tf_proxquant.optimizers import arguments
from tf_proxquant.optimizers.base import QuantizingOptimizer
from tf_proxquant.quantizers import Quantizer
from tf_proxquant.typing import Select, Strength, Tensor

_PROX = ("hard", "l1", "l2", "piecewise_affine")

# What strength="auto" stands for, from the freeze step.
_AUTOMATIC = {
    "l2": lambda freeze_step: schedules.Linear(1 / freeze_step),
    "piecewise_affine": lambda freeze_step: schedules.Sigmoid(0, freeze_step),
}


@keras.saving.register_keras_serializable("tf_proxquant")
class ProxConnect(QuantizingOptimizer):
    """Trains latent weights with the gradient taken at their prox.

    One update of each selected weight tensor w with its latent u, where w = prox(u):

        u <- inner_optimizer(u, gradient at w)
        u <- clip(u, -c, c)               if `clip` is c
        w <- prox(u)

    `prox` names the map, and with it the method:

        "hard"              w = quantizer(u)                    BinaryConnect, straight-through
        "l2"                w = (1 - theta) u + theta quantizer(u)    BinaryRelax
        "piecewise_affine"  w = prox_piecewise_affine(u, levels, inverse_slope)    PARQ
        "l1"                w = prox_l1(u, quantizer(u), learning_rate * strength)

    The model's own variables hold w, so `evaluate`, `save` and export see the quantized
    network; u lives in the optimizer's state and is saved with it. `build` moves the
    variables to prox(u) at once, so that the first gradient is lazy too.

    Args:
      inner_optimizer: any `keras.optimizers.Optimizer`, or the name of one.
      quantizer: a `Quantizer`.
      strength: float or schedule of the step. For "l2" theta in [0, 1]; for
        "piecewise_affine" the inverse slope in [0, 1], as `Sigmoid` gives it; for "l1"
        the pull per unit of learning rate. "auto" goes all the way between step 0 and
        `freeze_step`: theta in a line, the inverse slope by `Sigmoid`. Not used, and must be
        None, for "hard".
      prox: one of the names above.
      select: which variables, see `tf_proxquant.selection`.
      clip: c > 0 clips the latent weights to [-c, c]; BinaryConnect uses 1. None does not.
      freeze_step: int >= 0, the step from which on the selected weights are
        quantizer(u) and never move. None = never.
      update_levels_every: int >= 1, the steps between two fits of the levels, as in `ProxQuant`.
      name: name of the optimizer.

    Raises: ValueError: for arguments out of range, and for arguments that belong to the
      inner optimizer.

    Example:
      >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
      >>> model.compile(ProxConnect(keras.optimizers.Adam(0.01), Binary(), clip=1.0), loss="mse")

    References: Courbariaux et al., BinaryConnect, NeurIPS 2015; Yin et al., BinaryRelax,
      SIAM J. Imaging Sci. 2018; Dockhorn et al., ProxConnect, NeurIPS 2021; Jin et al.,
      PARQ, arXiv:2503.15748.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        quantizer: Quantizer,
        strength: Strength = None,
        *,
        prox: str = "hard",
        select: Select = None,
        clip: float | None = None,
        freeze_step: int | None = None,
        update_levels_every: int = 1,
        name: str = "prox_connect",
        **kwargs: Any,
    ):
        if prox not in _PROX:
            raise ValueError(f"`prox` must be one of {_PROX}. Received: prox={prox!r}.")
        if (strength is None) != (prox == "hard"):
            raise ValueError(
                f"prox={prox!r} {'takes no' if prox == 'hard' else 'needs a'} `strength`. "
                f"Received: strength={strength!r}."
            )
        _check_unit_interval(prox, strength)
        super().__init__(
            inner_optimizer,
            quantizer,
            arguments.as_schedule(strength, freeze_step, automatic=_AUTOMATIC.get(prox)),
            select=select,
            clip=clip,
            freeze_step=freeze_step,
            update_levels_every=update_levels_every,
            name=name,
            refused=kwargs,
        )
        self.prox = prox
        self._latents = {}

    def _make_state(self):
        for variable, _ in self.quantized_variables:
            latent = self.add_variable_from_reference(variable, name="latent")
            self._latents[self._var_key(variable)] = latent

    def _place_weights(self):
        """Stores the latent weights and moves the variables to their prox."""
        control = self._control(ops.copy(self.iterations))
        frozen = self.frozen
        for variable, quantizer, levels in self.fit_levels():
            latent = self.latent_of(variable)
            latent.assign(variable)
            if frozen:
                variable.assign(quantizer.nearest(latent, levels))
            else:
                variable.assign(self._prox(latent, quantizer, levels, control))

    def tau(self, step: Tensor) -> Tensor:
        """See `QuantizingOptimizer`; only "l1" takes tau."""
        return super().tau(step) if self.prox == "l1" else None

    def latent_of(self, variable: keras.Variable) -> keras.Variable:
        """Returns the latent weights of a selected variable, an optimizer variable."""
        return self._latents[self._var_key(variable)]

    def apply(self, grads: list, trainable_variables: list | None = None) -> None:
        """Updates the latent weights, then moves the variables to their prox.

        Args:
          grads: list of gradient tensors, taken at the variables' present values.
          trainable_variables: list of the variables they belong to; None = those the
            optimizer was built with.
        """
        selected = self._start(trainable_variables)
        step = ops.copy(self.iterations)
        control = self._control(step)
        before = self._before(selected)
        self._backend_update_step(before, selected, self._latent_value)
        self.inner_optimizer.apply(grads, trainable_variables)
        phase = self._phase(step)
        rule = functools.partial(self._relaxed, control=control, step=step, phase=phase)
        self._backend_update_step(before, selected, rule)

    def _control(self, step):
        """Returns the scalar that the prox takes, None for "hard"."""
        if self.strength is None or self.prox == "l1":
            return self.tau(step)
        return self.strength(step)

    def _latent_value(self, variable, before):
        return ops.copy(self.latent_of(variable))

    def _relaxed(self, variable, before, control, step, phase):
        """Keeps the updated latent weights and returns the weights for the next gradient."""
        quantizer = self._quantizers[self._var_key(variable)]
        latent = ops.convert_to_tensor(variable)
        if self.clip is not None:
            latent = ops.clip(latent, -self.clip, self.clip)
        self.assign(self.latent_of(variable), latent)

        def relax():
            levels = self._levels(variable, latent, step)
            return self._prox(latent, quantizer, levels, control), levels

        return self._switch(phase, variable, relax, lambda: quantizer(latent), before)

    def _prox(self, latent, quantizer, levels, control):
        if self.prox == "piecewise_affine":
            return prox.prox_piecewise_affine(
                latent, quantizer.spread_levels(latent, levels), control
            )
        quantized = quantizer.nearest(latent, levels)
        if self.prox == "l1":
            return prox.prox_l1(latent, quantized, control)
        if self.prox == "l2":
            theta = ops.cast(control, latent.dtype)
            relaxed = latent + (quantized - latent) * theta
            return ops.where(theta >= 1, quantized, relaxed)
        return quantized

    def get_config(self):
        return {**super().get_config(), "prox": self.prox}


def _check_unit_interval(prox, strength):
    is_share = prox in ("l2", "piecewise_affine") and isinstance(strength, (int, float))
    if is_share and not 0 <= strength <= 1:
        raise ValueError(
            f"prox={prox!r} takes a strength in [0, 1]. Received: strength={strength!r}."
        )
