"""examples/theory.py: each claim of the paper, with numbers."""

import functools
import unittest

import numpy as np

from examples import theory

run_memory = functools.cache(theory.run_memory)


class PairTest(unittest.TestCase):
    def test_prox_quant_ends_at_the_better_point_of_both_functions(self):
        for minimum in (-0.5, 0.5):
            path = theory.run_pair(theory.eager_binary, minimum)
            self.assertEqual(set(path[-10:].tolist()), {2 * minimum})
            values = [theory.pair_function(x, minimum) for x in (-1.0, 1.0)]
            self.assertEqual(theory.pair_function(path[-1], minimum), min(values))

    def test_binary_connect_takes_one_path_on_both_and_never_stops(self):
        paths = [theory.run_pair(theory.lazy_binary, minimum) for minimum in (-0.5, 0.5)]
        np.testing.assert_array_equal(*paths)
        self.assertEqual(set(paths[0][-10:].tolist()), {-1.0, 1.0})


class SmoothTest(unittest.TestCase):
    def test_the_prox_has_the_lowest_objective(self):
        grid = np.linspace(-2, 2, 40_001)
        penalty = np.where(abs(grid) <= 0.5, 0.25 - grid**2 / 2, (abs(grid) - 1) ** 2 / 2)
        for tau in (0.3, 0.75, 1.5):
            for v in (-1.4, -0.3, -0.01, 0.02, 0.4, 0.9, 1.3):
                best = grid[np.argmin((grid - v) ** 2 / 2 + tau * penalty)]
                self.assertAlmostEqual(theory.smooth_prox(v, tau), best, delta=2e-4)

    def test_the_eager_method_converges_to_a_stationary_point(self):
        path = theory.run_smooth(lazy=False)
        self.assertLess(abs(theory.smooth_objective_slope(path[-1], 1.5, 0.1)), 1e-12)

    def test_the_lazy_method_keeps_jumping_between_the_wells(self):
        tail = theory.run_smooth(lazy=True)[-20:]
        self.assertLess(tail.min(), -0.5)
        self.assertGreater(tail.max(), 0.5)


class DualAveragingTest(unittest.TestCase):
    def test_straight_through_has_the_iterates_of_dual_averaging(self):
        straight_through, averaged = theory.run_dual_averaging()
        np.testing.assert_array_equal(straight_through, averaged)
        self.assertGreater(np.count_nonzero(np.diff(averaged, axis=0)), 100)


class FixedPointTest(unittest.TestCase):
    def test_fixed_points_get_rare_with_the_dimension(self):
        shares = [theory.share_with_fixed_point(d) for d in (1, 2, 4)]
        self.assertTrue(0.5 > shares[0] > shares[1] > shares[2])
        self.assertLess(shares[2], 0.02)


class MemoryTest(unittest.TestCase):
    def test_both_ends_fail_and_the_middle_stays_at_the_better_level(self):
        ends = {memory: run_memory(memory)[0][-100:] for memory in theory.MEMORIES}
        self.assertEqual(set(ends[0.0].tolist()), {-1.0})
        self.assertEqual(set(ends[0.9].tolist()), {1.0})
        self.assertEqual(set(ends[1.0].tolist()), {-1.0, 1.0})
        self.assertEqual(set(run_memory(0.9, start=1.0)[0].tolist()), {1.0})

    def test_the_residual_is_at_most_a_step_over_one_minus_the_memory(self):
        for memory in (0.5, 0.9, 0.96):
            w, v = run_memory(memory)
            self.assertLessEqual(np.abs(v - w).max(), 0.05 * 2.6 / (1 - memory) + 1e-6)
        w, v = run_memory(0.9, start=1.0)
        self.assertAlmostEqual(np.abs(v - w)[-1], 0.05 * 1.4 / 0.1, places=6)


class DigitsTest(unittest.TestCase):
    def test_prox_quant_changes_fewer_signs_than_binary_connect(self):
        histories = theory.run_digits(epochs=9)
        eager, lazy = histories["ProxQuant"], histories["BinaryConnect"]
        self.assertLess(eager["sign_change"][-1], 0.7 * lazy["sign_change"][-1])
        self.assertGreater(eager["accuracy"][-1], 0.9)
        self.assertGreater(lazy["accuracy"][-1], 0.9)
