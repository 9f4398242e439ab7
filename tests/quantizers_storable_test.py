"""What a file stores: codes of a signed byte times one float32 for each group."""

import unittest

import keras
import numpy as np

from tests.quantizers_cases import STORABLE, compiled, grids, kernel
from tf_proxquant.quantizers import MultiBit, Ternary, Uniform


class StorableTest(unittest.TestCase):
    def test_levels_are_codes_of_a_signed_byte_times_one_float32(self):
        for quantizer in STORABLE:
            for weights in self.weights():
                with self.subTest(repr(quantizer), dtype=weights.dtype):
                    for levels in grids(quantizer, weights):
                        stored = levels.astype("float32")
                        self.assertTrue(np.array_equal(stored, levels) or levels.dtype != "float32")
                        self.assertIsNotNone(find_codes(stored), stored)

    def test_no_code_lacks_its_opposite(self):
        self.assertEqual(Uniform(8).codes.tolist(), list(range(-127, 128)))
        self.assertEqual(Uniform(8, narrow_range=False).codes[0], -128)
        self.assertEqual(Uniform(2, mid_rise=True).codes.tolist(), [-3, -1, 1, 3])

    def test_the_papers_levels_are_on_no_such_grid(self):
        for quantizer in (
            Ternary(axis=-1, integer_ratios=False),
            MultiBit(2, axis=-1, integer_ratios=False),
            MultiBit(3, axis=-1, integer_ratios=False),
        ):
            found = [find_codes(row) for row in grids(quantizer, kernel())]
            self.assertIn(None, found)

    def test_a_product_is_the_same_in_float32_and_in_float64(self):
        for quantizer in (Ternary(axis=-1), MultiBit(4, axis=-1), Uniform(4, axis=-1)):
            for levels in grids(quantizer, kernel()):
                codes, scale = find_codes(levels)
                np.testing.assert_array_equal(np.float64(scale) * codes, levels)

    def test_a_compiled_graph_gives_such_levels_too(self):
        for quantizer in (Ternary(axis=-1), MultiBit(3), Uniform(4, axis=-1)):
            levels = np.array(compiled(quantizer.levels)(kernel()))
            for row in levels.reshape(-1, levels.shape[-1]):
                self.assertIsNotNone(find_codes(row), row)

    def test_old_configs_keep_their_levels(self):
        """Version 0.1 wrote every argument, and its defaults were the paper's levels."""
        ternary = {"threshold": 0.7, "symmetric": False, "optimal": False, "axis": -1,
                   "relative_to": "mean", "integer_ratios": False}  # fmt: skip
        multibit = {"rounds": 3, "optimal": False, "axis": -1, "integer_ratios": False}
        for quantizer_class, config, number in (
            (Ternary, ternary, 3),
            (MultiBit, {"bits": 2, **multibit}, 4),
            (Uniform, {"bits": 3, "axis": -1, "narrow_range": False, "mid_rise": False}, 8),
            (Uniform, {"bits": 2, "axis": -1, "narrow_range": False, "mid_rise": True}, 4),
        ):
            quantizer = quantizer_class.from_config(config)
            self.assertEqual(quantizer.get_config(), config)
            self.assertEqual(quantizer.levels(kernel()).shape[-1], number)

    def weights(self):
        yield kernel()
        yield kernel(1) * np.float32(1e-12)
        yield np.random.default_rng(2).laplace(size=(7, 3)).astype("float32")
        if keras.backend.backend() != "jax":  # which has no float64 unless asked
            yield kernel(3, "float64")


def find_codes(levels):
    """Codes up to 127 and a float32 scale whose rounded products are `levels`, or None.

    By trying every code for the largest level, and the floats around each quotient.
    """
    levels = levels.astype("float32")
    top = np.abs(levels).max()
    for largest in range(1, 128):
        scale = np.float32(top / np.float32(largest))
        codes = np.rint(levels.astype("float64") / np.float64(scale) if scale else levels)
        for _ in range(3):
            scale = np.nextafter(scale, np.float32(0))
        for _ in range(7):
            if np.array_equal(codes.astype("float32") * scale, levels):
                return codes, scale
            scale = np.nextafter(scale, np.float32(np.inf))
    return None


if __name__ == "__main__":
    unittest.main()
