"""Notices that others changed the weights between two updates: `load_weights`, callbacks, the user.

A latent weight that belongs to weights that are gone would silently undo such a change. Of each
variable a few weights are kept, evenly spread, as the last update left them. A common factor is no
such change: layers such as SpectralNormalization scale their kernel in each call.
"""

import math

from keras import ops

# Weights kept of each variable, and the change of their direction that counts.
SIZE, CHANGE = 16, 0.01


def sample(weights):
    """Returns `SIZE` of the weights, a float32 tensor; zeros in the place of missing ones."""
    count = math.prod(weights.shape)
    stride = max(1, count // SIZE)
    taken = ops.cast(ops.reshape(weights, (-1,))[: stride * SIZE : stride], "float32")
    missing = SIZE - min(SIZE, count)
    return ops.pad(taken, [[0, missing]]) if missing else taken


def differ(samples, kept):
    """Returns which rows of `samples` have another direction than the kept ones.

    Args:
      samples, kept: float tensors of shape (rows, SIZE).

    Returns: bool tensor of shape (rows,): True where the sine of the angle between the two exceeds
      CHANGE, where they point to opposite sides, and where one alone is zero; False where `kept`
      is NaN, which says that nothing is known.
    """

    def dot(a, b):
        return ops.sum(a * b, axis=-1, keepdims=True)

    length = dot(kept, kept)
    scaled = kept * (dot(samples, kept) / ops.where(length > 0, length, 1.0))
    off = samples - scaled
    turned = dot(off, off) > CHANGE**2 * dot(samples, samples)
    opposite = ops.logical_and(length > 0, dot(samples, kept) <= 0)
    return ops.logical_or(turned, opposite)[:, 0]
