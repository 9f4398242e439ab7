"""Laws of the proximal operators, by brute force on the documented objectives."""

import itertools
import unittest

import keras
import numpy as np
from keras import ops

from tf_proxquant import prox
from tf_proxquant.quantizers import Binary, MultiBit, Ternary

UNEVEN = np.array([-1.0, -0.25, 0.5, 2.0], "float32")
TAUS = (1e-3, 0.3, 1.0, 10.0)


def sample(levels=UNEVEN, seed=0, size=60):
    """Random weights, the levels, their midpoints and neighbours, zeros, and values far outside."""
    random = np.random.default_rng(seed).normal(size=size) * 1.5
    middles = (levels[1:] + levels[:-1]) / 2
    near = np.concatenate([levels + 1e-3, levels - 1e-3, np.nextafter(middles, -9), middles])
    return np.sort(np.concatenate([random, levels, near, [0.0, -50, 50]]).astype("float32"))


def nearest_of(weights, levels):
    """The nearest level, a midpoint going up."""
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, weights, side="right")]


def apply_all(weights, tau):
    """Each operator on weights and their nearest levels, by name."""
    quantized = nearest_of(weights, UNEVEN)
    return {
        "prox_l1": np.array(prox.prox_l1(weights, quantized, tau)),
        "prox_l2": np.array(prox.prox_l2(weights, quantized, tau)),
        "prox_l1_box": np.array(prox.prox_l1_box(weights, 1.0, tau)),
        "prox_piecewise_affine": np.array(
            prox.prox_piecewise_affine(weights, UNEVEN, 1 / (1 + tau))
        ),
        "prox_concave": np.array(prox.prox_concave(weights, UNEVEN, tau)),
        "relax": np.array(prox.relax(weights, quantized, tau / (1 + tau))),
    }


