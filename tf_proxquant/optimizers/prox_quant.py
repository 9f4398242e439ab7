"""ProxQuant: the inner optimizer's update, then a pull towards the grid."""

from types import MappingProxyType
from typing import Any

import keras
from keras import ops

from tf_proxquant import prox, schedules
from tf_proxquant.optimizers import arguments, graphs
from tf_proxquant.optimizers.base import HOLD, SNAP, QuantizingOptimizer
from tf_proxquant.quantizers import Quantizer
from tf_proxquant.typing import Select, Strength

_REGULARIZERS = ("l1", "l2", "concave")


@keras.saving.register_keras_serializable("tf_proxquant")
class ProxQuant(QuantizingOptimizer):
    """Trains quantized weights by a proximal step after each update of another optimizer.

    One update, at step t counted from 0, of each selected weight tensor w:

        w   <- inner_optimizer(w, gradient at w)
        tau  = learning_rate(t) * strength(t)
        w   <- prox(w, quantizer(w), tau)      towards the grid, by `prox_l1` or `prox_l2`
        w   <- clip(w, -c, c)                  if `clip` is c

    The update that makes `iterations` equal `freeze_step` ends with w <- quantizer(w).
    From then on the selected weights are bit-identical for ever, whatever moments,
    weight decay or averages the inner optimizer keeps, and all others train on. There is
    one copy of the weights, and the gradient is taken at that copy.

    Args:
      inner_optimizer: any `keras.optimizers.Optimizer`, or the name of one. Learning
        rate, weight decay, clipping, averaging and gradient accumulation are its own.
      quantizer: a `Quantizer`, for example `Binary()`.
      strength: the pull lambda_t, a float >= 0 or a schedule of the step, in units of weight per
        unit of learning rate; or "auto", which arrives at the grid by `freeze_step` whatever
        the learning rate and the size of the weights: `schedules.TotalPull(freeze_step)`.
      regularizer: "l1" pulls each weight by at most tau and lands it; "l2" contracts its
        distance by 1/(1 + tau); "concave" pushes it away from the midpoint between two levels,
        by 1/(1 - tau), and lands it: not in the paper, and better than "l1" in short runs.
        None takes the paper's choice: "l1" for `Binary`, else "l2".
      select: which variables, see `tf_proxquant.selection`. None = every kernel and
        embedding table.
      clip: c > 0 clips the selected weights to [-c, c] after the prox; None does not. The
        paper's recipes use 1.
      freeze_step: int >= 0, the step from which on the selected weights are on the grid and
        never move; 0 snaps them at build. None = never.
      update_levels_every: int >= 1, the steps between two fits of the levels to the weights;
        in between, weights go to the nearest of the kept levels. 1 fits at each step. What it
        saves is in docs/performance.md.
      jit_compile: whether XLA compiles the inner update and the prox together on TensorFlow, where
        the step is a graph that Keras does not compile itself: in `fit` on a CPU. It takes
        seconds at the first step, makes each step faster than that of the bare inner optimizer
        on large models, and rounds last bits in its own way. "auto" does so from 131,072 weights
        on, unless a quantizer sorts (`optimal=True`, "median"), or the inner optimizer, a
        schedule, a quantizer or a constraint is not from Keras or this package. Outside a graph
        and under tf.distribute nothing is compiled.
      name: name of the optimizer.

    Raises: ValueError: for arguments out of range, and for arguments that belong to the
      inner optimizer.

    Example:
      >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
      >>> optimizer = ProxQuant(keras.optimizers.Adam(0.01), Binary(), Linear(0.05), clip=1.0,
      ...                       freeze_step=300)
      >>> model.compile(optimizer, loss="mse")

    Reference: Bai, Wang, Liberty, ICLR 2019, arXiv:1810.00861, algorithm 1. Deviations: those
      of the prox functions; a strength that is a function of the step, not of the epoch.
    """

    # Sum of tau under strength="auto". What it means for each penalty: `schedules.TotalPull`.
    TOTAL_PULL = MappingProxyType({"l1": 30.0, "l2": 31.0, "concave": 12.0})

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        quantizer: Quantizer,
        strength: Strength,
        *,
        regularizer: str | None = None,
        select: Select = None,
        clip: float | None = None,
        freeze_step: int | None = None,
        update_levels_every: int = 1,
        jit_compile: bool | str = "auto",
        name: str = "prox_quant",
        **kwargs: Any,
    ):
        if regularizer not in (None, *_REGULARIZERS):
            raise ValueError(
                f"`regularizer` must be one of {_REGULARIZERS} or None. "
                f"Received: regularizer={regularizer!r}."
            )
        if strength is None:
            raise ValueError(
                '`strength` must be a float >= 0, a schedule or "auto". Received: strength=None. '
                "Pass for example pq.schedules.Linear(0.01)."
            )
        super().__init__(
            inner_optimizer,
            quantizer,
            arguments.as_schedule(strength, freeze_step, automatic=schedules.TotalPull),
            select=select,
            clip=clip,
            freeze_step=freeze_step,
            update_levels_every=update_levels_every,
            jit_compile=jit_compile,
            name=name,
            refused=kwargs,
        )
        self.regularizer = regularizer

    def _update(self, grads, variables, bundles):
        # All three before the inner update: it moves the step, and with it a learning-rate
        # schedule.
        step = ops.copy(self.iterations)
        tau = self.tau(step)
        before = self._before(bundles)
        self.inner_optimizer.apply(grads, variables)
        moves = self._moves(step)
        fixed = [b for b in bundles if b.quantizer.fixed_level is not None]
        moved = {b: [self._moved_to_fixed(b, before[b], tau, moves)] for b in fixed}
        fitted = [b for b in bundles if b not in moved]
        moved.update(self._moved_to_fitted(fitted, before, tau, moves, self._is_due(step)))
        self._store(moved)

    def _moved_to_fixed(self, bundle, before, tau, moves):
        """Returns the weights at the end of the update, where the levels do not follow them."""
        quantizer, weights = bundle.quantizer, bundle.join(bundle.variables)
        levels = quantizer.levels(weights)
        pulled = self._prox_and_clip(weights, quantizer, levels, tau)
        if moves is None:
            return pulled
        snapped = quantizer.nearest(pulled, levels)
        pulled = ops.where(ops.equal(moves, SNAP), snapped, pulled)
        return ops.where(ops.equal(moves, HOLD), before, pulled)

    def _moved_to_fitted(self, bundles, before, tau, moves, is_due):
        """Returns the weights at the end of the update, and the levels if they are kept.

        Args:
          bundles: list of `Bundle`s.
          before: dict of their weights before the inner update.
          tau: scalar tensor, as `self.tau` gives it.
          moves: None or a scalar of HOLD, PULL, SNAP: the first move pulls, a second one snaps to
            levels fitted anew.
          is_due: bool scalar tensor, whether the levels are fitted in this update.

        Returns: dict of lists [weights] or [weights, levels].
        """

        def move(done, states):
            return [move_one(done, b, *s) for b, s in zip(bundles, states, strict=True)]

        def move_one(done, bundle, weights, kept=None):
            quantizer = bundle.quantizer
            is_second = ops.greater(done, 0)
            levels = self._levels(quantizer, weights, kept, ops.logical_or(is_due, is_second))
            pulled = self._prox_and_clip(weights, quantizer, levels, tau)
            if moves is not None:
                pulled = ops.where(is_second, quantizer.nearest(weights, levels), pulled)
            return [pulled] if kept is None else [pulled, levels]

        states = []
        for bundle in bundles:
            weights = bundle.join(bundle.variables)
            if moves is not None:
                weights = ops.where(ops.equal(moves, HOLD), before[bundle], weights)
            states.append([weights, *self._kept(bundle)])
        return dict(zip(bundles, graphs.repeat(moves, move, states), strict=True))

    def _prox_and_clip(self, weights, quantizer, levels, tau):
        regularizer = self.regularizer or quantizer.regularizer
        if getattr(self.strength, "is_pull", False):
            tau = self._in_units(tau, weights, quantizer, levels, regularizer)
        level = quantizer.fixed_level
        if regularizer == "l1" and level is not None and level == self.clip:
            # The paper's binary recipe: bit for bit what the lines below give, in fewer passes.
            return prox.prox_l1_box(weights, self.clip, tau)
        if regularizer == "concave":
            pulled = prox.prox_concave(weights, quantizer.spread_levels(weights, levels), tau)
        else:
            apply_prox = prox.prox_l1 if regularizer == "l1" else prox.prox_l2
            pulled = apply_prox(weights, quantizer.nearest(weights, levels), tau)
        return pulled if self.clip is None else ops.clip(pulled, -self.clip, self.clip)

    def _in_units(self, tau, weights, quantizer, levels, regularizer):
        """Returns tau, or one for each group, from a share or multiple of the penalty's unit."""
        if self.strength.total is None:
            tau = tau * self.TOTAL_PULL[regularizer]
        if regularizer != "l1":
            return tau
        if quantizer.fixed_level is not None:
            return tau * quantizer.fixed_level
        gaps = 2 * max(1, levels.shape[-1] - 1)
        half_distance = (levels[..., -1] - levels[..., 0]) / gaps
        return ops.cast(tau, weights.dtype) * quantizer.spread(weights, half_distance)

    def get_config(self):
        return {**super().get_config(), "regularizer": self.regularizer}
