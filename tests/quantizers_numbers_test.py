"""What rounding may not break: neighbouring floats, long sums."""

import unittest

import keras
import numpy as np
from keras import ops

from tf_proxquant.quantizers import Binary, groups


def compiled(function):
    """Under XLA, which adds the terms of a reduction into one accumulator."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


class NearestTest(unittest.TestCase):
    def test_levels_that_are_adjacent_floats_stay_where_they_are(self):
        # Half of the means of two neighbours round to the lower one.
        lower = np.random.default_rng(0).normal(size=200).astype("float32")
        for low in (*lower, np.finfo("float32").max):
            levels = np.sort(np.float32([low, np.nextafter(low, np.float32(-np.inf))]))
            found = ops.convert_to_numpy(Binary().nearest(levels, levels))
            np.testing.assert_array_equal(found, levels)

    def test_levels_in_another_dtype_do_not_change_that_of_the_weights(self):
        weights = ops.convert_to_tensor(np.float16([0.4, -0.1]))
        for levels in ([-0.5, 0.5], np.float32([-0.5, 0.5])):
            found = ops.convert_to_numpy(Binary().nearest(weights, levels))
            self.assertEqual((found.dtype, found.tolist()), (np.float16, [0.5, -0.5]))


class LongSumTest(unittest.TestCase):
    def test_no_weight_is_lost_where_parts_do_not_divide_evenly(self):
        for length in (groups.LONG - 1, groups.LONG, groups.LONG + groups.FOLDS - 1):
            rows = np.arange(2 * length).reshape(2, length) % 7 + 0.0
            tensor = ops.convert_to_tensor(rows, "float32")  # whole numbers below 2^24
            found = ops.convert_to_numpy(groups.row_sum(tensor))
            np.testing.assert_array_equal(found[:, 0], rows.sum(axis=1))
            found = ops.convert_to_numpy(groups.row_sum(tensor, lambda w: 2 * w + 1))
            np.testing.assert_array_equal(found[:, 0], (2 * rows + 1).sum(axis=1))

    def test_a_compiled_sum_of_millions_keeps_its_last_digits(self):
        rows = np.random.default_rng(1).random((1, 4_000_000), "float32")
        found = ops.convert_to_numpy(compiled(groups.row_sum)(ops.convert_to_tensor(rows)))[0, 0]
        exact = rows.sum(dtype="float64")
        self.assertLess(abs(found - exact) / exact, 2e-6)


if __name__ == "__main__":
    unittest.main()
