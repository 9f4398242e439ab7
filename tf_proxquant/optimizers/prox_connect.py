"""ProxConnect: the lazy relative, with the gradient at the quantized weights."""

from typing import Any

import keras
from keras import ops

from tf_proxquant import prox, schedules
from tf_proxquant.optimizers import arguments, graphs
from tf_proxquant.optimizers.base import SNAP, QuantizingOptimizer
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
      jit_compile: True, False or "auto", as in `ProxQuant`.
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
        jit_compile: bool | str = "auto",
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
            jit_compile=jit_compile,
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

    def _update(self, grads, variables, bundles):
        step = ops.copy(self.iterations)
        control = self._control(step)
        before = self._before(bundles)
        selected = [v for b in bundles for v in b.variables]
        latents = [self.latent_of(v) for v in selected]
        self._assign_all(selected, [ops.copy(latent) for latent in latents])
        self.inner_optimizer.apply(grads, variables)
        moved = {b: self._clipped(b.join(b.variables)) for b in bundles}
        self._assign_all(latents, [part for b in bundles for part in b.split(moved[b])])
        self._store(self._relaxed(moved, before, control, self._moves(step), self._is_due(step)))

    def _clipped(self, latent):
        return latent if self.clip is None else ops.clip(latent, -self.clip, self.clip)

    def _relaxed(self, latents, before, control, moves, is_due):
        """Returns the weights for the next gradient, and the levels if they are kept.

        Args:
          latents: dict of the latent weights of each bundle.
          before: dict of their weights at this gradient, or of None.
          control: scalar tensor or None, as `self._control` gives it.
          moves: None or a scalar of HOLD, PULL, SNAP.
          is_due: bool scalar tensor, whether the levels are fitted in this update.

        Returns: dict of lists [weights] or [weights, levels].
        """
        snaps = False if moves is None else ops.equal(moves, SNAP)

        def relax(_, states):
            return [relax_one(b, *s) for b, s in zip(latents, states, strict=True)]

        def relax_one(bundle, _, kept=None):
            quantizer, latent = bundle.quantizer, latents[bundle]
            levels = self._levels(quantizer, latent, kept, ops.logical_or(is_due, snaps))
            relaxed = self._prox(latent, quantizer, levels, control)
            if moves is not None:
                relaxed = ops.where(snaps, quantizer.nearest(latent, levels), relaxed)
            return [relaxed] if kept is None else [relaxed, levels]

        states = [[before[bundle], *self._kept(bundle)] for bundle in latents]
        times = None if moves is None else ops.minimum(moves, 1)
        return dict(zip(latents, graphs.repeat(times, relax, states), strict=True))

    def _control(self, step):
        """Returns the scalar that the prox takes, None for "hard"."""
        if self.strength is None or self.prox == "l1":
            return self.tau(step)
        return self.strength(step)

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
