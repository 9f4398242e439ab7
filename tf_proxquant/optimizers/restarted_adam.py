"""Adam that begins anew at regular steps."""

from typing import Any

import keras
from keras import ops

from tf_proxquant import checks


@keras.saving.register_keras_serializable("tf_proxquant")
class RestartedAdam(keras.optimizers.Adam):
    """Adam that forgets its moments every so many updates, as if made anew.

    The authors of ProxQuant make their Adam anew at each epoch; `every` = the number of steps in an
    epoch gives the same updates. With t the number of updates since the last restart, from 1,

        m <- m + (1 - beta_1) (g - m)        from m = 0 at t = 1
        v <- v + (1 - beta_2) (g^2 - v)      from v = 0 at t = 1
        w <- w - lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    `iterations` goes on, so that learning-rate schedules, and the strength and the freeze of a
    `ProxQuant` around it, do not see the restarts. The first update of each period moves a
    weight by about the learning rate, however small its gradient. It is here to repeat the
    authors' runs.

    Args:
      learning_rate: as of `keras.optimizers.Adam`.
      every: int >= 1, updates from one restart to the next.
      name: name of the optimizer.
      **kwargs: the other arguments of `keras.optimizers.Adam`.

    Raises: ValueError: for an `every` out of range.

    Example:
      >>> optimizer = RestartedAdam(0.01, every=391)
      >>> optimizer.every
      391

    Reference: Kingma and Ba, ICLR 2015, arXiv:1412.6980; the code of Bai, Wang, Liberty.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        *,
        every: int,
        name: str = "restarted_adam",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, name=name, **kwargs)
        self.every = checks.check_integer("every", every, 1)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; see `keras.optimizers.Optimizer`."""
        dtype = variable.dtype
        position = ops.convert_to_tensor(self.iterations) % self.every
        index = self._get_variable_index(variable)
        gradient = ops.cast(gradient, dtype)

        def since_restart(moment):
            moment = ops.convert_to_tensor(moment)
            return ops.where(ops.equal(position, 0), ops.zeros_like(moment), moment)

        momentum = since_restart(self._momentums[index])
        momentum = momentum + ops.subtract(gradient, momentum) * (1 - self.beta_1)
        self.assign(self._momentums[index], momentum)
        velocity = since_restart(self._velocities[index])
        velocity = velocity + ops.subtract(ops.square(gradient), velocity) * (1 - self.beta_2)
        self.assign(self._velocities[index], velocity)
        if self.amsgrad:
            velocity = ops.maximum(since_restart(self._velocity_hats[index]), velocity)
            self.assign(self._velocity_hats[index], velocity)

        count = ops.cast(position + 1, dtype)
        left_1, left_2 = (ops.power(ops.cast(b, dtype), count) for b in (self.beta_1, self.beta_2))
        rate = ops.cast(learning_rate, dtype) * ops.sqrt(1 - left_2) / (1 - left_1)
        self.assign_sub(variable, momentum * rate / (ops.sqrt(velocity) + self.epsilon))

    def get_config(self):
        return {**super().get_config(), "every": self.every}
