"""Keras networks that train faster on a CPU: fused batch normalization, bfloat16, oneDNN.

Keras normalizes a batch by its moments, in some ten passes over the activations; TensorFlow has one
operator for it, which is half the time of a ResNet-20 on a CPU. Where the processor multiplies
bfloat16, a training step takes .42 of that of plain Keras in float32 with AMX, and .65 of that of
the same network in float32 with AVX-512 BF16 and oneDNN; where it does not, bfloat16 takes seven
times as long, so `fast_dtype` looks. TensorFlow uses the oneDNN library by
itself only on some processors of Intel; on an EPYC, TF_ENABLE_ONEDNN_OPTS=1 takes .69 of the time
of plain Keras, and .45 with the fused normalization; but see docs/performance.md on a single core.
"""

import pathlib

import keras
import tensorflow as tf


def fast_dtype() -> str:
    """Returns the policy in which this processor trains fastest."""
    path = pathlib.Path("/proc/cpuinfo")
    flags = path.read_text().split() if path.exists() else []
    return "mixed_bfloat16" if {"amx_bf16", "avx512_bf16"}.intersection(flags) else "float32"


@keras.saving.register_keras_serializable("benchmarks")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`BatchNormalization` over the last of four axes, in one operator while it trains."""

    def call(self, inputs, training=None, mask=None):
        if not training:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, _float32(self.gamma), _float32(self.beta), epsilon=self.epsilon
        )
        size = tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], "float32")
        # The operator gives the variance over n - 1, Keras keeps the one over n.
        new = ((self.moving_mean, mean), (self.moving_variance, variance * (size - 1) / size))
        for moving, value in new:
            moving.assign(self.momentum * _float32(moving) + (1 - self.momentum) * value)
        return outputs


def _float32(variable):
    return tf.convert_to_tensor(variable.value)


def fused(model: keras.Model, dtype: str | None = None) -> keras.Model:
    """Returns a copy of a functional model to train, with the same weights in the same order.

    Its layers compute in `dtype` (the fastest here unless given), but those that normalize pixels
    and the dense ones in float32.
    """
    dtype = dtype or fast_dtype()

    def copy(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.InputLayer):
            return type(layer).from_config(config)
        exact = isinstance(layer, (keras.layers.Normalization, keras.layers.Dense))
        kind = type(layer)
        if kind is keras.layers.BatchNormalization:
            kind = FusedBatchNormalization
        return kind.from_config({**config, "dtype": "float32" if exact else dtype})

    copied = keras.models.clone_model(model, clone_function=copy)
    copied.set_weights(model.get_weights())
    return copied
