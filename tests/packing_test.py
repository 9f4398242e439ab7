"""Tests of codes <-> bytes."""

import doctest
import unittest

import numpy as np
from absl.testing import parameterized

from tf_proxquant import packing

WIDTHS = tuple(range(1, 9))
COUNTS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 1001)


def random_codes(count, bits, signed):
    low, high = packing.code_range(bits, signed)
    return np.random.default_rng([count, bits]).integers(low, high + 1, count)


class CodesTest(parameterized.TestCase):
    @parameterized.product(bits=WIDTHS, signed=(True, False))
    def test_every_width_comes_back_exactly(self, bits, signed):
        for count in COUNTS:
            codes = random_codes(count, bits, signed)
            data = packing.pack_codes(codes, bits, signed=signed)
            self.assertEqual(data.size, packing.packed_size(count, bits))
            back = packing.unpack_codes(data.tobytes(), bits, count, signed=signed)
            np.testing.assert_array_equal(back, codes)
            self.assertEqual(back.dtype, np.int8 if signed else np.uint8)

    @parameterized.product(bits=WIDTHS)
    def test_the_layout_is_a_little_endian_bit_string(self, bits):
        codes = random_codes(37, bits, False)
        as_one_integer = sum(int(code) << bits * i for i, code in enumerate(codes))
        expected = as_one_integer.to_bytes(packing.packed_size(37, bits), "little")
        self.assertEqual(packing.pack_codes(codes, bits, signed=False).tobytes(), expected)

    def test_int2_and_int4_match_hand_packed_bytes(self):
        self.assertEqual(packing.pack_codes([1, -1, 0, -2, 1], 2).tobytes(), bytes([0x8D, 0x01]))
        self.assertEqual(packing.pack_codes([7, -8, -1], 4).tobytes(), bytes([0x87, 0x0F]))
        self.assertEqual(packing.pack_codes([1, 0, 0, 0, 0, 0, 0, 1, 1], 1).tobytes(), b"\x81\x01")

    def test_tensors_are_flattened_in_c_order_without_row_padding(self):
        codes = np.arange(6).reshape(2, 3) % 2
        np.testing.assert_array_equal(
            packing.pack_codes(np.asfortranarray(codes), 2), packing.pack_codes(codes.ravel(), 2)
        )

    @parameterized.parameters(
        (2, None, 2), (2, None, -3), (4, None, 8), (2, False, -1), (1, None, -1)
    )
    def test_codes_out_of_range_are_refused(self, bits, signed, code):
        with self.assertRaisesRegex(
            ValueError, rf"Received: codes from {min(0, code)} to {max(0, code)}"
        ):
            packing.pack_codes([0, code], bits, signed=signed)

    def test_messages_say_what_fits_and_what_to_do(self):
        for message, call in (
            (
                r"A 2-bit code lies in \[-2, 1\]; pass a larger `bits` or another `signed`\. ",
                lambda: packing.pack_codes([2], 2),
            ),
            ("base-3 code.*; pass a larger `base`", lambda: packing.pack_digits([3], 3)),
            ("^8 2-bit codes take 2 bytes", lambda: packing.unpack_codes(b"", 2, 8)),
            ("^6 base-3 digits take 2 bytes", lambda: packing.unpack_digits(b"", 3, 6)),
            ("base 3 reach only 242:", lambda: packing.unpack_digits(b"\xff", 3, 5)),
            ("count=True", lambda: packing.unpack_codes(b"\0", 1, True)),
        ):
            with self.assertRaisesRegex(ValueError, message):
                call()

    def test_packed_data_may_have_any_shape(self):
        data = np.array([[0x8D], [0x01]], np.uint8)
        self.assertEqual(packing.unpack_codes(data, 2, 5).tolist(), [1, -1, 0, -2, 1])

    @parameterized.parameters(0, 9, 2.0, True, None)
    def test_impossible_widths_are_refused(self, bits):
        with self.assertRaisesRegex(ValueError, "Received: bits="):
            packing.pack_codes([0], bits)

    def test_floats_and_wrong_lengths_are_refused(self):
        with self.assertRaisesRegex(ValueError, "dtype=float64"):
            packing.pack_codes([0.0], 2)
        for data in (b"", b"\0\0\0"):
            with self.assertRaisesRegex(ValueError, f"Received: {len(data)} bytes"):
                packing.unpack_codes(data, 2, 8)
        with self.assertRaisesRegex(ValueError, "count=-1"):
            packing.unpack_codes(b"", 2, -1)
        with self.assertRaisesRegex(ValueError, "dtype=int32"):
            packing.unpack_codes(np.zeros(2, np.int32), 2, 8)


class DigitsTest(parameterized.TestCase):
    @parameterized.parameters(2, 3, 4, 5, 6, 7, 15, 16, 17, 255, 256)
    def test_every_base_comes_back_exactly(self, base):
        for count in COUNTS:
            digits = np.random.default_rng(count).integers(0, base, count)
            data = packing.pack_digits(digits, base)
            self.assertEqual(data.size, -(-count // packing.digits_per_byte(base)))
            np.testing.assert_array_equal(packing.unpack_digits(data, base, count), digits)

    @parameterized.parameters((2, 1), (4, 2), (16, 4), (256, 8))
    def test_powers_of_two_agree_with_fixed_width_codes(self, base, bits):
        digits = random_codes(1000, bits, False)
        np.testing.assert_array_equal(
            packing.pack_digits(digits, base), packing.pack_codes(digits, bits, signed=False)
        )

    def test_five_trits_fill_a_byte(self):
        self.assertEqual(packing.pack_digits([2, 2, 2, 2, 2, 0, 1], 3).tobytes(), bytes([242, 3]))

    def test_values_stand_in_for_the_digits(self):
        values = np.array([1, -1, 0], np.int8)
        back = packing.unpack_digits(bytes([5, 1]), 3, 6, values=values)
        np.testing.assert_array_equal(back, values[[2, 1, 0, 0, 0, 1]])

    def test_digits_out_of_range_are_refused(self):
        for digit in (-1, 3):
            with self.assertRaisesRegex(ValueError, "base-3 code lies in"):
                packing.pack_digits([0, digit], 3)

    def test_bytes_that_stand_for_no_digits_are_refused(self):
        packing.unpack_digits(bytes([242]), 3, 5)
        with self.assertRaisesRegex(ValueError, "byte 243"):
            packing.unpack_digits(bytes([243]), 3, 5)

    def test_impossible_bases_are_refused(self):
        for base in (1, 257, 3.0, True):
            with self.assertRaisesRegex(ValueError, "Received: base="):
                packing.pack_digits([0], base)


class DocumentationTest(unittest.TestCase):
    def test_the_examples_are_right(self):
        self.assertEqual(doctest.testmod(packing).failed, 0)


if __name__ == "__main__":
    unittest.main()
