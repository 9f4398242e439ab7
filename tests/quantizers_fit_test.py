"""How good the fitted levels are: against brute force, restarts and simpler rules."""

import doctest
import importlib
import itertools
import unittest

import numpy as np

from tf_proxquant.quantizers import Binary, MultiBit, Ternary, Uniform

DISTRIBUTIONS = {
    "normal": lambda random, n: random.normal(size=n),
    "laplace": lambda random, n: random.laplace(size=n),
    "student": lambda random, n: random.standard_t(3, size=n),
    "skewed": lambda random, n: random.gamma(2.0, size=n) - 1,
    "sparse": lambda random, n: np.where(random.random(n) < 0.9, 0, random.normal(size=n)),
}


def free(quantizer):
    """The quantizer with the paper's levels, without the snap to whole ratios."""
    return type(quantizer)(**{**quantizer.get_config(), "integer_ratios": False})


def squared_error(quantizer, weights):
    return np.sum((np.array(quantizer(weights), "float64") - weights) ** 2, axis=-1)


def small_rows(num_rows=40, length=6):
    """Rows with repeated values, zeros, one sign only, and one value far outside."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(num_rows, length)).astype("float32")
    rows[::5] = np.round(rows[::5])
    rows[1::7] = np.abs(rows[1::7])
    rows[2::9, 0] *= 20
    rows[3] = 0
    rows[4] = 0.5
    rows[5, 1:] = 0
    return rows


def least_error(rows, patterns):
    """Per row, the least error over all assignments of weights to patterns, by least squares.

    A pattern is the vector of coefficients that the scales, >= 0, have at one level.
    """
    best = np.full(len(rows), np.inf)
    for chosen in itertools.product(range(len(patterns)), repeat=rows.shape[1]):
        design = patterns[list(chosen)].astype("float64")
        scales = np.maximum(rows @ np.linalg.pinv(design).T, 0)
        best = np.minimum(best, np.sum((rows - scales @ design.T) ** 2, axis=1))
    return best


class TernaryTest(unittest.TestCase):
    def test_optimal_is_the_projection(self):
        rows = small_rows()
        for symmetric, patterns in ((False, [[-1, 0], [0, 0], [0, 1]]), (True, [[-1], [0], [1]])):
            ours = squared_error(free(Ternary(symmetric=symmetric, optimal=True, axis=0)), rows)
            best = least_error(rows, np.array(patterns))
            np.testing.assert_allclose(ours, best, rtol=1e-5, atol=1e-6)

    def test_optimal_per_tensor_is_optimal_on_large_tensors(self):
        random = np.random.default_rng(1)
        for name, draw in DISTRIBUTIONS.items():
            weights = draw(random, 5000).astype("float32")
            best = np.sum(weights.astype("float64") ** 2)
            for side in (weights, -weights):
                sums = np.cumsum(-np.sort(-np.maximum(side, 0).astype("float64")))
                best -= np.max(sums**2 / np.arange(1, len(sums) + 1))
            ours = squared_error(free(Ternary(optimal=True)), weights)
            np.testing.assert_allclose(ours, best, rtol=1e-6, err_msg=name)

    def test_the_rule_is_worse_than_the_projection(self):
        random = np.random.default_rng(0)
        for name, least in (("normal", 1.001), ("laplace", 1.02), ("sparse", 1.2)):
            weights = DISTRIBUTIONS[name](random, 20_000).astype("float32")
            rule, optimal = (squared_error(Ternary(optimal=o), weights) for o in (False, True))
            self.assertGreater(rule / optimal, least, name)

    def test_the_rule_by_the_maximum_is_that_of_numpy_in_each_group(self):
        rows = DISTRIBUTIONS["skewed"](np.random.default_rng(0), (6, 400)).astype("float32")
        found = np.array(free(Ternary(0.3, axis=0, relative_to="max")).levels(rows))
        for row, levels in zip(rows, found, strict=True):
            delta = 0.3 * np.abs(row).max()
            upper, lower = row[row >= delta], row[row <= -delta]
            expected = [lower.mean() if lower.size else 0, 0, upper.mean()]
            np.testing.assert_allclose(levels, expected, rtol=1e-5)
        self.assertFalse(np.allclose(found, Ternary(0.3, axis=0).levels(rows)))

    def test_weights_between_the_threshold_and_the_midpoint_become_zero(self):
        weights = np.array([1.0, 5.0, 3.0, 0.2, -4.0], "float32")  # delta 0.25, p = 3
        quantized = np.array(Ternary(0.05, relative_to="max")(weights))
        np.testing.assert_array_equal(quantized, [0, 3, 3, 0, -4])
        weights[0] = 2.0  # p = 10 / 3, its midpoint 5 / 3
        np.testing.assert_allclose(Ternary(0.05, relative_to="max")(weights)[0], 10 / 3, rtol=1e-6)

    def test_hand_pinned_levels(self):
        weights = np.array([-2.0, -0.25, 0.25, 2.0, 3.0], "float32")
        for quantizer, levels in (
            (Ternary(optimal=True), [-2, 0, 2.5]),
            (Ternary(optimal=True, symmetric=True), [-7 / 3, 0, 7 / 3]),
            (Ternary(), [-2, 0, 2.5]),
            (Ternary(symmetric=True), [-7 / 3, 0, 7 / 3]),
            (Ternary(threshold=1.5), [0, 0, 3]),
        ):
            np.testing.assert_allclose(quantizer.levels(weights), levels, rtol=1e-6)


class BinaryTest(unittest.TestCase):
    def test_mean_scale_is_the_projection(self):
        rows = small_rows()
        best = least_error(rows, np.array([[-1], [1]]))
        for quantizer in (Binary("mean", axis=0), MultiBit(1, axis=0), MultiBit(1, optimal=True)):
            if quantizer.axis == 0:
                ours = squared_error(quantizer, rows)
                np.testing.assert_allclose(ours, best, rtol=1e-5, atol=1e-6)

    def test_median_scale_is_the_level_of_the_l1_penalty_for_a_small_tau(self):
        rows = small_rows(length=7).astype("float64")
        levels = np.array(Binary("median", axis=0).levels(rows))[:, 1:]
        sizes = np.abs(rows)
        reached = huber(sizes - levels, 1e-3).sum(axis=1)
        for other in np.linspace(0, 3, 301):
            self.assertTrue(np.all(reached <= huber(sizes - other, 1e-3).sum(axis=1) + 1e-5))


def huber(distance, tau):
    """Min over y of 1/2 (y - w)^2 + tau |y - level|, as a function of |w - level|."""
    distance = np.abs(distance)
    return np.where(distance <= tau, distance**2 / 2, tau * distance - tau**2 / 2)


class MultiBitTest(unittest.TestCase):
    def test_two_optimal_bits_are_the_projection(self):
        rows = small_rows(length=5)
        ours = squared_error(free(MultiBit(2, optimal=True, axis=0)), rows)
        best = least_error(rows, np.array(list(itertools.product((-1, 1), repeat=2))))
        np.testing.assert_allclose(ours, best, rtol=1e-5, atol=1e-6)

    def test_optimal_beats_twenty_random_restarts(self):
        random = np.random.default_rng(3)
        rows = np.stack([draw(random, 1500) for draw in DISTRIBUTIONS.values()]).astype("float32")
        for bits in (3, 4):
            ours = squared_error(free(MultiBit(bits, optimal=True, axis=0)), rows)
            for name, row, error in zip(DISTRIBUTIONS, rows, ours, strict=True):
                restarts = best_of_restarts(row.astype("float64"), bits, random)
                self.assertLessEqual(error, restarts * (1 + 1e-5), (bits, name))

    def test_optimal_is_never_worse_than_alternation(self):
        rows = np.random.default_rng(4).standard_t(3, size=(64, 27)).astype("float32")
        for bits in (2, 3):
            plain = squared_error(free(MultiBit(bits, rounds=5, axis=0)), rows)
            optimal = squared_error(free(MultiBit(bits, rounds=5, optimal=True, axis=0)), rows)
            self.assertTrue(np.all(optimal <= plain * (1 + 1e-5) + 1e-9))

    def test_alternation_is_never_worse_than_the_authors(self):
        random = np.random.default_rng(5)
        for length, bits in itertools.product((9, 27, 300), (2, 3, 4)):
            rows = random.standard_t(3, size=(32, length)).astype("float32")
            theirs = np.array([authors_error(row.astype("float64"), bits) for row in rows])
            ours = squared_error(free(MultiBit(bits, axis=0)), rows)
            self.assertTrue(np.all(ours <= theirs * (1 + 1e-4) + 1e-9), (length, bits))

    def test_weights_on_a_grid_of_signed_sums_stay(self):
        for bits, scales in ((2, (1, 0.25)), (3, (2, 1, 0.75)), (4, (5, 2.5, 1.5, 0.5))):
            signs = np.array(list(itertools.product((-1, 1), repeat=bits)))
            random = np.random.default_rng(bits)
            levels = np.unique(signs @ np.array(scales))
            weights = random.choice(levels, size=400).astype("float32")
            np.testing.assert_allclose(MultiBit(bits)(weights), weights, rtol=1e-5)

    def test_optimal_levels_of_zeros_and_of_few_weights(self):
        for bits in (3, 4):
            quantizer = MultiBit(bits, optimal=True)
            np.testing.assert_array_equal(quantizer.levels(np.zeros(5)), np.zeros(2**bits))
            for weights in (np.array([0.5, -0.25]), np.array([1.0, 0, 0, 0])):
                np.testing.assert_allclose(quantizer(weights), weights, atol=1e-6)

    def test_more_rounds_fit_better(self):
        weights = np.random.default_rng(6).normal(size=4000).astype("float32")
        errors = [squared_error(MultiBit(4, rounds=rounds), weights) for rounds in (1, 3, 30)]
        self.assertLess(errors[1], errors[0])
        self.assertLess(errors[2], errors[1])


def authors_error(row, bits, rounds=3):
    """The authors' scheme: greedy codes, then least squares and greedy codes in turn."""
    scales, rest = [], row
    for _ in range(bits):
        scales.append(np.abs(rest).mean())
        rest = rest - np.where(rest >= 0, 1, -1) * scales[-1]
    for _ in range(rounds):
        codes, rest = [], row
        for scale in scales:
            codes.append(np.where(rest >= 0, 1.0, -1.0))
            rest = rest - scale * codes[-1]
        error = np.sum(rest**2)
        scales = np.linalg.lstsq(np.stack(codes, axis=1), row, rcond=None)[0]
    return error


