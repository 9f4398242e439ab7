"""Outputs of the authors' operators, where they and these mean the same thing.

Each class says where they differ, and a test shows it. Provenance: golden/README.md.
"""

import itertools
import pathlib
import unittest

import numpy as np
from keras import ops

from tf_proxquant import prox
from tf_proxquant.quantizers import Binary, MultiBit, Ternary, alternating

GOLDEN = pathlib.Path(__file__).parent / "golden"
HAS_FLOAT64 = str(ops.convert_to_tensor(np.zeros(1)).dtype).endswith("float64")
TAUS = {0: "0", 1e-4: "0p0001", 0.1: "0p1", 0.5: "0p5", 1: "1", 2: "2", 10: "10"}


def load(name):
    with np.load(GOLDEN / name) as file:
        return {key: file[key] for key in file.files}


def names(golden):
    return sorted({key.split("/")[0] for key in golden})


def tolerance(weights, float64=1e-14, float32=2e-7):
    return (float64 if HAS_FLOAT64 else float32) * max(1, np.abs(weights).max(initial=0))


class BinaryTest(unittest.TestCase):
    def test_prox_equals_the_authors_except_at_zero(self):
        golden = load("binary_ternary_f64.npz")
        for name, (tau, spelled) in itertools.product(names(golden), TAUS.items()):
            with self.subTest(name, tau=tau):
                weights = golden[f"{name}/in"]
                moved = np.array(prox.prox_l1(weights, Binary()(weights), tau))
                expected = golden[f"{name}/binary@{spelled}"]
                free = weights != 0
                error = np.abs(moved - expected)[free].max(initial=0)
                self.assertLessEqual(error, tolerance(weights))

    def test_float32_prox_equals_the_authors_within_their_rounding(self):
        golden = load("binary_ternary_f32.npz")
        for name, (tau, spelled) in itertools.product(names(golden), TAUS.items()):
            weights = golden[f"{name}/in"]
            moved = np.array(prox.prox_l1(weights, Binary()(weights), tau))
            expected = golden[f"{name}/binary@{spelled}"]
            bound = 1.2e-7 * np.maximum(1, np.abs(weights))
            self.assertTrue(np.all(np.abs(moved - expected)[weights != 0] <= bound[weights != 0]))

    def test_a_zero_moves_up_where_the_authors_leave_it(self):
        golden = load("binary_ternary_f64.npz")
        weights = golden["edge_zeros/in"]
        self.assertTrue(np.all(golden["edge_zeros/binary@0p5"] == 0))
        moved = prox.prox_l1(weights, Binary()(weights), 0.5)
        np.testing.assert_array_equal(moved, np.full_like(weights, 0.5))


class TernaryTest(unittest.TestCase):
    def test_levels_are_the_authors(self):
        golden = load("binary_ternary_f64.npz")
        for name in names(golden):
            with self.subTest(name):
                weights = golden[f"{name}/in"]
                _, upper, lower, _ = np.nan_to_num(golden[f"{name}/tern_stats"])
                levels = np.array(Ternary(integer_ratios=False).levels(weights))
                np.testing.assert_allclose(
                    levels, [lower, 0, upper], rtol=tolerance(1, 1e-14, 1e-6)
                )

    def test_prox_towards_the_authors_codes_is_theirs(self):
        golden = load("binary_ternary_f64.npz")
        for name, (tau, spelled) in itertools.product(names(golden), TAUS.items()):
            with self.subTest(name, tau=tau):
                weights = golden[f"{name}/in"]
                moved = np.array(prox.prox_l2(weights, golden[f"{name}/ternarize_mean"], tau))
                error = np.abs(moved - golden[f"{name}/ternary@{spelled}"]).max(initial=0)
                self.assertLessEqual(error, tolerance(weights, float32=1e-6))

    def test_codes_differ_only_between_their_threshold_and_the_midpoint(self):
        golden = load("binary_ternary_f64.npz")
        for name in ("vec", "small2d"):
            weights, theirs = golden[f"{name}/in"], golden[f"{name}/ternarize_mean"]
            delta, upper, lower, _ = golden[f"{name}/tern_stats"]
            ours = np.array(Ternary(integer_ratios=False)(weights))
            differs = np.abs(ours - theirs) > 1e-6
            middle = np.where(weights > 0, upper, -lower) / 2
            between = (np.abs(weights) >= np.minimum(delta, middle)) & (
                np.abs(weights) <= np.maximum(delta, middle)
            )
            np.testing.assert_array_equal(differs, between)
            self.assertGreater(differs.sum(), 0)
            self.assertLess(np.sum((ours - weights) ** 2), np.sum((theirs - weights) ** 2))


