"""What graphs need: when an update is compiled by XLA, and few operations where it is not.

Keras compiles whole training steps on JAX, and on TensorFlow where there is a GPU. On a CPU,
TensorFlow runs an update operation by operation, each one a pass over the weights. XLA makes few
passes of them.
"""

import contextlib
import itertools
import math

import keras
import numpy as np
from keras import ops

from tf_proxquant.quantizers.groups import namespace

# Weights in the mean trainable variable from which "auto" compiles. The compiler takes time for
# each variable, and saves time for each weight and step.
LARGE = 2**17
# Small variables are compiled where the freeze comes so late that it saves twice what it takes, and
# after TRIED steps, so that nobody who only tries something waits for it. That late is from step
# LATE / (1 + mean / UNIT) on, with the weights of the mean variable: a step saves 57 us for each
# variable and 10 ns for each weight, and the compiler takes .15 s for each variable.
LATE, UNIT, TRIED = 6000, 5000, 100


def run(optimizer, update, tensors):
    """Calls `update(tensors, is_compiled)`, which returns nothing, compiled by XLA where that pays.

    In a graph, it is traced and compiled once with that graph.

    Args:
      optimizer: a built `QuantizingOptimizer`.
      update: callable that reads and assigns variables.
      tensors: list of tensors, or None.
    """
    first = first_compiled(optimizer)
    if first is None:
        update(tensors, False)
    elif first == 0:
        _function(lambda *t: update(list(t), True), jit_compile=True)(*tensors)
    else:
        import tensorflow

        # One trace for both: by itself, and compiled when it is called for the first time.
        alone = _function(lambda *t: update(list(t), False), _noinline=True)
        compiled = _function(lambda *t: alone(*t), jit_compile=True)
        is_early = ops.convert_to_tensor(optimizer.iterations) < first
        tensorflow.cond(is_early, lambda: alone(*tensors), lambda: compiled(*tensors))


def _function(body, jit_compile=None, **attributes):
    import tensorflow

    return tensorflow.function(
        body, jit_compile=jit_compile, autograph=False, experimental_attributes=attributes or None
    )


def first_compiled(optimizer):
    """The step from which on updates are compiled; None for never.

    Never with `jit_compile=False`, on other backends, outside a graph (custom loops without
    `tf.function`, `run_eagerly`) and under tf.distribute; with "auto" also where the variables are
    small and the freeze is not late, where a quantizer sorts, and if a part is not from Keras or
    this package, for not everything compiles.
    """
    if not optimizer.jit_compile or keras.backend.backend() != "tensorflow":
        return None
    import tensorflow

    if tensorflow.executing_eagerly() or tensorflow.distribute.has_strategy():
        return None
    if optimizer.jit_compile is True:
        return 0
    quantizers = [quantizer for _, quantizer in optimizer.quantized_variables]
    if any(q.sorts for q in quantizers) or not all(map(is_known, _parts(optimizer))):
        return None
    sizes = [math.prod(v.shape) for v in optimizer._trainable_variables]
    mean = sum(sizes) / len(sizes)
    if mean >= LARGE:
        return 0
    if tensorflow.config.list_physical_devices("GPU"):  # where Keras compiles the whole step
        return None
    return TRIED if (optimizer.freeze_step or 0) * (1 + mean / UNIT) >= LATE else None


def compute_if(condition, compute, tensors, otherwise):
    """Returns `compute(tensors)` where the condition holds, else `otherwise`.

    What `ops.cond` says, as a loop of at most one round: XLA runs the body of a loop on all
    cores, the branch of a condition on one.

    Args:
      condition: bool scalar tensor.
      compute: callable that takes `tensors` and returns a list like `otherwise`.
      tensors: list of float tensors.
      otherwise: list of tensors.
    """
    if _is_value(condition):
        return compute(tensors) if bool(condition) else otherwise

    def body(done, _):
        # XLA moves out of a loop what does not depend on its round, and would always compute it.
        return done + 1, compute([ops.where(done > 0, -t, t) for t in tensors])

    rounds = ops.cast(condition, "int32")
    return ops.while_loop(lambda done, _: ops.less(done, rounds), body, (0, otherwise))[1]


