"""Notices that others changed the weights between two updates: `load_weights`, callbacks, the user.

A latent weight that belongs to weights that are gone would silently undo such a change. Of each
variable a few weights are kept, evenly spread, as the last update left them. Where all of them have
a common factor, as from SpectralNormalization, which scales its kernel in each call, the latent
weights get it too; where they have not, the memory begins anew. A change of a few weights of a
large variable is seen only if one of them is kept.
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


def compare(samples, kept):
    """Returns what others did to the weights since samples were kept.

    Args:
      samples, kept: float tensors of shape (rows, SIZE).

    Returns: (turned, factors), tensors of shape (rows,). True where the sine of the angle between
      the two exceeds CHANGE, where they point to opposite sides, and where one alone is zero; False
      where `kept` is NaN, which says that nothing is known. Elsewhere the common factor of the
      weights, float32 and exactly 1 for those that nobody touched.
    """

    def dot(a, b):
        return ops.sum(a * b, axis=-1, keepdims=True)

    length, product = dot(kept, kept), dot(samples, kept)
    factors = product / ops.where(length > 0, length, ops.ones_like(length))
    off = samples - factors * kept
    turned = dot(off, off) > CHANGE**2 * dot(samples, samples)
    turned = ops.logical_or(turned, ops.logical_and(length > 0, product <= 0))
    is_scaled = ops.logical_and(ops.any(samples != kept, axis=-1, keepdims=True), product > 0)
    factors = ops.where(is_scaled, factors, ops.ones_like(factors))
    return turned[:, 0], factors[:, 0]