def best_of_restarts(row, bits, random, restarts=20, rounds=150):
    """Least error of `restarts` random scales, each alternated with the nearest codes."""
    sizes = np.sort(np.abs(row))
    sums = np.concatenate([[0], np.cumsum(sizes)])
    signs = np.array([(1, *rest) for rest in itertools.product((-1, 1), repeat=bits - 1)], float)
    best = np.inf
    for _ in range(restarts):
        scales = np.abs(random.normal(size=bits)) * row.std()
        for _ in range(rounds):
            values = signs @ scales
            order = np.argsort(np.abs(values))
            codes = signs[order] * np.where(values[order] < 0, -1, 1)[:, None]
            levels = np.abs(values[order])
            cuts = np.searchsorted(sizes, (levels[1:] + levels[:-1]) / 2)
            cuts = np.concatenate([[0], cuts, [len(sizes)]])
            counts, totals = np.diff(cuts), np.diff(sums[cuts])
            error = np.sum(sizes**2) + np.sum(levels * (counts * levels - 2 * totals))
            gram = codes.T @ (counts[:, None] * codes)
            moved = np.linalg.lstsq(gram, codes.T @ totals, rcond=None)[0]
            if np.allclose(moved, scales, rtol=1e-9):
                break
            scales = moved
        best = min(best, error)
    return best