def cond(condition, if_true, if_false):
    """What `ops.cond` says; eagerly JAX would compile both branches anew at every step."""
    if _is_value(condition):
        return if_true() if bool(condition) else if_false()
    return ops.cond(condition, if_true, if_false)


def call_shared(cache, function, bundle, *tensors, eagerly=False):
    """Returns `function(bundle.quantizer, *tensors)`; one trace serves all bundles of a kind.

    Each operation of a graph takes time when it is traced, optimized and started the first time,
    and the bundles of a network differ in nothing but the shape of their tensors.

    Args:
      cache: dict that keeps what is traced.
      function: callable that takes a quantizer and tensors, and gives a tensor.
      bundle: a `Bundle`.
      *tensors: the weights, and tensors of fewer elements; None is handed on.
      eagerly: whether to do so outside a graph, too, where `function` raises nothing then.
    """
    if bundle.kind is None or not _shares(eagerly):
        return function(bundle.quantizer, *tensors)
    given = [t for t in tensors if t is not None]
    key = function.__qualname__, bundle.kind, tuple(t is None for t in tensors)
    if key not in cache:
        cache[key] = _shared(function, bundle.quantizer, tensors)
    result = cache[key](*given)
    traced = cache[key].output_shapes
    is_like_weights = traced.rank == 2 and traced[1] is None
    count = given[0].shape[bundle.quantizer.axis]
    result.set_shape(given[0].shape if is_like_weights else [count, *traced[1:]])
    return result


def _shares(eagerly):
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow

    is_graph = not tensorflow.executing_eagerly()
    return (is_graph or eagerly) and not tensorflow.distribute.has_strategy()


def _shared(function, quantizer, tensors):
    """Traces a function for groups of any number and length."""
    import tensorflow

    def signature(index, tensor):
        shape = [None, *tensor.shape[1:]] if len(tensor.shape) else []
        if index == 0:
            shape = [None] * len(shape)
        return tensorflow.TensorSpec(shape, tensor.dtype)

    def traced(*given):
        rest = iter(given)
        return function(quantizer, *(None if t is None else next(rest) for t in tensors))

    return tensorflow.function(
        traced,
        input_signature=[signature(i, t) for i, t in enumerate(tensors) if t is not None],
        autograph=False,
        experimental_attributes={"_noinline": True},
    ).get_concrete_function()


def split(tensor, sizes, axis):
    """Returns the parts of these sizes along an axis. That of Keras is 20 operations."""
    if keras.backend.backend() == "tensorflow" and not isinstance(tensor, np.ndarray):
        import tensorflow

        return tensorflow.split(tensor, sizes, axis)
    return namespace(tensor).split(tensor, list(itertools.accumulate(sizes))[:-1], axis)


def outside():
    """A scope that runs eagerly, even where `build` is called while a graph is traced.

    `fit` on the TensorFlow backend builds optimizers while it traces the first step, where
    an assignment would become part of every step.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow

    return tensorflow.init_scope()


def _is_value(condition):
    """Whether a bool tensor of JAX has a value, because nothing is traced."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return not isinstance(condition, jax.core.Tracer)


def _parts(optimizer):
    inner = optimizer.inner_optimizer
    yield inner
    yield inner._learning_rate
    yield optimizer.strength
    yield from (quantizer for _, quantizer in optimizer.quantized_variables)
    yield from (v.constraint for v in optimizer._trainable_variables)


def is_known(part):
    """Whether an object is a number, or of a class of Keras or of this package."""
    if part is None or isinstance(part, (int, float)):
        return True
    return type(part).__module__.partition(".")[0] in ("keras", "tf_proxquant")
