"""Sizes, costs and values of each form, by hand: plans compare them. NumPy only."""

import numpy as np
from absl.testing import parameterized

from tf_proxquant.litert.forms import decoded, planes, tables
from tf_proxquant.litert.plan import budget

# Bytes of an operator.
OP = 90
# Four rows of eight weights; another factor for each row, exact in float32.
FACTORS = np.float32([[1], [3], [0.5], [0.75]])
UNEVEN = np.float32([[1], [np.pi], [0.51], [0.77]])  # no grid for all rows
TERNARY = np.tile(np.float32([-1, 0, 1, 1]), (4, 2))
BINARY = np.tile(np.float32([-1, 1, 1, 1]), (4, 2))
ODD = np.tile(np.float32([-3, -1, 1, 3]), (4, 2))
FREE = np.tile(np.float32([-1.9, -0.6, 0.6, 1.9]), (4, 2))
LOW = np.tile(np.float32([-0.7, 0, 1.1, 1.1]), (4, 2))
BOTH = LOW * np.float32([[1], [-1], [1], [-1]])  # the larger level on either side


def integer(bits):
    return lambda weights, axis: decoded.encode_integer(weights, bits, axis)


def table(bits):
    return lambda weights, axis: decoded.encode_table(weights, bits, axis)


class FormsTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("int8", integer(8), TERNARY, "int8", 8, (32 + 4 + OP, 32 + 16 + OP), 0, True),
        ("int4", integer(4), TERNARY, "int4", 4, (16 + 4 + OP, 16 + 16 + OP), 0, False),
        ("int2", integer(2), TERNARY, "int2", 2, (8 + 4 + OP, 8 + 16 + OP), 0, False),
        ("planes", planes.encode_planes, BINARY, "1 bit", 1, (4 + 4, 4 + 16), 0.6, False, 4),
        ("odd", decoded.encode_odd, ODD, "int2 odd", 2, (8 + 4, 8 + 16), 0.2, False, 3),
        ("sum", decoded.encode_sum, FREE, "int2 + int2", 4, (24, 48), 0.1, False, 3),
        ("table2", table(2), FREE, "int2 table", 2, (8 + 16 + 4, 8 + 64 + 16), 6, False, 4),
        ("table8", table(8), FREE, "int8 table", 8, (32 + 16 + 4, 32 + 64 + 16), 6, False, 4),
    )
    def test_size_and_cost(self, encode, weights, name, bits, sizes, cost, kept, operators=0):
        for axis, values, size in ((None, weights, sizes[0]), (0, weights * FACTORS, sizes[1])):
            form = encode(values, axis)
            self.assertEqual((form.name, form.bits), (name, bits))
            self.assertEqual(form.num_bytes, size + operators * OP)
            self.assertAlmostEqual(form.decode_cost, cost)
            self.assertEqual(form.keeps_xnnpack, kept)

    def test_a_clamp_cuts_where_a_row_needs_it(self):
        one = decoded.encode_clamp(LOW)
        self.assertEqual((one.name, one.num_bytes), ("int2 clamp", 8 + 2 * (4 + OP)))
        self.assertAlmostEqual(one.decode_cost, 0.1)
        two = decoded.encode_clamp(BOTH, 0)
        self.assertEqual((two.num_bytes, two.bits), (8 + 3 * (16 + OP), 2))
        self.assertAlmostEqual(two.decode_cost, 0.2)
        self.assertIsNone(decoded.encode_clamp(TERNARY))  # int2 as it is
        self.assertIsNone(decoded.encode_clamp(FREE))
        self.assertIsNone(decoded.encode_clamp(LOW + (LOW == 0)))

    def test_half_says_what_it_decodes_to(self):
        form = decoded.encode_half(np.float32([[0.1, 1e6]]))
        np.testing.assert_array_equal(form.values, [[np.float32(np.float16(0.1)), np.inf]])
        self.assertEqual((form.num_bytes, form.bits, form.keeps_xnnpack), (4 + OP, 16, True))

    def test_codes_and_offsets_of_a_dense_layer_give_the_weights(self):
        for weights, size in ((ODD, 8 + 4 + 4), (ODD * FACTORS, 8 + 16 + 16)):
            form = decoded.encode_offset(weights)
            self.assertEqual((form.name, form.bits, form.num_bytes), ("int2 odd", 2, size + 5 * OP))
            scaled = form.codes.scales[:, None] * form.codes.codes
            np.testing.assert_array_equal(scaled + form.offsets[:, None], weights)
            self.assertEqual((form.codes.bits, form.codes.axis), (2, 0))
        self.assertIsNone(decoded.encode_offset(FREE))

    @parameterized.named_parameters(
        ("one_scale", TERNARY, "int2 direct", 8 + 4 + 3 * OP),
        ("scales", TERNARY * UNEVEN, "int2 direct", 8 + 12 * 4 + 3 * OP),
        ("signs", BINARY, "1 bit direct", 4 + 4 + 10 * OP),
        ("scaled_signs", BINARY * FACTORS, "1 bit direct", 4 + 4 * 4 + 10 * OP),
        ("listed", np.tile(FREE, 8) * FACTORS, "int2 direct table", 64 + 4 + 64 + 10 * OP),
    )
    def test_rows(self, weights, name, size):
        form = tables.encode_rows(weights)
        self.assertEqual((form.name, form.num_bytes, form.keeps_xnnpack), (name, size, True))
        self.assertEqual(form.bits, form.table.bits)


class StepsTest(parameterized.TestCase):
    def test_each_step_saves_most_for_its_time_from_the_one_before(self):
        ways = [budget.Way(*way) for way in ((900, 0.0, "free"), (600, 10.0, "a"), (500, 40.0, "b"),
                                             (100, 50.0, "c"), (99, 60.0, "d"))]  # fmt: skip
        steps = budget.steps_down("key", 1000, ways, min_saved=2)
        self.assertEqual(
            steps, [budget.Step("key", "a", 400, 10.0), budget.Step("key", "c", 500, 40.0)]
        )
        (last,) = budget.steps_down("key", 1000, ways, min_saved=900)
        self.assertEqual((last.form, last.saved), ("c", 900))
        self.assertLen(budget.steps_down("key", 1000, ways, min_saved=1), 3)
        self.assertLen(budget.steps_down("key", 599, ways), 1)
        self.assertEqual(budget.steps_down("key", 598, ways), [])