class ExamplesTest(unittest.TestCase):
    def test_examples_of_the_docstrings_hold(self):
        for name in (
            "prox",
            *(f"quantizers.{n}" for n in ("binary", "ternary", "multibit", "uniform")),
        ):
            result = doctest.testmod(importlib.import_module(f"tf_proxquant.{name}"))
            self.assertGreater(result.attempted, 0, name)
            self.assertEqual(result.failed, 0, name)


class IntegerRatioTest(unittest.TestCase):
    def test_levels_are_whole_multiples_of_one_scale(self):
        weights = np.random.default_rng(7).standard_t(4, size=(200, 16)).astype("float32")
        for quantizer in (
            Ternary(optimal=True, axis=-1, integer_ratios=True),
            Ternary(axis=-1, integer_ratios=True),
            *(MultiBit(bits, axis=-1, integer_ratios=True) for bits in (2, 3, 4)),
        ):
            for levels in np.array(quantizer.levels(weights)):
                codes, scale = whole_codes(levels)
                self.assertLessEqual(np.abs(codes).max(), 127)
                np.testing.assert_array_equal(np.float32(scale) * codes.astype("float32"), levels)

    def test_the_extra_squared_error_is_small(self):
        weights = np.random.default_rng(8).normal(size=(500, 32)).astype("float32")
        for make in (
            lambda **options: Ternary(optimal=True, axis=-1, **options),
            lambda **options: MultiBit(2, optimal=True, axis=-1, **options),
            lambda **options: MultiBit(4, axis=-1, **options),
        ):
            free = np.sum((np.array(make()(weights)) - weights) ** 2)
            snapped = np.sum((np.array(make(integer_ratios=True)(weights)) - weights) ** 2)
            self.assertLess(snapped / free, 1.0005)


