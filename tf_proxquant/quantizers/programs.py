"""One program for a whole function, where JAX would compile each of its operations by itself.

Eager operations of JAX are compiled one by one, for each shape of a tensor anew: a fit of levels is
dozens of them, and a network has many shapes of kernels.
"""

import copy
import functools

from keras import backend


def run(cache, function, quantizer, *tensors):
    """Returns `function(quantizer, *tensors)`; on JAX, where tensors have values, as one program.

    Args:
      cache: dict that keeps the programs.
      function: callable that takes a quantizer and tensors and gives a tensor, whose `__qualname__`
        is its own in the cache.
      quantizer: a `Quantizer`; one of the user's own may do what a program cannot, and is called.
      *tensors: tensors, numbers or None.
    """
    if not is_ours(quantizer) or not _compiles(tensors):
        return function(quantizer, *tensors)
    key = function.__qualname__, type(quantizer), state(quantizer)
    if key not in cache:
        import jax

        cache[key] = jax.jit(functools.partial(function, copy.copy(quantizer)))
    return cache[key](*tensors)


def is_ours(quantizer):
    """Whether the class of a quantizer is of this package."""
    return type(quantizer).__module__.startswith("tf_proxquant.")


def state(quantizer, but=None):
    """What a quantizer is made from, but for the attribute of that name; hashable."""
    return tuple(sorted((n, _plain(value)) for n, value in vars(quantizer).items() if n != but))


def _plain(value):
    """`value` in a form that is equal only for equal values, or for one object."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, tuple):
        return repr([_plain(v) for v in value])
    return f"object {id(value)}"


def _compiles(tensors):
    if backend.backend() != "jax":
        return False
    import jax

    return not any(isinstance(tensor, jax.core.Tracer) for tensor in tensors)