class MultiBitTest(unittest.TestCase):
    """The authors' row-wise solver has 1e-6 in its denominators: rows only match roughly."""

    def each(self, arrays=("small2d",)):
        golden = load("multibit_f64.npz")
        for name, bits, mode in itertools.product(arrays, (2, 3, 4), ("all", "row")):
            weights = golden[f"{name}/in"]
            rows = weights if mode == "row" else weights.reshape(1, -1)
            part = {
                key.removeprefix(f"{name}/b{bits}_{mode}/"): value.reshape(
                    (len(rows), bits) if key.endswith("alpha") else weights.shape
                )
                for key, value in golden.items()
                if key.startswith(f"{name}/b{bits}_{mode}/")
            }
            yield bits, (0 if mode == "row" else None), weights, np.abs(rows), part

    def test_greedy_scales_are_the_authors(self):
        for bits, _, _, rows, golden in self.each(("small2d", "tiny2d")):
            scales = np.array(alternating.greedy_scales(ops.convert_to_tensor(rows), bits))
            rtol = tolerance(1, 1e-9, 2e-4)
            np.testing.assert_allclose(scales, golden["greedy_mean/alpha"], rtol=rtol)

    def test_one_refinement_is_the_authors(self):
        for bits, axis, _, rows, golden in self.each():
            scales = ops.convert_to_tensor(golden["greedy_mean/alpha"])
            refined = np.array(alternating.refine_greedy(ops.convert_to_tensor(rows), scales))
            rtol = tolerance(1, 1e-9 if axis is None else 1e-5, 2e-4)
            np.testing.assert_allclose(refined, golden["refine1/alpha"], rtol=rtol, err_msg=bits)

    def test_levels_are_the_authors_where_their_codes_are_the_nearest(self):
        for bits, axis, weights, _, golden in self.each():
            patterns = np.array(list(itertools.product((-1, 1), repeat=bits)))
            same = all(
                self.codes_are_nearest(weights, golden[f"{stage}/alpha"], golden[f"{stage}/w_hat"])
                for stage in ("greedy_mean", "refine1", "alt3")
            )
            self.assertTrue(same or bits > 2)
            if same:
                expected = np.sort(golden["alt3/alpha"] @ patterns.T, axis=1)
                free = MultiBit(bits, axis=axis, integer_ratios=False)
                levels = np.array(free.levels(weights))
                rtol = tolerance(1, 1e-9 if axis is None else 2e-6, 2e-4)
                np.testing.assert_allclose(np.atleast_2d(levels), expected, rtol=rtol)

    @staticmethod
    def codes_are_nearest(weights, scales, quantized):
        patterns = np.array(list(itertools.product((-1, 1), repeat=scales.shape[1])))
        levels = np.broadcast_to(scales @ patterns.T, (len(weights), len(patterns)))
        distance = np.abs(weights[:, :, None] - levels[:, None]).min(axis=2)
        return np.allclose(np.abs(weights - quantized), distance, atol=1e-12)

    def test_error_is_never_larger_than_the_authors(self):
        for bits, axis, weights, _, golden in self.each(("small2d", "tiny2d")):
            free = MultiBit(bits, axis=axis, integer_ratios=False)
            ours = np.sum((np.array(free(weights)) - weights) ** 2)
            theirs = np.sum((golden["alt3/w_hat"] - weights) ** 2)
            self.assertLessEqual(ours, theirs * (1 + tolerance(1, 1e-12, 1e-5)))

    def test_prox_of_one_bit_is_the_authors(self):
        golden = load("multibit_f64.npz")
        for name, (mode, axis) in itertools.product(("small2d",), (("all", None), ("row", 0))):
            weights = golden[f"{name}/in"]
            moved = prox.prox_l2(weights, MultiBit(1, axis=axis)(weights), 0.5)
            expected = golden[f"{name}/b1_{mode}/prox_mean@0p5"]
            np.testing.assert_allclose(moved, expected, rtol=tolerance(1, 1e-9, 2e-4))

    def test_nearest_level_is_that_of_the_authors_search_tree(self):
        golden = load("nearest_codes.npz")
        for bits in (1, 2, 3, 4):
            weights, scales = golden[f"k{bits}/w"], golden[f"k{bits}/alpha"]
            patterns = np.array(list(itertools.product((-1, 1), repeat=bits)), "float32")
            levels = np.sort(scales @ patterns.T, axis=1)
            quantized = np.array(MultiBit(bits, axis=0).nearest(weights, levels))
            expected = np.sum(golden[f"k{bits}/codes_row"] * scales[:, None], axis=2)
            np.testing.assert_allclose(quantized, expected, rtol=1e-6, atol=1e-6)


if __name__ == "__main__":
    unittest.main()
