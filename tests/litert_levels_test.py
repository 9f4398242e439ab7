"""Levels and integer grids read from weights, of tensors larger than what is looked at at once."""

import tracemalloc
import unittest

import numpy as np

from tf_proxquant.litert.read import levels

RANDOM = np.random.default_rng(0)


def naive_levels(weights, axis):
    rows = levels.to_rows(weights, axis)
    return [np.unique(row + np.float32(0)) for row in rows]


class LevelsTest(unittest.TestCase):
    def test_read_levels_finds_every_distinct_value(self):
        grid = np.linspace(-1, 1, 7, dtype="float32")
        for shape, axis in (((3, 40000), 0), ((40000, 3), 1), ((70, 1000), None)):
            weights = RANDOM.choice(grid[:5], shape).astype("float32")
            weights.flat[-1] = grid[6]  # one channel has a level more, at its very end
            weights.flat[0] = -0.0
            with self.subTest(shape=shape, axis=axis):
                found = levels.read_levels(weights, axis)
                for row, count, expected in zip(
                    found.values, found.counts, naive_levels(weights, axis), strict=True
                ):
                    np.testing.assert_array_equal(row[:count], expected)
                    self.assertTrue((row[count - 1 :] == expected[-1]).all())

    def test_too_many_levels_after_the_first_part(self):
        weights = np.zeros((2, 20000), "float32")
        self.assertIsNotNone(levels.read_levels(weights, 0, 255))
        weights[1, -256:] = np.arange(256)
        self.assertIsNone(levels.read_levels(weights, 0, 255))
        self.assertEqual(levels.read_levels(weights, 0, 256).num_levels, 256)

    def test_integer_grid_of_many_channels(self):
        codes = np.sort(RANDOM.permuted(np.tile(np.arange(-7, 8), (30000, 1)), axis=1)[:, :5])
        codes[:, 0] = 1  # so that the smallest codes are these
        codes.sort(axis=1)
        scales = RANDOM.uniform(0.5, 1, 30000).astype("float32")
        values = scales[:, None] * codes.astype("float32")
        self.assertGreater(values.size, 2 * levels.BLOCK)
        found_scales, found_codes = levels.integer_grid(values, 7)
        np.testing.assert_array_equal(found_codes, codes)
        np.testing.assert_array_equal(found_scales[:, None] * found_codes.astype("float32"), values)
        values[-1, -1] *= 1.01
        self.assertIsNone(levels.integer_grid(values, 7))

    def test_each_channel_gets_the_float32_scale_that_gives_its_values_back(self):
        # One channel is on no grid, and harms no other.
        codes = np.tile(np.float32([-127, -101, 1, 37, 64]), (4000, 1))
        scales = RANDOM.uniform(0.5, 1, (4000, 1)).astype("float32")
        values = scales * codes
        values[7, 2] *= np.float32(1.001)
        found, fits = levels._fit_scale(values, codes, 0)
        self.assertEqual(np.flatnonzero(~fits).tolist(), [7])
        np.testing.assert_array_equal((found[:, None] * codes)[fits], values[fits])

    def test_two_values_with_one_code_are_noise_and_no_blurred_grid(self):
        # Without 0: its neighbour is a denormal number, which no grid with it has a code for.
        weights = np.float32(0.3) * np.random.default_rng(0).choice([-3, -1, 1, 3], 400)
        weights = weights.astype("float32")
        noisy = np.where(np.arange(400) % 2, weights, np.nextafter(weights, np.float32(9)))
        self.assertIsNotNone(levels.undo_blur(weights, None, 2))
        self.assertIsNone(levels.undo_blur(noisy, None, 2))

    def test_a_blurred_grid_comes_back_with_its_own_small_codes(self):
        """Rounded products of +-1 .. +-3 are often exact with codes many times as large."""
        scales, factors = RANDOM.uniform(0.5, 1.5, (2, 4000, 1)).astype("float32")
        whole = np.float32([[-3, -2, -1, 0, 1, 2, 3]])
        blurred = factors * (scales * whole)
        self.assertIsNone(levels.integer_grid(blurred, 3))
        restored = levels.undo_blur(blurred, 0, 2)
        np.testing.assert_array_equal(
            levels.integer_grid(restored, 3)[1], np.tile(whole, (4000, 1))
        )
        np.testing.assert_array_max_ulp(restored, blurred, 2)

    def test_a_large_tensor_on_no_grid_is_given_up_early(self):
        """A table with 60 values per row, all distinct, of which no row is on a grid."""
        values = np.sort(RANDOM.uniform(1, 1.2, (100_000, 60)).astype("float32"), axis=1)
        tracemalloc.start()
        self.assertIsNone(levels.integer_grid(values, 127))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.assertLess(peak, values.nbytes)  # all at once takes ten copies


if __name__ == "__main__":
    unittest.main()
