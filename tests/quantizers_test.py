"""Laws that every quantizer keeps."""

import unittest

import numpy as np

from tf_proxquant.quantizers import Binary, MultiBit, Ternary, Uniform

QUANTIZERS = [
    *(Binary(scale, axis) for scale in (None, "mean", 0.5) for axis in (None, -1, (2, 3))),
    *(Ternary(symmetric=s, axis=axis) for s in (False, True) for axis in (None, -1, 0)),
    *(MultiBit(bits, axis=axis) for bits in (1, 2, 3, 4) for axis in (None, -1)),
    *(Uniform(bits, axis) for bits in (2, 3, 4, 8) for axis in (None, -1)),
]


def kernel(seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_t(4, size=(3, 3, 4, 6)).astype(dtype)


def split_groups(weights, axis):
    """The weights of each group, one row per group, written independently."""
    if axis is None:
        return weights.reshape(1, -1)
    axes = [a % weights.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
    return np.moveaxis(weights, axes, range(len(axes))).reshape(
        np.prod([weights.shape[a] for a in axes]), -1
    )


class LawsTest(unittest.TestCase):
    def test_values_are_the_nearest_levels_bit_for_bit(self):
        weights = kernel()
        for quantizer in QUANTIZERS:
            with self.subTest(str(quantizer)):
                levels = np.array(quantizer.levels(weights)).reshape(
                    -1, quantizer.levels(weights).shape[-1]
                )
                rows = split_groups(weights, quantizer.axis)
                quantized = split_groups(np.array(quantizer(weights)), quantizer.axis)
                self.assertEqual(len(levels), len(rows))
                for row, values, grid in zip(rows, quantized, levels, strict=True):
                    self.assertTrue(np.all(np.diff(grid) >= 0))
                    self.assertTrue(set(values) <= set(grid))
                    best = np.abs(row[:, None] - grid).min(axis=1)
                    np.testing.assert_allclose(np.abs(row - values), best, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    unittest.main()
