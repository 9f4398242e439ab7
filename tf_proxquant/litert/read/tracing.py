"""A Keras model as a TensorFlow graph that LiteRT's converter can take."""

import contextlib

import keras

from tf_proxquant.litert.read import equivalents
from tf_proxquant.litert.read import signature as signatures

# What layers compute in where LiteRT would need operators that it has only for float32.
_OTHER_FLOATS = ("float16", "bfloat16", "float64")


def trace(model, signature):
    """Traces the inference of a model.

    Args:
      model: built `keras.Model`; its layers are as they were afterwards.
      signature: `signatures.Signature`. An input whose dtype is a guess, and that the model only
        turns into integers, becomes an integer.

    Returns: (`tf.types.experimental.ConcreteFunction` of the inputs in order, names of its
      outputs in order).
    """
    import tensorflow as tf

    names = []

    def serve(*values):
        args, kwargs = signature.pack(dict(zip(signature.names, values, strict=True)))
        outputs = signatures.name_outputs(model(*args, training=False, **kwargs))
        names[:] = outputs
        return list(outputs.values())

    specs = [
        tf.TensorSpec(entry.shape, entry.dtype, name=f"input_{place}")
        for place, entry in enumerate(signature.inputs)
    ]
    with in_float32(model), equivalents.used():
        graph = tf.function(serve, autograph=False, input_signature=specs)
        concrete = graph.get_concrete_function()
    integers = _turned_into_integers(concrete, signature)
    if integers:
        return trace(model, signature.with_dtypes(integers))
    return concrete, names


@contextlib.contextmanager
def in_float32(model):
    """Context in which the layers of a model compute in float32.

    The variables of mixed precision are float32 anyway, and are used as they are.
    """
    changed = [
        (layer, layer._dtype_policy)
        for layer in model._flatten_layers()
        if layer.compute_dtype in _OTHER_FLOATS and layer.quantization_mode is None
    ]
    try:
        for layer, _ in changed:
            layer._dtype_policy = _float32_over(layer.variable_dtype)
        yield
    finally:
        for layer, policy in changed:
            layer._dtype_policy = policy


def _float32_over(variable_dtype):
    """The policy that computes in float32 on variables of another dtype; Keras has no name for it.

    Set behind the back of the public setter, which writes into a policy that layers may share.
    """
    policy = keras.dtype_policies.DTypePolicy("float32")
    policy._variable_dtype = variable_dtype
    return policy


def _turned_into_integers(concrete, signature):
    """Inputs of guessed dtype that the graph reads only as integers: dict {name: dtype}."""
    found = {}
    for tensor, entry in zip(concrete.inputs, signature.inputs, strict=False):
        readers = tensor.consumers()
        targets = [reader.outputs[0].dtype for reader in readers if reader.type == "Cast"]
        is_float = entry.dtype.startswith("float")
        are_integers = targets and all(dtype.is_integer for dtype in targets)
        if entry.is_guessed and is_float and are_integers and len(targets) == len(readers):
            found[entry.name] = targets[0].name
    return found
