"""Laws that hypothesis tries to break: quantizers, prox, packing and selection."""

import re
import unittest

import keras
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import ops

from tf_proxquant import packing, prox, selection
from tf_proxquant.quantizers import Binary, MultiBit, Ternary, Uniform

# Shapes are few, so that op caches are. Of tiny values none whose levels the CPU flushes to zero.
SHAPES = ((1,), (7,), (2, 3), (4, 1, 5))
VALUES = st.floats(-100, 100, width=32).map(lambda x: np.float32(x if abs(x) > 1e-30 else 0))
WEIGHTS = st.sampled_from(SHAPES).flatmap(
    lambda shape: arrays.arrays("float32", shape, elements=VALUES)
)
LEVELS = st.lists(
    st.integers(-50, 50).map(lambda k: k / 8), min_size=2, max_size=5, unique=True
).map(lambda levels: np.array(sorted(levels), "float32"))
TAUS = st.floats(0, 4, width=32)
QUANTIZERS = st.sampled_from(
    [
        Binary(),
        Binary("mean", axis=-1),
        Ternary(),
        Ternary(symmetric=True, axis=0),
        Ternary(optimal=True),
        MultiBit(2),
        MultiBit(2, optimal=True, axis=-1),
        Uniform(2),
        Uniform(4, axis=0),
    ]
)
# JAX compiles each operation for each shape, outside graphs too.
few = settings(
    max_examples=60 if keras.backend.backend() == "tensorflow" else 15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def level_of_each(quantizer, weights):
    """Levels as an array that broadcasts against the weights, levels last."""
    levels = quantizer.levels(weights)
    return numpy(quantizer.spread_levels(ops.convert_to_tensor(weights), levels))


class QuantizerProperties(unittest.TestCase):
    @few
    @given(QUANTIZERS, WEIGHTS)
    def test_each_value_is_a_level_and_no_level_is_nearer(self, quantizer, weights):
        levels = level_of_each(quantizer, weights)
        quantized = numpy(quantizer(weights))
        self.assertEqual((quantized.shape, quantized.dtype), (weights.shape, weights.dtype))
        distances = np.abs(weights[..., None].astype("float64") - levels)
        found = np.abs(weights.astype("float64") - quantized)
        self.assertTrue(np.all(np.any(quantized[..., None] == levels, axis=-1)))
        # A tie between neighbouring floats may be decided after rounding.
        tolerance = 1e-6 * np.max(np.abs(levels), initial=1e-30)
        self.assertTrue(np.all(found <= distances.min(axis=-1) + tolerance))

    @few
    @given(QUANTIZERS, WEIGHTS)
    def test_levels_are_finite_ascending_and_fit_no_worse_than_all_weights_at_zero(
        self, quantizer, weights
    ):
        levels = numpy(quantizer.levels(weights))
        self.assertTrue(np.isfinite(levels).all())
        self.assertTrue(np.all(np.diff(levels, axis=-1) >= 0))
        if quantizer.fixed_level is None:
            error = np.sum((weights.astype("float64") - numpy(quantizer(weights))) ** 2)
            self.assertLessEqual(error, np.sum(weights.astype("float64") ** 2) * (1 + 1e-5) + 1e-30)

    @few
    @given(QUANTIZERS, WEIGHTS, st.integers(-8, 8))
    def test_fitted_levels_scale_with_the_weights_by_powers_of_two(self, quantizer, weights, power):
        factor = np.float32(2.0**power)
        if quantizer.fixed_level is None:
            expected = numpy(quantizer.levels(weights)) * factor
            found = numpy(quantizer.levels(weights * factor))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-30)