class EveryProxTest(unittest.TestCase):
    def test_list_holds_every_public_operator(self):
        public = {name for name in vars(prox) if name.startswith("prox_")} | {"relax"}
        self.assertEqual(public, set(apply_all(sample(), 0.1)))

    def test_monotone(self):
        for tau in TAUS:
            for name, moved in apply_all(sample(), tau).items():
                self.assertTrue(np.all(np.diff(moved) >= 0), name)

    def test_levels_are_fixed_points(self):
        for tau in TAUS:
            for name, moved in apply_all(UNEVEN, tau).items():
                if name != "prox_l1_box":
                    np.testing.assert_array_equal(moved, UNEVEN, err_msg=name)
            ends = np.array([-1, 1], "float32")
            np.testing.assert_array_equal(prox.prox_l1_box(ends, 1.0, tau), ends)

    def test_nonexpansive_within_a_cell(self):
        weights = np.linspace(-0.62, 0.12, 50).astype("float32")
        for tau in TAUS:
            for name in ("prox_l1", "prox_l2", "relax"):
                steps = np.diff(apply_all(weights, tau)[name])
                self.assertTrue(np.all(steps <= np.diff(weights) * (1 + 1e-4)), name)

    def test_shape_and_dtype_are_kept(self):
        for dtype, shape in itertools.product(
            ("float16", "bfloat16", "float32"), ((), (0,), (3, 0, 2), (2, 3))
        ):
            weights = ops.cast(np.full(shape, 0.3), dtype)
            quantized = ops.ones_like(weights)
            for tau in (0.125, ops.convert_to_tensor(0.125), np.float64(0.125)):
                for moved in (
                    prox.prox_l1(weights, quantized, tau),
                    prox.prox_l2(weights, quantized, tau),
                    prox.prox_l1_box(weights, 1.0, tau),
                    prox.prox_piecewise_affine(weights, UNEVEN, tau),
                    prox.prox_concave(weights, UNEVEN, tau),
                ):
                    self.assertEqual(tuple(moved.shape), shape)
                    self.assertEqual(keras.backend.standardize_dtype(moved.dtype), dtype)

    def test_l2_in_float16_takes_a_tau_beyond_the_range_of_float16(self):
        weights, quantized = np.float16([0.25, -3.0, 0.0]), np.float16([1.0, -1.0, 1.0])
        for tau in (1e5, 1e30):
            found = ops.convert_to_numpy(prox.prox_l2(weights, quantized, tau))
            np.testing.assert_array_equal(found, quantized)

    def test_tau_zero_is_the_identity_bit_for_bit(self):
        weights = np.concatenate([sample(), [-0.0, 1e-30, -1e30]]).astype("float32")
        for quantized in (nearest_of(weights, UNEVEN), -weights, np.ones_like(weights)):
            for tau in (0, 0.0, ops.convert_to_tensor(0.0)):
                for operator in (prox.prox_l1, prox.prox_l2):
                    same = np.array(operator(weights, quantized, tau))
                    np.testing.assert_array_equal(same.view("int32"), weights.view("int32"))
        for tau in (0, 0.0, ops.convert_to_tensor(0.0)):
            same = np.array(prox.prox_concave(sample(), UNEVEN, tau))
            np.testing.assert_array_equal(same.view("int32"), sample().view("int32"))
        inside = np.array([-1, -0.5, -0.0, 0.0, 0.7, 1], "float32")
        same = np.array(prox.prox_l1_box(inside, 1.0, 0.0))
        np.testing.assert_array_equal(same.view("int32"), inside.view("int32"))

    def test_float64_is_computed_in_float64_also_from_lists_and_python_numbers(self):
        # .1 in float32 is off by 1.5e-9.
        if keras.backend.backend() in ("jax", "numpy"):
            self.skipTest("Keras makes float32 of it there.")
        w = ops.convert_to_tensor([0.7, -0.4], dtype="float64")
        q, levels = [1.0, -1.0], [-1.1, 1.1]
        for found, expected in (
            (prox.prox_l1(w, [1.1, -1.1], 0.1), [0.8, -0.5]),
            (prox.prox_l2(w, q, 0.1), [(0.7 + 0.1) / 1.1, -(0.4 + 0.1) / 1.1]),
            (prox.prox_l1_box(w, 0.6, 0.1), [0.6, -0.5]),
            (prox.relax(w, q, 0.1), [0.73, -0.46]),
            (prox.prox_piecewise_affine(w, levels, 0.9), [0.7 / 0.9, -0.4 / 0.9]),
            (prox.prox_piecewise_affine(w, levels, 0), [1.1, -1.1]),
            (prox.prox_concave(w, levels, 0.1), [0.7 / 0.9, -0.4 / 0.9]),
        ):
            np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-15)

    def test_relax_arrives_bit_for_bit_and_does_not_begin_before(self):
        far, near = np.float32([1e8, -0.0]), np.float32([0.1, 3.0])  # far + (near - far) is 0
        for theta in (1, ops.convert_to_tensor(1.0), ops.convert_to_tensor(1.5)):
            np.testing.assert_array_equal(ops.convert_to_numpy(prox.relax(far, near, theta)), near)
        same = ops.convert_to_numpy(prox.relax(far, near, 0))
        np.testing.assert_array_equal(same.view("int32"), far.view("int32"))

    def test_messages_name_the_number_that_is_out_of_range(self):
        w = np.float32([0.5])
        for name, call in (
            ("tau", lambda: prox.prox_l1(w, w, -1)),
            ("tau", lambda: prox.prox_l2(w, w, -1)),
            ("tau", lambda: prox.prox_l1_box(w, 1.0, -1)),
            ("scale", lambda: prox.prox_l1_box(w, -1, 0.1)),
            ("theta", lambda: prox.relax(w, w, 2)),
            ("inverse_slope", lambda: prox.prox_piecewise_affine(w, UNEVEN, 2)),
            ("tau", lambda: prox.prox_concave(w, UNEVEN, -1)),
        ):
            with self.assertRaisesRegex(ValueError, f"^`{name}` must be.* Received: {name}=-?[12]"):
                call()

    def test_nan_stays_nan_and_harms_no_other_weight(self):
        weights = sample()
        clean = apply_all(weights, 0.1)
        weights[3] = np.nan
        for name, moved in apply_all(weights, 0.1).items():
            self.assertTrue(np.isnan(moved[3]), name)
            others = np.arange(len(weights)) != 3
            np.testing.assert_array_equal(moved[others], clean[name][others])

    def test_bad_arguments_are_refused(self):
        weights = np.zeros(3, "float32")
        for operator in (prox.prox_l1, prox.prox_l2):
            with self.assertRaisesRegex(ValueError, r"same shape.*\(3,\) and \(2,\)"):
                operator(weights, weights[:2], 0.1)
            for tau in (-0.1, float("nan"), -1):
                with self.assertRaisesRegex(ValueError, f"`tau`.*Received: tau={tau}"):
                    operator(weights, weights, tau)
        with self.assertRaisesRegex(ValueError, "`scale`"):
            prox.prox_l1_box(weights, -1.0, 0.1)
        with self.assertRaisesRegex(ValueError, "Received: inverse_slope=1.5"):
            prox.prox_piecewise_affine(weights, UNEVEN, 1.5)
        with self.assertRaisesRegex(ValueError, "two levels"):
            prox.prox_piecewise_affine(weights, UNEVEN[:1], 0.5)


