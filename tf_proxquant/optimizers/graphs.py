"""Graphs: when and how an update is compiled by XLA, and loops that compile well.

Keras compiles whole training steps on JAX, and on TensorFlow where there is a GPU. On a CPU,
TensorFlow runs an update operation by operation, each one a pass over the weights. XLA makes few
passes of them.
"""

import contextlib
import math

import keras
from keras import ops

# Weights from which "auto" compiles: fewer take less time than the compiler does.
LARGE = 2**17


def compiles(optimizer):
    """Whether an update that begins now is compiled.

    Args:
      optimizer: a built `QuantizingOptimizer`.

    Returns: False for `jit_compile=False`, on other backends, outside a graph (custom loops
      without `tf.function`, `run_eagerly`) and under tf.distribute; with "auto" also for small
      models, where a quantizer sorts, and if a part is not from Keras or this package, for not
      everything compiles.
    """
    if not optimizer.jit_compile or keras.backend.backend() != "tensorflow":
        return False
    tensorflow = _tensorflow()
    if tensorflow.executing_eagerly() or tensorflow.distribute.has_strategy():
        return False
    if optimizer.jit_compile is True:
        return True
    if any(quantizer.sorts for _, quantizer in optimizer.quantized_variables):
        return False
    size = sum(math.prod(v.shape) for v in optimizer._trainable_variables)
    return size >= LARGE and all(map(_is_known, _parts(optimizer)))


def run(function, tensors):
    """Calls `function(tensors)`, which returns nothing, compiled by XLA.

    For use while a graph is traced: it is traced and compiled once with that graph.

    Args:
      function: callable that reads and assigns variables.
      tensors: list of tensors of that graph, or None.
    """

    def traced(*tensors):
        function(list(tensors))

    _tensorflow().function(traced, jit_compile=True, autograph=False)(*tensors)


def repeat(times, move, state):
    """Returns `state` moved `times` times, by `move(number of moves before, state)`.

    For 0 or 1 times it says the same as `ops.cond`; but XLA runs the body of a loop on all cores,
    the branch of a condition on one.

    Args:
      times: int32 scalar tensor, or None for once.
      move: callable that returns lists of tensors like `state`.
      state: list of tensors, or of lists of them.
    """
    if times is None:
        return move(0, state)
    return ops.while_loop(
        lambda done, _: ops.less(done, times),
        lambda done, state: (done + 1, move(done, state)),
        (0, state),
    )[1]


def outside():
    """A scope that runs eagerly, even where `build` is called while a graph is traced.

    `fit` on the TensorFlow backend builds optimizers while it traces the first step, where
    an assignment would become part of every step.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    return _tensorflow().init_scope()


def _parts(optimizer):
    inner = optimizer.inner_optimizer
    yield inner
    yield inner._learning_rate
    yield optimizer.strength
    yield from (quantizer for _, quantizer in optimizer.quantized_variables)
    yield from (v.constraint for v in optimizer._trainable_variables)


def _is_known(part):
    if part is None or isinstance(part, (int, float)):
        return True
    return type(part).__module__.partition(".")[0] in ("keras", "tf_proxquant")


def _tensorflow():
    # Keras' lazy handle on the backend in use: the package itself does not need TensorFlow.
    from keras.src.utils.module_utils import tensorflow

    return tensorflow