class ProxProperties(unittest.TestCase):
    @few
    @given(WEIGHTS, LEVELS, TAUS)
    def test_no_prox_leaves_the_stretch_between_weight_and_level(self, weights, levels, tau):
        upper = levels[1:][np.newaxis] * 0.5 + levels[:-1][np.newaxis] * 0.5
        index = np.sum(weights[..., None] >= upper, axis=-1)
        quantized = levels[index]
        low, high = np.minimum(weights, quantized), np.maximum(weights, quantized)
        slack = 1e-5 * np.maximum(np.abs(low), np.abs(high))
        for moved in (
            prox.prox_l1(weights, quantized, tau),
            prox.prox_l2(weights, quantized, tau),
            prox.prox_concave(weights, levels, tau),
        ):
            moved = numpy(moved)
            self.assertTrue(np.all((moved >= low - slack) & (moved <= high + slack)))

    @few
    @given(WEIGHTS, LEVELS)
    def test_tau_zero_returns_the_weights_bit_for_bit(self, weights, levels):
        quantized = levels[np.zeros(weights.shape, int)]
        for moved in (
            prox.prox_l1(weights, quantized, 0.0),
            prox.prox_l2(weights, quantized, 0.0),
            prox.prox_concave(weights, levels, 0.0),
            prox.prox_piecewise_affine(weights, levels, 1.0),
        ):
            self.assertEqual(numpy(moved).tobytes(), weights.tobytes())

    @few
    @given(WEIGHTS, LEVELS, st.tuples(TAUS, TAUS).map(sorted))
    def test_a_larger_tau_leads_nearer_to_the_level(self, weights, levels, taus):
        quantized = levels[np.argmin(np.abs(weights[..., None] - levels), axis=-1)]
        for apply_prox in (prox.prox_l1, prox.prox_l2):
            less, more = (
                np.abs(numpy(apply_prox(weights, quantized, tau)) - quantized) for tau in taus
            )
            self.assertTrue(np.all(more <= less + 1e-5 * np.abs(weights)))


class PackingProperties(unittest.TestCase):
    @few
    @given(st.data(), st.integers(1, 8), st.booleans())
    def test_codes_come_back(self, data, bits, signed):
        low, high = packing.code_range(bits, signed)
        codes = data.draw(st.lists(st.integers(low, high), max_size=40))
        packed = packing.pack_codes(np.array(codes, np.int64), bits, signed=signed)
        back = packing.unpack_codes(packed.tobytes(), bits, len(codes), signed=signed)
        self.assertEqual(back.tolist(), codes)

    @few
    @given(st.data(), st.integers(2, 256))
    def test_digits_come_back(self, data, base):
        digits = data.draw(st.lists(st.integers(0, base - 1), max_size=40))
        packed = packing.pack_digits(np.array(digits, np.int64), base)
        self.assertEqual(packing.unpack_digits(packed, base, len(digits)).tolist(), digits)

    @few
    @given(st.binary(max_size=30), st.integers(2, 256), st.integers(0, 60))
    def test_any_bytes_are_digits_that_pack_to_them_or_are_refused(self, content, base, count):
        try:
            digits = packing.unpack_digits(content, base, count)
        except ValueError:
            return
        self.assertLess(int(digits.max(initial=0)), base)
        again = packing.unpack_digits(packing.pack_digits(digits, base), base, count)
        np.testing.assert_array_equal(again, digits)


NAMES = st.lists(
    st.sampled_from(["kernel", "bias", "gamma", "embeddings", "a", "b.c", "d+", "kernel_2"]),
    min_size=1,
    max_size=3,
).map("/".join)


class _Named:
    """A variable as far as selection looks at it."""

    dtype, shape = "float32", (2,)

    def __init__(self, path):
        self.path, self.name = path, path.rsplit("/", 1)[-1]


class SelectionProperties(unittest.TestCase):
    @few
    @given(st.lists(NAMES, min_size=1, max_size=6, unique=True), st.data())
    def test_escaped_paths_select_exactly_their_variables_in_order(self, paths, data):
        variables = [_Named(path) for path in paths]
        chosen = data.draw(st.lists(st.sampled_from(paths), min_size=1, unique=True))
        patterns = [f"^{re.escape(path)}$" for path in chosen]
        pairs = selection.resolve(patterns, Binary(), variables)
        self.assertEqual([v.path for v, _ in pairs], [p for p in paths if p in chosen])

    @few
    @given(st.lists(NAMES, min_size=1, max_size=6, unique=True), st.data())
    def test_a_dict_gives_each_variable_one_quantizer_or_is_refused(self, paths, data):
        variables = [_Named(path) for path in paths]
        quantizers = st.sampled_from([Binary(), Ternary(), None])
        patterns = data.draw(
            st.dictionaries(st.sampled_from(["a", "kernel", "^b", "gamma$"]), quantizers)
        )
        try:
            pairs = selection.resolve(patterns, Binary(), variables)
        except ValueError as error:
            self.assertRegex(str(error), "Nothing to quantize|Make the patterns disjoint")
            return
        for variable, quantizer in pairs:
            matching = [q for p, q in patterns.items() if re.search(p, variable.path)]
            self.assertTrue(all(q is quantizer for q in matching))
            self.assertTrue(matching or selection.is_kernel(variable))


if __name__ == "__main__":
    unittest.main()
