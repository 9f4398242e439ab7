"""Schedules: the step, counted from 0, to a strength.

    strength = schedule(step)

A schedule is a pure function of the step, so a resumed run needs no state beyond
the optimizer's step count. All values are computed in `keras.config.floatx()`.
"""

import math

import keras
from keras import ops

from tf_proxquant.checks import check_integer, check_number
from tf_proxquant.typing import Tensor, TensorLike

_register = keras.saving.register_keras_serializable("tf_proxquant")


class Schedule:
    """Base of the schedules. Subclasses implement `__call__` and `get_config`.

    Attributes:
      is_pull: False where the value is multiplied by the learning rate to give tau; True where
        it is the pull itself, the same at every learning rate.
    """

    is_pull = False

    def __call__(self, step: TensorLike) -> Tensor:
        """Returns the strength at `step`, a scalar tensor of dtype `floatx()`.

        Args:
          step: scalar >= 0, the number of finished updates; an int, an integer
            tensor or a `keras.Variable`.
        """
        raise NotImplementedError

    def get_config(self):
        """Returns the constructor's arguments."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config):
        """Rebuilds a schedule from `get_config()`."""
        try:
            return cls(**config)
        except TypeError as error:
            raise ValueError(
                f"{cls.__name__} was saved by another version: {error}. Load it with the version "
                f"of tf_proxquant that wrote it. Received: config={config!r}."
            ) from error

    def __repr__(self):
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@_register
class Constant(Schedule):
    """The same strength at every step.

    Args:
      value: float >= 0.

    Example:
      >>> float(Constant(0.5)(7))
      0.5
    """

    def __init__(self, value: float):
        self.value = check_number("value", value)

    def __call__(self, step: TensorLike) -> Tensor:
        return _float(self.value)

    def get_config(self):
        return {"value": self.value}


@_register
class Linear(Schedule):
    """A strength that grows by `rate` every `every` steps: the paper's homotopy.

        strength(step) = rate * (step // every)

    Args:
      rate: float >= 0, growth per stair.
      every: int >= 1, steps per stair. 1 grows at each step; the number of steps
        in an epoch gives the authors' schedule, `reg_rate * epoch`.

    Example:
      >>> schedule = Linear(0.5, every=10)
      >>> [float(schedule(step)) for step in (0, 9, 10, 25)]
      [0.0, 0.0, 0.5, 1.0]

    Reference: Bai, Wang, Liberty, ICLR 2019, arXiv:1810.00861, section 3.3.
    """

    def __init__(self, rate: float, every: int = 1):
        self.rate = check_number("rate", rate)
        self.every = check_integer("every", every, 1)

    def __call__(self, step: TensorLike) -> Tensor:
        stair = ops.floor_divide(_integer(step), self.every)
        return _float(self.rate) * ops.cast(stair, keras.config.floatx())

    def get_config(self):
        return {"rate": self.rate, "every": self.every}


@_register
class TotalPull(Schedule):
    """A pull that grows in proportion to the step and adds up to `total`: `strength="auto"`.

        tau(step) = 2 total step / (steps (steps - 1))    for step < steps, then constant

    It is not multiplied by the learning rate, so that a run of `steps` steps takes the weights
    equally far towards the grid whatever the learning rate is and however it decays. With a
    memory it is multiplied by the number of steps that memory holds,

        (1 - memory^(step + 1)) / (1 - memory)    or step + 1 where memory is 1

    because the latent weight adds up so many gradients while each prox starts from it anew. Units:
    "l1" half the mean distance between neighbouring levels of each group; "l2" and "concave"
    none, see `total`.

    Args:
      steps: int >= 2, the steps to add up over: the optimizer's `freeze_step`.
      total: float > 0, the sum. "l1" moves a weight by so many half distances; "l2" shrinks the
        distance to the grid by about exp(-total); "concave" lands what is farther than about
        exp(-total) from a midpoint. None = the penalty's own, `ProxQuant.TOTAL_PULL`; then the
        value of the schedule is the share of it, and adds up to 1.
      memory: float in [0, 1], that of the optimizer.

    Example:
      >>> schedule = TotalPull(steps=5, total=10.0)
      >>> [float(schedule(step)) for step in range(5)]
      [0.0, 1.0, 2.0, 3.0, 4.0]
    """

    is_pull = True

    def __init__(self, steps: int, total: float | None = None, memory: float = 0.0):
        self.steps = check_integer("steps", steps, 2)
        self.total = None if total is None else check_number("total", total)
        if self.total == 0:
            raise ValueError("`total` must be greater than 0, or None. Received: total=0.")
        self.memory = check_number("memory", memory, 0, 1)

    def __call__(self, step: TensorLike) -> Tensor:
        total = 1.0 if self.total is None else self.total
        slope = _float(2 * total / (self.steps * (self.steps - 1)))
        step = ops.cast(ops.minimum(_integer(step), self.steps - 1), keras.config.floatx())
        return slope * step * self._steps_held(step)

    def _steps_held(self, step):
        if self.memory in (0, 1):
            return 1 if self.memory == 0 else step + 1
        held = -ops.expm1((step + 1) * _float(math.log(self.memory)))
        return held / _float(1 - self.memory)

    def get_config(self):
        return {"steps": self.steps, "total": self.total, "memory": self.memory}


@_register
class Sigmoid(Schedule):
    """PARQ's inverse slope: from 1 at `start` down to 0 at `end`, in an S.

    With u = (step - start) / (end - start), clipped to [0, 1], and
    s(u) = 1 / (1 + exp(steepness * (u - 1/2))),

        strength(step) = (s(u) - s(1)) / (s(0) - s(1))

    which is exactly 1 up to `start` and exactly 0 from `end` on.

    Args:
      start: int >= 0, the last step at which the value is 1.
      end: int > start, the first step at which the value is 0.
      steepness: float > 0; larger values change faster around the middle.

    Example:
      >>> schedule = Sigmoid(10, 20)
      >>> [round(float(schedule(step)), 3) for step in (0, 10, 15, 20, 99)]
      [1.0, 1.0, 0.5, 0.0, 0.0]

    Reference: Jin et al., PARQ, arXiv:2503.15748, section 4.
    """

    def __init__(self, start: int, end: int, steepness: float = 10.0):
        self.start = check_integer("start", start, 0)
        self.end = check_integer("end", end, self.start + 1)
        self.steepness = check_number("steepness", steepness)
        if self.steepness == 0:
            raise ValueError(
                "`steepness` must be greater than 0. Received: steepness=0. "
                "Use 10. for PARQ's schedule."
            )

    def __call__(self, step: TensorLike) -> Tensor:
        passed = ops.cast(_integer(step) - self.start, keras.config.floatx())
        u = ops.clip(passed / _float(self.end - self.start), 0.0, 1.0)
        first, last = _mirrored_sigmoid(0.0, self.steepness), _mirrored_sigmoid(1.0, self.steepness)
        value = 1 / (1 + ops.exp(_float(self.steepness) * (u - 0.5)))
        value = (value - _float(last)) / _float(first - last)
        return ops.where(u <= 0, _float(1.0), ops.where(u >= 1, _float(0.0), value))

    def get_config(self):
        return {"start": self.start, "end": self.end, "steepness": self.steepness}


def _mirrored_sigmoid(u, steepness):
    return 1 / (1 + math.exp(steepness * (u - 0.5)))


def _float(value):
    # Not ops.cast(value, dtype): that rounds a Python float to float32 first.
    return ops.convert_to_tensor(value, dtype=keras.config.floatx())


def _integer(step):
    return ops.cast(ops.convert_to_tensor(step), "int32")
