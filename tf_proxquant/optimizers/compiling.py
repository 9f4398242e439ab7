"""When and how an update is compiled by XLA, on the TensorFlow backend.

Keras compiles whole training steps on JAX, and on TensorFlow where there is a GPU. On a CPU,
TensorFlow runs an update operation by operation, each one a pass over the weights. XLA makes few
passes of them.
"""

import math

import keras

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
