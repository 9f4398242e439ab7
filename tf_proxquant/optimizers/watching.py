"""Notices that others changed the weights between two updates, and does the same to what is kept.

`load_weights`, callbacks, another optimizer of the same kernel, layers such as
SpectralNormalization: a latent weight v that knew nothing of it would silently undo it at the next
step. So the weights are kept as the last update left them, and what has happened to them since
happens to v: a common factor of the variable, or else the difference, is v's, too. Where the new
weights point elsewhere, the old ones are gone, and what was remembered of them with them.
"""

import math

from keras import ops

from tf_proxquant.quantizers.groups import at_least_float32

# The sine of the angle between old and new weights from which on the memory begins anew, and the
# share of a change up to which what is no common factor counts as none.
CHANGE, SCALED = 0.1, 0.1


def has_changed(bundles, weights, left):
    """Returns a bool scalar: whether any weight is another one than the last update left.

    Args:
      bundles: list of `Bundle`s.
      weights, left: dicts from them to tensors.
    """
    return ops.any(ops.stack([ops.any(ops.not_equal(weights[b], left[b])) for b in bundles]))


def follow(bundle, latent, weights, left):
    """Returns the latent weights after what happened to the weights.

    Args:
      bundle: the `Bundle` of the three tensors.
      latent, weights, left: tensors; NaN in `left` says that nothing is known of that weight.

    Returns: tensor like `latent`; where the weights of a variable are those that were left, its
      latent weights bit for bit.
    """
    wide = at_least_float32(latent.dtype)
    new, remembered = ops.cast(weights, wide), ops.cast(latent, wide)
    old = ops.where(ops.isnan(left), new, ops.cast(left, wide))

    def norm(tensor):
        return bundle.total(tensor * tensor)

    length, product, now = norm(old), bundle.total(old * new), norm(new)
    factor = product / ops.where(length > 0, length, ops.ones_like(length))
    # Squares of very large weights are infinite, of very small ones zero: nothing is known then.
    factor = ops.where(ops.logical_and(factor > 0, factor < math.inf), factor, 1.0)
    moved, off = norm(new - old), norm(new - bundle.spread(factor) * old)
    is_gone = ops.logical_and(product <= 0, length + now > 0)
    is_gone = ops.logical_or(off > CHANGE**2 * now, is_gone)
    factor = bundle.spread(ops.where(off <= SCALED**2 * moved, factor, 1.0))
    followed = factor * remembered + (new - factor * old)
    followed = ops.cast(ops.where(bundle.spread(is_gone), new, followed), latent.dtype)
    is_touched = bundle.total(ops.cast(ops.not_equal(old, new), wide)) > 0
    return ops.where(bundle.spread(is_touched), followed, latent)
