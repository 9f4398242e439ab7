"""Operators traced in another form that computes the same, and that LiteRT's converter knows.

TensorFlow's and Keras' functions are replaced while a model is traced, and put back.
"""

import contextlib

FACTOR = "for_each_feature"  # in the names of vectors that the converter must not fold


@contextlib.contextmanager
def used():
    """Context in which they are used."""
    import tensorflow as tf
    from keras.src.backend.tensorflow import numpy as keras_numpy

    with (
        _replaced(tf.Tensor, "__getitem__", _new_axes_by_expand_dims),
        _replaced(tf.nn, "bias_add", _bias_by_add),
        _replaced(keras_numpy, "signbit", _sign_of_bits),
        _replaced(keras_numpy, "matmul", _factors_apart),
        _replaced(keras_numpy, "einsum", _factors_of_einsum_apart),
    ):
        yield


@contextlib.contextmanager
def _replaced(holder, name, make):
    """Context in which `holder.name` is what `make` makes of it; nothing if there is none."""
    original = getattr(holder, name, None)
    if original is None:
        yield
        return
    setattr(holder, name, make(original))
    try:
        yield
    finally:
        setattr(holder, name, original)


def _new_axes_by_expand_dims(original):
    """`tensor[:, None]` as a slice and EXPAND_DIMS.

    The converter knows a STRIDED_SLICE with new axes only where at most one dimension is open, and
    attention masks, as in Llama and Gemma, have two.
    """
    import tensorflow as tf

    def getitem(tensor, key, *args, **kwargs):
        entries = key if isinstance(key, tuple) else (key,)
        has_new_axis = any(entry is None for entry in entries)
        if not has_new_axis or tensor.shape.rank is None:
            return original(tensor, key, *args, **kwargs)
        kept = tuple(entry for entry in entries if entry is not None)
        value = original(tensor, kept, *args, **kwargs) if kept else tensor
        for axis in _new_axes(entries, tensor.shape.rank):
            value = tf.expand_dims(value, axis)
        return value

    return getitem


def _new_axes(entries, rank):
    """Places of the new axes in the result of a slice of a tensor of this rank."""
    num_given = sum(entry is not None and entry is not Ellipsis for entry in entries)
    place = 0
    for entry in entries:
        if entry is None:
            yield place
        if entry is None or isinstance(entry, slice):
            place += 1
        elif entry is Ellipsis:
            place += rank - num_given


def _bias_by_add(original):
    """ADD for a bias of integers, or along another axis than the last, as `keras.ops.add` asks."""
    import tensorflow as tf

    def bias_add(value, bias, data_format=None, name=None):
        value, bias = tf.convert_to_tensor(value), tf.convert_to_tensor(bias)
        is_first = data_format is not None and data_format.startswith("NC")
        if not (value.dtype.is_integer or is_first):
            return original(value, bias, data_format, name)
        if is_first:
            bias = tf.reshape(bias, [-1] + [1] * (value.shape.rank - 2))
        return tf.add(value, bias, name)

    return bias_add


def _sign_of_bits(original):
    """The sign of the bits of a float as an integer, for `keras.ops.argmax`: BITCAST and LESS."""
    import tensorflow as tf

    def signbit(x):
        x = tf.convert_to_tensor(x)
        return tf.less(tf.bitcast(x, tf.int32), 0) if x.dtype == tf.float32 else original(x)

    return signbit


def _factors_apart(original):
    """A product of matrices behind a factor for each feature, as that of a BatchNorm in front.

    The converter multiplies the matrix by such a factor where another is folded behind it, and then
    its columns have no levels. It leaves factors of shape (1, features) alone, and `narrow` makes
    vectors of them again.
    """

    def matmul(x1, x2):
        return original(_with_wide_vectors(x1), x2)

    return matmul


def _factors_of_einsum_apart(original):
    """The same for `keras.ops.einsum`, as EinsumDense and attention layers compute."""

    def einsum(subscripts, *operands, **kwargs):
        return original(subscripts, *map(_with_wide_vectors, operands), **kwargs)

    return einsum


def _with_wide_vectors(tensor):
    """The last products with and sums of vectors that make a tensor, again with (1, features)."""
    import tensorflow as tf

    kind = tensor.op.type if isinstance(tensor, tf.Tensor) and hasattr(tensor, "op") else ""
    make = {"Mul": tf.multiply, "AddV2": tf.add, "Sub": tf.subtract}.get(kind)
    if make is None or tensor.shape.rank is None or tensor.shape.rank < 2:
        return tensor
    operands = [
        tf.expand_dims(x, 0, name=FACTOR) if x.shape.rank == 1 else _with_wide_vectors(x)
        for x in tensor.op.inputs
    ]
    return make(*operands) if any(x.shape.rank == 1 for x in tensor.op.inputs) else tensor


def narrow(graph):
    """Gives the vectors that were widened for the converter their shape again.

    Args:
      graph: `schema.SubGraphT` of the converted file, which is changed.
    """
    for tensor in graph.tensors:
        if FACTOR.encode() in tensor.name and len(tensor.shape) == 2 and tensor.shape[0] == 1:
            tensor.shape = tensor.shape[1:]
            tensor.shapeSignature = None