class ProxL1Test(unittest.TestCase):
    def test_no_other_point_has_a_lower_objective(self):
        for levels in (UNEVEN, np.array([-1, 1], "float32")):
            weights = sample(levels)
            points = np.concatenate([np.linspace(-4, 4, 4001), levels, weights])
            penalty = np.abs(points[:, None] - levels).min(axis=1)
            for tau in TAUS:
                moved = np.array(prox.prox_l1(weights, nearest_of(weights, levels), tau), "float64")
                reached = (moved - weights) ** 2 / 2 + tau * np.abs(moved[:, None] - levels).min(
                    axis=1
                )
                lowest = ((points[:, None] - weights) ** 2 / 2 + tau * penalty[:, None]).min(axis=0)
                self.assertTrue(np.all(reached <= lowest + 1e-6 * (1 + np.abs(lowest))))

    def test_within_tau_of_the_level_lands_on_it_bit_for_bit(self):
        weights = sample()
        quantized = nearest_of(weights, UNEVEN)
        for tau in TAUS:
            moved = np.array(prox.prox_l1(weights, quantized, tau))
            near = np.abs(weights - quantized) <= np.float32(tau)
            np.testing.assert_array_equal(moved[near], quantized[near])
            expected = weights - np.float32(tau) * np.sign(weights - quantized)
            np.testing.assert_array_equal(moved[~near], expected[~near])

    def test_hand_pinned_values(self):
        weights = np.array([-1.5, -0.0, 0.0, 0.75], "float32")
        moved = prox.prox_l1(weights, np.array(Binary()(weights)), 0.25)
        np.testing.assert_array_equal(moved, np.array([-1.25, 0.25, 0.25, 1.0], "float32"))

    def test_box_equals_prox_then_clip_bit_for_bit(self):
        weights = np.concatenate([sample(), np.random.default_rng(1).normal(size=5000)])
        weights = weights.astype("float32")
        for scale, tau in itertools.product((1.0, 0.3), (0.0, 1e-4, 0.1, 0.7, 5.0)):
            quantized = np.array(Binary(scale)(weights))
            two_steps = ops.clip(prox.prox_l1(weights, quantized, tau), -scale, scale)
            np.testing.assert_array_equal(prox.prox_l1_box(weights, scale, tau), two_steps)


class ProxL2Test(unittest.TestCase):
    def test_no_other_point_has_a_lower_objective(self):
        weights = sample()
        quantized = nearest_of(weights, UNEVEN)
        points = np.linspace(-60, 60, 6001)[:, None]
        for tau in TAUS:
            moved = np.array(prox.prox_l2(weights, quantized, tau), "float64")
            reached = (moved - weights) ** 2 / 2 + tau / 2 * (moved - quantized) ** 2
            others = (points - weights) ** 2 / 2 + tau / 2 * (points - quantized) ** 2
            self.assertTrue(np.all(reached <= others.min(axis=0) + 1e-6 * (1 + reached)))

    def test_with_an_exact_projection_it_is_the_prox_of_the_squared_distance(self):
        random = np.random.default_rng(2)
        for quantizer in (
            Binary("mean"),
            Ternary(optimal=True),
            Ternary(optimal=True, symmetric=True),
            MultiBit(2, optimal=True),
        ):
            for tau in (0.3, 3.0):
                weights = random.normal(size=5).astype("float32")
                moved = np.array(prox.prox_l2(weights, np.array(quantizer(weights)), tau))
                reached = self.objective(weights, moved[None], quantizer, tau)[0]
                starts = np.concatenate([moved[None], random.normal(size=(40, 5)), weights[None]])
                spreads = np.array([1e-3, 0.03, 0.3])[:, None, None]
                others = starts + spreads * random.normal(size=(3, len(starts), 5))
                lowest = self.objective(weights, others.reshape(-1, 5), quantizer, tau).min()
                self.assertLessEqual(reached, lowest + 1e-6)

    @staticmethod
    def objective(weights, points, quantizer, tau):
        """1/2 |y - w|^2 + tau/2 times the squared distance of y to the grid tensors."""
        config = {**quantizer.get_config(), "axis": 0}
        points = points.astype("float32")
        projected = np.array(type(quantizer)(**config)(points))
        distance = np.sum((points - projected) ** 2, axis=1)
        return np.sum((points - weights) ** 2, axis=1) / 2 + tau / 2 * distance


