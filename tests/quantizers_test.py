"""Laws that every quantizer keeps."""

import unittest

import keras
import numpy as np
from keras import ops

from tests.quantizers_cases import GRAPHS, QUANTIZERS, compiled, grids, kernel
from tf_proxquant.quantizers import Binary, MultiBit, Quantizer, Ternary, Uniform


def is_fitted(quantizer):
    """Whether the levels depend on the weights."""
    return not isinstance(quantizer, Binary) or quantizer.scale in ("mean", "median")


FITTED = [quantizer for quantizer in QUANTIZERS if is_fitted(quantizer)]


def split_groups(weights, axis):
    """The weights of each group, one row per group, written independently."""
    if axis is None:
        return weights.reshape(1, -1)
    axes = [a % weights.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
    num_groups = np.prod([weights.shape[a] for a in axes])
    return np.moveaxis(weights, axes, range(len(axes))).reshape(num_groups, -1)


def graph(function):
    """The function as a graph, without XLA where the backend can."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    return compiled(function)


class LawsTest(unittest.TestCase):
    def test_list_holds_every_public_quantizer(self):
        from tf_proxquant import quantizers

        public = {getattr(quantizers, name) for name in quantizers.__all__} - {Quantizer}
        self.assertEqual(public, {type(quantizer) for quantizer in QUANTIZERS})

    def test_values_are_the_nearest_levels_bit_for_bit(self):
        weights = kernel()
        for quantizer in QUANTIZERS:
            with self.subTest(repr(quantizer)):
                rows = split_groups(weights, quantizer.axis)
                quantized = split_groups(np.array(quantizer(weights)), quantizer.axis)
                levels = grids(quantizer, weights)
                self.assertEqual(len(levels), len(rows))
                for row, values, grid in zip(rows, quantized, levels, strict=True):
                    self.assertTrue(np.all(np.diff(grid) >= 0))
                    self.assertTrue(set(values) <= set(grid))
                    best = np.abs(row[:, None] - grid).min(axis=1)
                    np.testing.assert_allclose(np.abs(row - values), best, rtol=1e-5, atol=1e-6)

    def test_levels_are_fixed_points_and_midpoints_go_up(self):
        for quantizer in QUANTIZERS:
            with self.subTest(repr(quantizer)):
                weights = kernel()
                levels = quantizer.levels(weights)
                grid = np.array(levels).reshape(-1, levels.shape[-1])[0]
                if quantizer.axis is not None:
                    levels = ops.repeat(levels[:1], levels.shape[0], axis=0)
                for k in range(len(grid)):
                    at_level = np.array(quantizer.nearest(np.full_like(weights, grid[k]), levels))
                    self.assertTrue(np.all(at_level == grid[k]))
        for quantizer, codes in (
            (Binary(), (-1, 1)),
            (Ternary(), (-2, 0, 1)),
            (MultiBit(2), (-3, -1, 1, 3)),
            (Uniform(2), (-1, 0, 1)),
            (Uniform(2, narrow_range=False), (-2, -1, 0, 1)),
            (Uniform(2, mid_rise=True), (-3, -1, 1, 3)),
        ):
            grid = np.array(codes, "float32")
            middle = (grid[1:] + grid[:-1]) / 2
            np.testing.assert_array_equal(quantizer.nearest(middle, grid), grid[1:])

    def test_applied_twice_gives_the_same_grid(self):
        for quantizer in QUANTIZERS:
            with self.subTest(repr(quantizer)):
                once = np.array(quantizer(kernel()))
                np.testing.assert_allclose(quantizer(once), once, rtol=1e-5, atol=1e-6)

    def test_shape_and_dtype_are_kept(self):
        for quantizer in QUANTIZERS:
            with self.subTest(repr(quantizer)):
                for dtype in ("float16", "bfloat16", "float32"):
                    weights = ops.cast(kernel(), dtype)
                    levels = quantizer.levels(weights)
                    quantized = quantizer.nearest(weights, levels)
                    self.assertEqual(tuple(quantized.shape), (3, 3, 4, 6))
                    self.assertEqual(keras.backend.standardize_dtype(quantized.dtype), dtype)
                    self.assertEqual(keras.backend.standardize_dtype(levels.dtype), dtype)
                    values = np.array(ops.cast(quantized, "float32"))
                    allowed = np.array(ops.cast(levels, "float32"))
                    self.assertTrue(set(values.ravel()) <= set(allowed.ravel()))

    def test_half_precision_sums_do_not_overflow_or_stall(self):
        weights = ops.cast(np.full((64, 64), 100.0), "float16")
        level = np.array(Binary("mean").levels(weights))[1]
        self.assertEqual(float(level), 100.0)

    def test_empty_single_constant_and_zero_tensors(self):
        for quantizer in QUANTIZERS:
            with self.subTest(repr(quantizer)):
                rank_4 = quantizer.axis is not None
                for weights in (
                    np.zeros((3, 3, 0, 6) if rank_4 else (0,)),
                    np.full((1, 1, 1, 1) if rank_4 else (), -0.3),
                    np.full((2, 2, 2, 2), 0.3),
                    np.zeros((2, 2, 2, 2)),
                ):
                    weights = weights.astype("float32")
                    levels = np.array(quantizer.levels(weights))
                    self.assertTrue(np.all(np.isfinite(levels)))
                    quantized = np.array(quantizer(weights))
                    self.assertEqual(quantized.shape, weights.shape)
                    if is_fitted(quantizer) and weights.min(initial=0) >= 0:
                        np.testing.assert_allclose(quantized, weights, rtol=2e-6)

    def test_levels_scale_with_the_weights(self):
        weights = kernel()
        for quantizer in FITTED:
            with self.subTest(repr(quantizer)):
                levels = np.array(quantizer.levels(weights))
                for factor in (1e-8, 1e-20, 1e15):
                    scaled = np.array(quantizer.levels(weights * np.float32(factor)))
                    np.testing.assert_allclose(
                        scaled / np.float32(factor), levels, rtol=1e-4, atol=1e-5
                    )

    def test_config_round_trip(self):
        for quantizer in QUANTIZERS:
            with self.subTest(repr(quantizer)):
                saved = keras.saving.serialize_keras_object(quantizer)
                self.assertEqual(
                    saved["registered_name"], f"tf_proxquant>{type(quantizer).__name__}"
                )
                restored = keras.saving.deserialize_keras_object(saved)
                self.assertEqual(restored.get_config(), quantizer.get_config())
                np.testing.assert_array_equal(restored(kernel()), quantizer(kernel()))

    def test_spread_levels_broadcasts_against_the_weights(self):
        weights = kernel()
        for quantizer in QUANTIZERS:
            with self.subTest(repr(quantizer)):
                levels = quantizer.levels(weights)
                spread = np.array(quantizer.spread_levels(weights, levels))
                distance = np.abs(weights[..., None] - spread)
                best = np.take_along_axis(
                    np.broadcast_to(spread, distance.shape), distance.argmin(-1)[..., None], -1
                )
                np.testing.assert_allclose(quantizer(weights), best[..., 0], atol=1e-6)


class GraphTest(unittest.TestCase):
    """Each graph is traced once and sees clean weights, then weights with a NaN."""

    def test_graphs_agree_with_eager_and_keep_nan_in_its_channel(self):
        for quantizer in GRAPHS:
            with self.subTest(repr(quantizer)):
                self.check(quantizer, graph(lambda w, q=quantizer: (q.levels(w), q(w))))

    def test_xla_agrees_with_eager_and_keeps_nan_in_its_channel(self):
        for quantizer in (Binary(), Ternary(optimal=True, axis=-1), MultiBit(2), Uniform(3)):
            with self.subTest(repr(quantizer)):
                self.check(quantizer, compiled(lambda w, q=quantizer: (q.levels(w), q(w))))

    def check(self, quantizer, function):
        clean, spoilt = kernel(), kernel()
        spoilt[0, 1, 2, 4] = np.nan
        levels, quantized = (np.array(output) for output in function(clean))
        np.testing.assert_allclose(levels, quantizer.levels(clean), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(quantized, quantizer.nearest(clean, levels), rtol=1e-6)
        self.assertTrue(set(quantized.ravel()) <= set(levels.ravel()))
        _, damaged = (np.array(output) for output in function(spoilt))
        self.assertTrue(np.isnan(damaged[0, 1, 2, 4]))
        if quantizer.axis == -1:
            others = [0, 1, 2, 3, 5]
            np.testing.assert_allclose(damaged[..., others], quantized[..., others], rtol=1e-5)
        if is_fitted(quantizer):
            rows = split_groups(damaged, quantizer.axis)
            self.assertTrue(all(np.isnan(row).all() or np.isfinite(row).all() for row in rows))


class OutsideAGraphTest(unittest.TestCase):
    def test_a_quantizer_that_was_changed_fits_by_its_new_values(self):
        quantizer, weights = Ternary(0.7, axis=-1), kernel()
        before = ops.convert_to_numpy(quantizer(weights))
        quantizer.threshold = 1.4
        found = ops.convert_to_numpy(quantizer(weights))
        self.assertGreater(np.sum(found == 0), np.sum(before == 0))
        np.testing.assert_array_equal(found, ops.convert_to_numpy(Ternary(1.4, axis=-1)(weights)))

    def test_one_of_ones_own_may_need_values(self):
        class Middle(Quantizer):
            def fit(self, rows):
                middle = np.median(ops.convert_to_numpy(rows), axis=1)
                return ops.convert_to_tensor(np.stack([middle - 1, middle + 1], axis=1))

        found = ops.convert_to_numpy(Middle()(np.float32([1, 4, 6])))
        np.testing.assert_array_equal(found, [3, 5, 5])


class BadInputTest(unittest.TestCase):
    def test_nan_or_inf_is_reported_by_channel(self):
        for bad in (np.nan, np.inf, -np.inf):
            weights = kernel()
            weights[0, 0, 0, 4] = bad
            for quantizer in QUANTIZERS:
                with self.subTest(repr(quantizer)):
                    pattern = r"1 of 6 groups: \[4\]" if quantizer.axis == -1 else "Received: NaN"
                    with self.assertRaisesRegex(ValueError, pattern):
                        quantizer(weights)

    def test_integer_and_complex_weights_are_refused(self):
        for weights in (np.arange(4), np.array([1j, 2]), np.array([True, False])):
            for quantizer in (Binary(), Ternary(), MultiBit(2), Uniform(2)):
                with self.assertRaisesRegex(ValueError, "floating-point.*Received: dtype="):
                    quantizer(weights)

    def test_sorting_fits_refuse_shapes_that_a_graph_leaves_open(self):
        if keras.backend.backend() != "tensorflow":
            self.skipTest("only TensorFlow has open shapes")
        import tensorflow as tf

        signature = [tf.TensorSpec([None, 4])]
        for quantizer in (Binary("mean"), Ternary(), MultiBit(3), Uniform(2)):
            quantized = tf.function(quantizer.__call__, input_signature=signature)(np.ones((3, 4)))
            np.testing.assert_allclose(quantized, np.ones((3, 4)), rtol=1e-6)
        for quantizer in (Binary("median"), Ternary(optimal=True), MultiBit(2, optimal=True)):
            with self.assertRaisesRegex(ValueError, "known shape"):
                tf.function(quantizer.__call__, input_signature=signature)(np.ones((3, 4)))

    def test_axis_out_of_range_or_named_twice(self):
        for axis in (4, -5, (0, 4)):
            with self.assertRaisesRegex(ValueError, "rank 4 has axes -4 to 3. Received"):
                Ternary(axis=axis)(kernel())
        with self.assertRaisesRegex(ValueError, "twice"):
            Ternary(axis=(3, -1))(kernel())
        for axis in (1.0, "last", (), (0, 0), True, (0, None)):
            with self.assertRaisesRegex(ValueError, "`axis` must be"):
                Binary(axis=axis)

    def test_constructors_name_what_they_refuse(self):
        for make, pattern in (
            (lambda: Binary("max"), "`scale`.*Received: scale='max'"),
            (lambda: Binary(0.0), "`scale`"),
            (lambda: Binary(float("inf")), "`scale`"),
            (lambda: Ternary(-0.1), "`threshold`.*Received: threshold=-0.1"),
            (lambda: Ternary(float("nan")), "`threshold`"),
            (lambda: Ternary(symmetric=1), "`symmetric`"),
            (lambda: Ternary(relative_to="min"), "`relative_to`.*Received: relative_to='min'"),
            (lambda: Ternary(1.5, relative_to="max"), "at most 1.*Received: threshold=1.5"),
            (lambda: MultiBit(0), "from 1 to 4. Received: bits=0"),
            (lambda: MultiBit(5), "from 1 to 4"),
            (lambda: MultiBit(2.0), "`bits`"),
            (lambda: MultiBit(2, rounds=0), "`rounds`"),
            (lambda: Uniform(1), "from 2 to 8"),
            (lambda: Uniform(9), "from 2 to 8"),
            (lambda: Uniform(8, mid_rise=True), "from 1 to 7"),
            (lambda: Uniform(4, narrow_range=True, mid_rise=True), "at most one"),
        ):
            with self.assertRaisesRegex(ValueError, pattern):
                make()


if __name__ == "__main__":
    unittest.main()