def whole_codes(levels):
    """Whole k and s with k * s = levels, by trying every code for the largest level."""
    top = levels[-1]
    for largest in range(1, 128):
        scale = np.float32(top / np.float32(largest))
        codes = np.round(levels / scale)
        if np.array_equal(codes.astype("float32") * scale, levels):
            return codes, scale
    raise AssertionError(f"no scale makes {levels} whole")


class UniformTest(unittest.TestCase):
    def test_scale_is_close_to_the_best_of_many(self):
        random = np.random.default_rng(9)
        for name, draw in DISTRIBUTIONS.items():
            weights = draw(random, 2000)
            for bits, options in itertools.product(
                (2, 4), ({}, {"narrow_range": False}, {"mid_rise": True})
            ):
                quantizer = Uniform(bits, **options)
                ours = squared_error(quantizer, weights)
                best = min(
                    np.sum((rounded(weights, scale, quantizer.codes) - weights) ** 2)
                    for scale in np.geomspace(0.3, 1, 400)
                    * (np.abs(weights).max() / quantizer.codes[-1])
                    * np.array([[1], [0.3], [0.09]]).repeat(400, axis=1)[0]
                )
                self.assertLess(ours, best * 1.02, (name, bits, options))

    def test_never_worse_than_scaling_to_the_maximum(self):
        random = np.random.default_rng(10)
        for length, bits in itertools.product((1, 5, 40), (2, 3, 8)):
            rows = random.standard_t(3, size=(50, length)).astype("float32")
            quantizer = Uniform(bits, axis=0)
            scales = np.abs(rows).max(axis=1, keepdims=True) / quantizer.codes[-1]
            to_maximum = np.sum((rounded(rows, scales, quantizer.codes) - rows) ** 2, axis=1)
            ours = squared_error(quantizer, rows)
            self.assertTrue(np.all(ours <= to_maximum * (1 + 1e-5) + 1e-9))

    def test_levels_are_whole_multiples_of_the_scale(self):
        weights = np.random.default_rng(11).normal(size=300).astype("float32")
        for quantizer, codes in (
            (Uniform(2, narrow_range=False), [-2, -1, 0, 1]),
            (Uniform(2), [-1, 0, 1]),
            (Uniform(3), [-3, -2, -1, 0, 1, 2, 3]),
            (Uniform(2, mid_rise=True), [-3, -1, 1, 3]),
            (Uniform(1, mid_rise=True), [-1, 1]),
        ):
            levels = np.array(quantizer.levels(weights))
            scale = levels[codes.index(1)]
            np.testing.assert_array_equal(levels, scale * np.array(codes, "float32"))


def rounded(weights, scale, codes):
    """The nearest level, among all of them."""
    lowest, step = codes[0], codes[1] - codes[0]
    nearest = lowest + step * np.floor((weights / scale - lowest) / step + 0.5)
    return scale * np.clip(nearest, codes[0], codes[-1])


if __name__ == "__main__":
    unittest.main()
