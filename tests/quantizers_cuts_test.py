"""The best cut by counting, against a sort in float64."""

import unittest
from unittest import mock

import numpy as np
from keras import ops

import tf_proxquant as pq
from tf_proxquant.quantizers import cuts


def adversarial(length):
    """Rows by name: ties, clusters, outliers, tails without a best scale."""
    random = np.random.default_rng(length)
    normal, index = random.normal(size=length), np.arange(1, length + 1)
    rows = {
        "normal": normal,
        "heavy tails": random.standard_t(1, size=length),
        "ties": np.round(3 * random.normal(size=length)),
        "on a grid": random.choice([-0.37, 0, 0.37], size=length),
        "near a grid": random.choice([-0.37, 0, 0.37], size=length) + 1e-4 * normal,
        "two clusters": random.choice([0.5, 0.7], size=length) + 1e-3 * normal,
        "three clusters": random.choice([1.0, 2.0, 4.0], size=length),
        "constant": np.full(length, 0.3),
        "zeros": np.zeros(length),
        "tiny": 1e-30 * normal,
        "sparse": np.where(random.random(length) < 0.9, 0, normal),
        "the same gain at every cut": np.sqrt(index) - np.sqrt(index - 1),
    }
    for outlier in (50, 1e3, 1e6):
        rows[f"outlier {outlier:g}"] = np.concatenate([[outlier], normal[1:]])
    return {name: row.astype("float32") for name, row in rows.items()}


def least_error(sizes, is_free):
    """Of all cuts of the sorted sizes."""
    ascending = np.sort(sizes.astype("float64"))
    below = np.concatenate([[0], np.cumsum(ascending)])[:-1]
    above, number = ascending.sum() - below, len(sizes) - np.arange(len(sizes))
    gains = above**2 / number
    if is_free:
        # Centred, so that two close clusters far from 0 keep their digits.
        centred = ascending - ascending.mean()
        below = np.concatenate([[0], np.cumsum(centred)])[:-1]
        gains = below**2 / number + below**2 / np.maximum(len(sizes) - number, 1)
        return max(np.sum(centred**2) - gains.max(), 0)
    return max(np.sum(ascending**2) - gains.max(), 0)


def error(sizes, lower, upper):
    sizes = sizes.astype("float64")
    return np.minimum((sizes - lower) ** 2, (sizes - upper) ** 2).sum()


class CutsTest(unittest.TestCase):
    def check(self, names, sizes, found, is_free):
        """Each row of sizes has levels within a millionth of the least error, and a proof."""
        lower, upper, proved = (ops.convert_to_numpy(x)[:, 0] for x in found)
        for i, name in enumerate(names):
            with self.subTest(name, length=sizes.shape[1], is_free=is_free):
                least = least_error(sizes[i], is_free)
                rounding = 1e-9 * np.sum(sizes[i].astype("float64") ** 2)
                reached = error(sizes[i], float(lower[i]), float(upper[i]))
                self.assertTrue(proved[i])
                self.assertLessEqual(reached, least * (1 + 1e-6) + rounding)

    def test_levels_are_those_of_a_sort(self):
        for length in (1, 2, 3, 4, 5, 27, 432, 20_000):
            rows = adversarial(length)
            names, rows = list(rows), np.stack(list(rows.values()))
            by_sign = cuts.best_cuts(ops.convert_to_tensor(rows), by_sign=True)
            for side, sign in enumerate((-1, 1)):
                sizes = np.maximum(sign * rows, 0)
                self.check(names, sizes, [x[:, side:] for x in by_sign], False)
            sizes = np.abs(rows) - np.abs(rows).min(axis=1, keepdims=True)
            found = cuts.best_cuts(ops.convert_to_tensor(sizes), lower="mean")
            self.check(names, sizes, found, True)

    def test_many_rows_are_counted_only_where_they_are_very_long(self):
        for shape, expected in (
            ((16, 2048), True), ((16, 2047), False), ((17, 2048), False), ((17, 2**17), True),
        ):  # fmt: skip
            with self.subTest(shape):
                self.assertIs(cuts.are_long(np.zeros(shape, "bool")), expected)

    def test_quantizers_count_long_groups_to_the_error_of_the_sort(self):
        weights = np.random.default_rng(0).normal(0.1, 1, size=cuts.MANY + 5).astype("float32")
        for quantizer in (
            pq.Ternary(optimal=True, integer_ratios=False),
            pq.Ternary(optimal=True, symmetric=True),
            pq.MultiBit(2, optimal=True, integer_ratios=False),
        ):
            with self.subTest(quantizer):
                errors = []
                for many in (cuts.MANY, len(weights) + 1):
                    with mock.patch.object(cuts, "MANY", many):
                        near = ops.convert_to_numpy(quantizer(weights))
                    errors.append(np.sum((weights - near).astype("float64") ** 2))
                self.assertLessEqual(errors[0], errors[1] * (1 + 1e-6))
                self.assertNotEqual(errors[0], errors[1])

    def test_long_rows_are_counted_part_by_part(self):
        length = 2 * cuts.LONG + 3
        row = np.random.default_rng(0).normal(size=(1, length)).astype("float32")
        self.check(["normal"], np.abs(row), cuts.best_cuts(ops.convert_to_tensor(row)), False)
        top, shift = np.full((1, 1), 2**24 - 1, "int32"), np.full((1, 1), 11, "int32")
        sizes, unit = ops.convert_to_tensor(2**20 * np.abs(row)), np.ones((1, 1), "float32")
        found = cuts.count(sizes, unit, top, shift, 2**13)
        counts, depths = (ops.convert_to_numpy(x) for x in found)
        self.assertEqual(counts.sum(), length)
        ends = 2**24 - 1 - 2**11 * np.arange(2.0**13)
        total = (counts * ends - depths).sum(dtype="float64")
        whole = np.floor(np.float32(2**20) * np.abs(row) + 0.5)
        np.testing.assert_allclose(total, whole.sum(dtype="float64"), 1e-8)

    def test_a_row_is_sorted_where_nothing_is_proved(self):
        levels, sorted_levels = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
        for proved, expected in (([[True, False]], [[1, 4]]), ([[True, True]], [[1, 2]])):
            flags, given = ops.convert_to_tensor(proved), ops.convert_to_tensor(levels)
            found = cuts.unless_proved(flags, given, lambda: ops.convert_to_tensor(sorted_levels))
            np.testing.assert_array_equal(found, expected)


if __name__ == "__main__":
    unittest.main()
