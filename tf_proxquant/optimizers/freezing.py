"""Levels, snap and freeze: which grid the weights go to, and what holds them on it."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from tf_proxquant import selection
from tf_proxquant.optimizers import graphs, holding
from tf_proxquant.optimizers.wrapping import WrappingOptimizer
from tf_proxquant.typing import Tensor


class Stage(NamedTuple):
    """Where an update stands; each a bool scalar tensor, or None where it is always so or never.

    Attributes:
      updates: whether the inner optimizer moved the weights: under gradient accumulation most of
        its calls move nothing. None = always.
      snaps: whether this update ends on the grid. None = never.
      is_frozen: whether the weights were on it before. None = never.
    """

    updates: Tensor | None
    snaps: Tensor | None
    is_frozen: Tensor | None

    def held_or_moved(self, w, v):
        """What the update goes on from: w once it is frozen."""
        return v if self.is_frozen is None else ops.where(self.is_frozen, w, v)

    def new_or_old(self, new, old):
        """What is kept of the update."""
        return new if self.updates is None else ops.where(self.updates, new, old)


class FreezingOptimizer(WrappingOptimizer):
    """An optimizer that knows the levels of its weights and when they are frozen on them.

    A subclass gives `quantized_variables`, `freeze_step` and `update_levels_every`.
    """

    def __init__(self, inner_optimizer, name):
        super().__init__(inner_optimizer, name)
        self._quantizers = {}
        self._kept_levels = {}
        self._traces: dict = {}
        self._snap_distance = None
        self._has_warned = False

    @property
    def frozen(self) -> bool:
        """Whether the freeze is behind and every selected weight is on the levels it was given.

        False also where weights were changed afterwards, by `load_weights` for example; the next
        update puts them back on the grid, and so does `snap`.
        """
        return self.built and self._is_past_freeze() and all(map(self.holds, self._selected()))

    def holds(self, variable: keras.Variable) -> bool:
        """Whether the freeze is behind and a selected variable is on the levels it was given."""
        if not self._is_past_freeze():
            return False
        quantizer = self._quantizers[self._var_key(variable)]
        kept = self._kept_levels.get(self._var_key(variable))
        levels = quantizer.levels(variable) if kept is None else kept
        return bool(ops.all(ops.equal(quantizer.nearest(variable, levels), variable)))

    def _selected(self):
        return [v for v, _ in self.quantized_variables]

    def _is_past_freeze(self):
        return self.freeze_step is not None and int(ops.copy(self.iterations)) >= self.freeze_step

    def snap(self, warn: bool = True) -> float:
        """Rounds the selected weights to their grid now, in place.

        Weights that are frozen on it stay bit for bit what they are.

        Args:
          warn: whether to warn where the snap moves them far.

        Returns: the distance moved, relative to the norm of the weights.
        """
        pairs, past_freeze = [], self._is_past_freeze()
        for variable, quantizer, levels in self.fit_levels():
            pairs.append((ops.copy(variable), quantizer.nearest(variable, levels)))
            variable.assign(pairs[-1][1])
            kept = self._kept_levels.get(self._var_key(variable))
            if past_freeze and kept is not None:
                kept.assign(levels)
        distance = float(holding.relative_distance(pairs))
        if warn:
            holding.warn_if_far(distance)
        return distance

    def fit_levels(self) -> list[tuple]:
        """Returns the levels of the present weights of every selected variable.

        They are fitted to the weights; after the freeze they are those that the weights are held
        on, unless the weights have been changed and are far from them.

        Returns: list of (variable, quantizer, levels).
        Raises: ValueError: naming the first variable with a NaN or inf.
        """
        fitted, past_freeze = [], self._is_past_freeze()
        for variable, quantizer in self.quantized_variables:
            kept = self._kept_levels.get(self._var_key(variable)) if past_freeze else None
            try:
                levels = holding.levels_now(quantizer, variable, kept)
            except ValueError as error:
                raise ValueError(f"'{selection.path(variable)}': {error}") from error
            fitted.append((variable, quantizer, levels))
        return fitted

    def grid(self) -> list[tuple]:
        """Returns the selected weights and the grid points nearest to them, in little time.

        The levels are those of `fit_levels`.

        Returns: list of (weights, nearest), arrays, in the order of `quantized_variables`.
        Raises: ValueError: naming the first variable with a NaN or inf.
        """
        found, past_freeze = {}, self._is_past_freeze()
        for bundle in self._bundles_of(None, False):
            weights = [ops.convert_to_numpy(v) for v in bundle.variables]
            if not all(np.all(np.isfinite(part)) for part in weights):
                self.fit_levels()  # which says where
            kept = self._kept_of(bundle) if past_freeze else []
            levels = bundle.join_levels(kept) if kept else None
            joined = ops.convert_to_tensor(bundle.join(weights))
            nearest = self._shared(_grid_of, bundle, joined, levels, eagerly=True)
            pairs = zip(weights, bundle.split(ops.convert_to_numpy(nearest)), strict=True)
            found.update(zip(map(self._var_key, bundle.variables), pairs, strict=True))
        return [found[self._var_key(variable)] for variable, _ in self.quantized_variables]

    def _stage(self, step):
        """Returns the `Stage` of the update just made; `step` is the number of those before."""
        updates = snaps = is_frozen = None
        if self.inner_optimizer.gradient_accumulation_steps:
            updates = ops.convert_to_tensor(self.inner_optimizer.iterations) > step
        if self.freeze_step is not None:
            snaps, is_frozen = step >= self.freeze_step - 1, step >= self.freeze_step
        return Stage(updates, snaps, is_frozen)

    def _levels(self, points, before, step, stage):
        """Returns the levels of the points: fitted where that is due, else those kept.

        Args:
          points: dict from bundles to the weights to fit them to.
          before: dict from bundles to the weights at the beginning of the update.
          step: the number of updates before this one.
          stage: a `Stage`.

        Returns: dict from bundles to levels.
        """
        keeping = [b for b in points if self._kept_of(b)]
        levels = {b: self._shared(_levels_of, b, points[b]) for b in points if b not in keeping}
        if not keeping:
            return levels
        kept = [b.join_levels(self._kept_of(b)) for b in keeping]
        is_due, far = ops.equal(step % self.update_levels_every, 0), None
        if self.freeze_step is not None:
            far = self._far(keeping, before, kept, stage)
            any_far = ops.any(ops.stack([ops.any(f) for f in far]))
            is_due = ops.where(stage.is_frozen, any_far, ops.logical_or(is_due, stage.snaps))
        if stage.updates is not None:
            is_due = ops.logical_and(is_due, stage.updates)

        def fit(points):
            pairs = zip(keeping, points, strict=True)
            return [self._shared(_levels_of, b, p) for b, p in pairs]

        fitted = graphs.compute_if(is_due, fit, [points[b] for b in keeping], kept)
        if far is not None:
            fresh = [ops.logical_or(f, ops.logical_not(stage.is_frozen)) for f in far]
            fitted = [holding.choose(*args) for args in zip(fresh, fitted, kept, strict=True)]
        return {**levels, **dict(zip(keeping, fitted, strict=True))}

    def _far(self, bundles, before, kept, stage):
        """Returns which groups were moved off their kept levels after the freeze, by others."""
        return graphs.cond(
            stage.is_frozen,
            lambda: [
                self._shared(holding.is_far, b, before[b], k)
                for b, k in zip(bundles, kept, strict=True)
            ],
            lambda: [ops.zeros(k.shape[:-1], "bool") for k in kept],
        )

    def _shared(self, function, bundle, *tensors, eagerly=False):
        """Returns `function(bundle.quantizer, *tensors)`; see `graphs.call_shared`."""
        return graphs.call_shared(self._traces, function, bundle, *tensors, eagerly=eagerly)

    def _kept_of(self, bundle):
        kept = [self._kept_levels.get(self._var_key(v)) for v in bundle.variables]
        return [] if kept[0] is None else kept

    def finalize_variable_values(self, var_list: list) -> None:
        """Ends training; warns if the freeze moved the weights far.

        Where the inner optimizer averages weights, those that were on the grid go back on it, which
        an average of on-grid weights is not on: frozen weights return to their frozen value, or to
        the level nearest to it where a callback has swapped averages in already, and others to the
        level nearest to their average, as all do without a `freeze_step`. What is on its way to a
        freeze keeps the average.
        """
        self.warn_of_snap()
        if not self.inner_optimizer.use_ema:
            return
        is_frozen = self._is_past_freeze()
        before = [(ops.copy(v), is_frozen or self._is_on_grid(v)) for v in self._selected()]
        self._finalize_inner()
        for (variable, quantizer), (value, is_on_grid) in zip(
            self.quantized_variables, before, strict=True
        ):
            if is_frozen:
                kept = self._kept_levels.get(self._var_key(variable))
                levels = quantizer.levels(value) if kept is None else kept
                variable.assign(quantizer.nearest(value, levels))
            elif is_on_grid or self.freeze_step is None:
                variable.assign(quantizer(variable))

    def _is_on_grid(self, variable):
        quantizer = self._quantizers[self._var_key(variable)]
        return bool(ops.all(ops.equal(quantizer(variable), variable)))

    def warn_of_snap(self) -> None:
        """Warns, once, if the snap at the freeze moved the weights far. `fit` ends with it."""
        if self._snap_distance is not None and not self._has_warned and self._is_past_freeze():
            self._has_warned = holding.warn_if_far(float(ops.copy(self._snap_distance)))

    def _fill_added(self, saved):
        """Reads the levels of frozen weights off them; see `WrappingOptimizer`."""
        for variable, quantizer in self.quantized_variables:
            kept = self._kept_levels.get(self._var_key(variable))
            is_missing = kept is not None and any(kept is v for v in self._variables[saved:])
            levels = holding.read_levels(quantizer, variable, kept) if is_missing else None
            if kept is not None and levels is not None:
                kept.assign(levels)


def _levels_of(quantizer, points):
    return quantizer.levels(points)


def _grid_of(quantizer, weights, kept):
    levels = quantizer.levels(weights)
    if kept is not None:
        levels = holding.choose(holding.is_far(quantizer, weights, kept), levels, kept)
    return quantizer.nearest(weights, levels)


def nearest_of(quantizer, points, levels):
    """`quantizer.nearest`, for `FreezingOptimizer._shared`."""
    return quantizer.nearest(points, levels)