class RelaxTest(unittest.TestCase):
    def test_no_other_point_has_a_lower_objective(self):
        weights = sample()
        quantized = nearest_of(weights, UNEVEN)
        grid = np.linspace(-60, 60, 24_001)
        for theta in (0.0, 0.125, 0.5, 1.0):
            moved = np.array(prox.relax(weights, quantized, theta), "float64")
            for w, q, y in zip(weights, quantized, moved, strict=True):

                def objective(x, w=w, q=q, theta=theta):
                    return (1 - theta) / 2 * (x - w) ** 2 + theta / 2 * (x - q) ** 2

                self.assertLessEqual(objective(y), objective(grid).min() + 1e-4)

    def test_the_ends_are_exact_and_more_than_all_is_all(self):
        weights = sample()
        quantized = nearest_of(weights, UNEVEN)
        np.testing.assert_array_equal(prox.relax(weights, quantized, 0.0), weights)
        for theta in (1.0, ops.convert_to_tensor(1.5)):
            np.testing.assert_array_equal(prox.relax(weights, quantized, theta), quantized)

    def test_it_is_prox_l2_at_the_tau_of_its_odds(self):
        weights = sample()
        quantized = nearest_of(weights, UNEVEN)
        np.testing.assert_allclose(
            prox.relax(weights, quantized, 0.75), prox.prox_l2(weights, quantized, 3.0), rtol=1e-6
        )

    def test_a_share_out_of_range_is_refused(self):
        for theta in (-0.5, 1.5):
            with self.assertRaisesRegex(ValueError, f"theta={theta}"):
                prox.relax(UNEVEN, UNEVEN, theta)


class PiecewiseAffineTest(unittest.TestCase):
    def test_one_is_the_identity_and_zero_the_nearest_level(self):
        weights = sample()
        for make in (float, ops.convert_to_tensor):
            same = np.array(prox.prox_piecewise_affine(weights, UNEVEN, make(1.0)))
            np.testing.assert_array_equal(same.view("int32"), weights.view("int32"))
            hard = prox.prox_piecewise_affine(weights, UNEVEN, make(0.0))
            np.testing.assert_array_equal(hard, nearest_of(weights, UNEVEN))

    def test_it_is_a_staircase_with_slopes_between_the_levels(self):
        weights = sample()
        inside = np.clip(weights, UNEVEN[0], UNEVEN[-1])
        for inverse_slope in (0.05, 0.5, 0.9):
            cell = np.clip(np.searchsorted(UNEVEN, inside, side="right") - 1, 0, 2)
            lower, upper = UNEVEN[cell].astype("float64"), UNEVEN[cell + 1].astype("float64")
            middle = (lower + upper) / 2
            expected = np.clip(middle + (weights - middle) / inverse_slope, lower, upper)
            moved = prox.prox_piecewise_affine(weights, UNEVEN, inverse_slope)
            np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-5)

    def test_levels_may_differ_between_channels(self):
        weights = np.random.default_rng(3).normal(size=(4, 5, 3)).astype("float32")
        for axis in (0, 1, -1):
            quantizer = Ternary(axis=axis)
            levels = quantizer.levels(weights)
            spread = quantizer.spread_levels(weights, levels)
            moved = np.array(prox.prox_piecewise_affine(weights, spread, 0.5))
            for index in range(weights.shape[axis]):
                expected = prox.prox_piecewise_affine(
                    weights.take(index, axis), np.array(levels)[index], 0.5
                )
                np.testing.assert_array_equal(moved.take(index, axis), expected)


class ConcaveTest(unittest.TestCase):
    def penalty(self, points, levels):
        """R of the docstring, in float64."""
        cell = np.clip(np.searchsorted(levels, points, side="right") - 1, 0, len(levels) - 2)
        lower, upper = levels[cell].astype("float64"), levels[cell + 1].astype("float64")
        between = ((upper - lower) ** 2 / 4 - (points - (lower + upper) / 2) ** 2) / 2
        outside = np.maximum(points - levels[-1], levels[0] - points)
        return np.where(outside > 0, outside**2 / 2, between)

    def test_no_other_point_has_a_lower_objective(self):
        for levels in (UNEVEN, np.array([-1, 1], "float32")):
            weights = sample(levels)
            points = np.concatenate([np.linspace(-60, 60, 24001), levels, weights])
            for tau in (1e-3, 0.3, 0.9, 1.0, 10.0):
                moved = np.array(prox.prox_concave(weights, levels, tau), "float64")
                reached = (moved - weights) ** 2 / 2 + tau * self.penalty(moved, levels)
                penalties = tau * self.penalty(points, levels)
                objective = (points[:, None] - weights) ** 2 / 2 + penalties[:, None]
                lowest = objective.min(axis=0)
                self.assertTrue(np.all(reached <= lowest + 2e-6 * (1 + np.abs(lowest))), tau)

    def test_weights_near_a_midpoint_can_still_cross_it(self):
        moved = prox.prox_concave(np.array([0.01, -0.01], "float32"), [-1.0, 1.0], 0.5)
        np.testing.assert_allclose(np.array(moved), [0.02, -0.02])

    def test_levels_are_reached_bit_for_bit(self):
        levels = np.array([-0.3, 0.1, 0.7], "float32")
        weights = np.array([-0.25, 0.05, 0.6], "float32")
        moved = np.array(prox.prox_concave(weights, levels, 0.9))
        np.testing.assert_array_equal(moved, levels)


if __name__ == "__main__":
    unittest.main()
