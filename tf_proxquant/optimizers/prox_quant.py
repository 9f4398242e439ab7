"""ProxQuant: the inner optimizer's update, then a pull towards the grid, with a memory."""

from typing import Any

import keras
from keras import ops

from tf_proxquant import checks
from tf_proxquant import prox as operators
from tf_proxquant.optimizers import arguments, graphs, holding, maps
from tf_proxquant.optimizers.base import QuantizingOptimizer
from tf_proxquant.optimizers.freezing import nearest_of
from tf_proxquant.quantizers import Quantizer, programs
from tf_proxquant.typing import JitCompile, Prox, Select, Strength, Tensor, TensorLike


@keras.saving.register_keras_serializable("tf_proxquant")
class ProxQuant(QuantizingOptimizer):
    """Trains quantized weights by a proximal step after each update of another optimizer.

    One update of each selected weight tensor, with w the weights that the network uses and v the
    point before the prox:

        v <- w + memory (v - w)               what the prox cut off, times the memory
        v <- inner_optimizer(v, gradient at w)
        w <- prox(v, levels(v))               towards the grid

    `memory` says how much of what the prox cuts off is remembered. At 0 nothing is: v is w, there
    is one copy of the weights, and this is the published ProxQuant. At 1 all of it is, for ever:
    the lazy methods, BinaryConnect ("hard"), BinaryRelax ("relax") and PARQ ("piecewise_affine").
    Between them v - w shrinks by 1 - memory at each step and stays below the size of a step
    over 1 - memory, so that a weight changes its level for a steady gradient and not for a noisy
    one.

    The update that makes `iterations` equal `freeze_step` ends with w <- quantizer(v). From
    then on the selected weights are bit-identical for ever, whatever moments, weight decay or
    averages the inner optimizer keeps, and all others train on.

    Args:
      inner_optimizer: any `keras.optimizers.Optimizer`, or the name of one. Learning
        rate, weight decay, clipping, averaging and gradient accumulation are its own.
      quantizer: a `Quantizer`, for example `Binary()`.
      strength: float >= 0 or a schedule of the step. For "l1", "l2" and "concave" the pull
        lambda_t; tau = learning rate * strength. For "relax" the share of the way, in [0, 1];
        for "piecewise_affine" the inverse slope in [0, 1], as `Sigmoid` gives it. "auto" arrives
        at the grid by `freeze_step`: `TotalPull` whatever the learning rate and the size of the
        weights, the share in a line, the inverse slope by `Sigmoid`. "hard" takes none.
      prox: the map from v to w. "l1" pulls each weight by at most tau and lands it; "l2" shrinks
        its distance by 1/(1 + tau); "concave" pushes it away from the midpoint between two
        levels, by 1/(1 - tau), and lands it; "relax" mixes v and its nearest level;
        "piecewise_affine" steepens to a staircase; "hard" is the nearest level. None takes the
        paper's choice: "l1" for `Binary`, else "l2".
      memory: float in [0, 1], see above. Above 0 there are two more copies of the weights, and
        `build` moves the weights to their prox, so that the first gradient is taken there.
      select: which variables, see `tf_proxquant.selection`. None = every kernel and
        embedding table.
      clip: c > 0 clips what is kept from step to step to [-c, c]: v, or at memory 0 w after the
        prox. The paper's recipes and BinaryConnect use 1. None does not.
      freeze_step: int >= 0, the step from which on the selected weights are on the grid and
        never move; 0 snaps them at build. None = never.
      update_levels_every: int >= 1, the steps between two fits of the levels to v; in between,
        weights go to the nearest of the kept levels. 1 fits at each step. What it saves is in
        docs/performance.md.
      jit_compile: whether XLA compiles the inner update and the prox together on TensorFlow, where
        the step is a graph that Keras does not compile itself: in `fit` on a CPU. It takes
        seconds at the first step, makes each step of large kernels faster than that of the bare
        inner optimizer, and rounds last bits in its own way. "auto" does so where the variables
        have 131,072 weights or more in the mean, and from step 100 on with a `freeze_step` so late
        that it pays: 3,300 for ResNet-20, 1,100 for MobileNetV2. It does not where a quantizer
        sorts ("median", and `optimal=True` per channel or of 3 and 4 bits), or the inner optimizer,
        a schedule, a quantizer or a constraint is not from Keras or this package. Outside a graph
        and under tf.distribute nothing is compiled.
      name: name of the optimizer.

    Raises: ValueError: for arguments out of range, and for arguments that belong to the
      inner optimizer.

    Example:
      >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
      >>> optimizer = ProxQuant(keras.optimizers.Adam(0.02), Binary("mean", axis=-1),
      ...                       prox="piecewise_affine", memory=0.99, freeze_step=300)
      >>> model.compile(optimizer, loss="mse")

    Reference: Bai, Wang, Liberty, ICLR 2019, arXiv:1810.00861, algorithm 1. Deviations: those
      of the prox functions; a strength that is a function of the step, not of the epoch; the
      memory.
    """

    TOTAL_PULL = maps.TOTAL_PULL

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        quantizer: Quantizer,
        strength: Strength = "auto",
        *,
        prox: Prox | None = None,
        memory: float = 0.0,
        select: Select = None,
        clip: float | None = None,
        freeze_step: int | None = None,
        update_levels_every: int = 1,
        jit_compile: JitCompile = "auto",
        name: str = "prox_quant",
        **kwargs: Any,
    ):
        prox = arguments.check_prox(prox, kwargs)
        memory = checks.check_number("memory", memory, 0, 1)
        map_name = self._map_name(prox)
        super().__init__(
            inner_optimizer,
            quantizer,
            arguments.as_schedule(strength, map_name, memory, freeze_step),
            memory=memory,
            select=select,
            clip=clip,
            freeze_step=freeze_step,
            update_levels_every=update_levels_every,
            jit_compile=jit_compile,
            name=name,
            refused=kwargs,
        )
        self.prox = prox
        self._map = map_name

    @staticmethod
    def _map_name(prox):
        """The name in `maps`; None = that of each quantizer."""
        return prox

    @property
    def regularizer(self) -> Prox | None:
        """The former name of `prox`."""
        return self.prox

    def _update(self, grads, variables, bundles):
        """One step of all selected tensors, each bundle of them as one tensor:

        v <- w + memory (v - w)
        v <- inner_optimizer(v, gradient at w)
        w <- prox(v, levels(v))        before the freeze
        w <- nearest(v, levels(v))     at the freeze; after it v is w, and both stay
        """
        step = ops.copy(self.iterations)  # the inner update moves it, and with it the strength
        strength = self._strength_at(step)
        if strength is not None:
            strength = ops.convert_to_tensor(strength)
        old_w, old_v = self._read(bundles)

        v = {b: self._remembered(old_w[b], old_v[b]) for b in bundles}
        v = self._inner_update(grads, variables, v)
        stage = self._stage(step)
        v = {b: stage.held_or_moved(old_w[b], v[b]) for b in bundles}
        levels = self._levels(v, old_w, step, stage)
        w = {b: self._shared(self._prox, b, v[b], levels[b], strength) for b in bundles}
        if self.freeze_step is not None:
            w = self._snapped(w, v, levels, step, stage)

        self._store(stage, (w, old_w), (v, old_v), levels)

    def _remembered(self, w, v):
        """The leak, v <- w + memory (v - w). Nothing at memory 0, bit for bit v at memory 1."""
        if self.memory in (0, 1):
            return v
        return w + ops.convert_to_tensor(self.memory, dtype=w.dtype) * (v - w)

    def _inner_update(self, grads, variables, v):
        """The inner update, v <- inner_optimizer(v, gradient at w)."""
        if self.memory:
            self._assign(v)
        self.inner_optimizer.apply(grads, variables)
        return {b: self._clipped(b.read(), bool(self.memory)) for b in v}

    def _prox(self, quantizer, v, levels, strength):
        """The pull, w <- prox(v, levels(v))."""
        name = self._map or quantizer.regularizer
        if getattr(self.strength, "is_pull", False):
            total = self.TOTAL_PULL[name] if self.strength.total is None else 1.0
            strength = maps.tau_in_units(strength * total, name, v, quantizer, levels)
        level = quantizer.fixed_level
        if name == "l1" and not self.memory and level is not None and level == self.clip:
            # The paper's binary recipe: bit for bit what the lines below give, in fewer passes.
            return operators.prox_l1_box(v, self.clip, strength)
        return self._clipped(maps.apply(name, v, quantizer, levels, strength), self.memory == 0)

    def _snapped(self, w, v, levels, step, stage):
        """The freeze, w <- nearest(v, levels(v)) from then on; notes how far that is from w."""
        nearest = {b: self._shared(nearest_of, b, v[b], levels[b]) for b in w}
        is_now = ops.equal(step + 1, self.freeze_step)
        distance = graphs.cond(
            is_now if stage.updates is None else ops.logical_and(is_now, stage.updates),
            lambda: holding.relative_distance([(w[b], nearest[b]) for b in w]),
            lambda: ops.convert_to_tensor(self._snap_distance),
        )
        self._assign_all([self._snap_distance], [distance])
        return {b: ops.where(stage.snaps, nearest[b], w[b]) for b in w}

    def _clipped(self, tensor, is_kept):
        """What is kept from step to step is clipped: v, or w where there is no memory."""
        if self.clip is None or not is_kept:
            return tensor
        return ops.clip(tensor, -self.clip, self.clip)

    def _place(self):
        """The first gradient is taken at the prox of the weights."""
        strength = self._strength_at(ops.copy(self.iterations))
        for variable, quantizer, levels in self.fit_levels():
            tensors = ops.convert_to_tensor(self.latent_of(variable)), levels, strength
            variable.assign(programs.run(self._traces, self._prox, quantizer, *tensors))

    def tau(self, step: TensorLike) -> Tensor | None:
        """Returns tau of the update number `step`, counted from 0.

        The learning rate times the strength, or the pull itself where the schedule gives that.

        Args:
          step: scalar, the number of finished updates.

        Returns: scalar tensor, or None where the prox does not take tau.
        """
        if self.strength is None or self._map not in (None, *maps.WITH_TAU):
            return None
        strength = self.strength(step)
        if getattr(self.strength, "is_pull", False):
            return strength
        return ops.multiply(self.learning_rate, strength)

    def _strength_at(self, step):
        """What the map takes: tau or a share; None for "hard"."""
        if self._map in (None, *maps.WITH_TAU):
            return self.tau(step)
        return None if self.strength is None else self.strength(step)

    def get_config(self):
        return {**super().get_config(), "prox": self.prox}
