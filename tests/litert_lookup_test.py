"""Tables that are looked up row by row: exact, small, stored once."""

import os
import pathlib
import tempfile
import unittest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tf_proxquant as pq
from tf_proxquant import litert
from tf_proxquant.litert import plan, write
from tf_proxquant.litert.check import runtime, verify
from tf_proxquant.litert.forms import tables
from tf_proxquant.litert.plan import small
from tf_proxquant.litert.read import convert, flatbuffer

ROWS, COLUMNS = 400, 48


def table(levels, columns=COLUMNS):
    """Rows drawn from `levels`, each times a factor of its own."""
    random = np.random.default_rng(0)
    drawn = random.choice(np.float32(levels), (ROWS, columns))
    return drawn * random.uniform(0.5, 2, (ROWS, 1)).astype("float32")


def embedding(values):
    words = keras.Input((5,), dtype="int32")
    model = keras.Model(words, keras.layers.Embedding(*values.shape)(words))
    model.layers[-1].embeddings.assign(values)
    return model


class LookupTest(unittest.TestCase):
    def setUp(self):
        self.path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "model.tflite"

    def test_every_row_comes_out_bit_for_bit_on_both_kernels(self):
        uneven = [-1.31, -0.52, 0.52, 1.31]
        cases = {
            "1 bit direct": [-1, 1],
            "int2 direct": [-2, -1, 0],
            "int4 direct": [-5, -3, -2, 1, 2, 7],
            "int2 direct table": uneven,
            "int4 direct table": [*uneven, -0.2, 0.2, 0.9, -0.9],
        }
        places = np.arange(ROWS).reshape(-1, 5)
        for form, levels in cases.items():
            values = table(levels)
            for profile in ("small", "dynamic"):
                with self.subTest(f"{form} {profile}"):
                    (row,) = litert.export(embedding(values), self.path, profile).rows
                    self.assertEqual(row.form, form)
                    self.assertRegex(row.name, r"^embedding(_\d+)*$")
                    for kernels in runtime.KERNELS:
                        found = litert.predict(self.path, places, kernels=kernels)
                        np.testing.assert_array_equal(found, values[places])

    def test_rows_of_bits_that_fill_no_whole_byte_are_cut(self):
        values, places = table([-1, 1], columns=44), np.arange(ROWS).reshape(-1, 5)
        (row,) = litert.export(embedding(values), self.path, "small").rows
        self.assertEqual(row.form, "1 bit direct")
        self.assertEqual([r.form for r in litert.inspect(self.path).rows], ["1 bit direct"])
        for batch_size in (1, 80):
            found = litert.predict(self.path, places, batch_size=batch_size)
            np.testing.assert_array_equal(found, values[places])

    def test_a_list_of_levels_is_smaller_than_a_wider_grid(self):
        codes = table([-127, -45, 45, 127])
        bits = tables.find_table(codes).bits, tables.find_table(codes, 4).bits
        self.assertEqual(bits, (2, 8))
        self.assertIsNone(tables.encode_rows(np.random.default_rng(0).normal(size=(ROWS, COLUMNS))))

    def test_a_table_that_a_dense_layer_shares_is_stored_once(self):
        model = pq.models.lstm_language_model(ROWS, COLUMNS, COLUMNS, tied=True)
        for variable in model.trainable_variables:
            axis = 0 if "embeddings" in variable.path else -1
            if variable.path.endswith(("embeddings", "kernel")):
                variable.assign(pq.MultiBit(1, axis=axis)(variable))
        for profile, bits in (("small", 2), ("dynamic", 4)):
            litert.export(pq.models.with_states(model), self.path, profile)
            content = flatbuffer.Model(self.path.read_bytes())
            sizes = [0 if b.data is None else len(b.data) for b in content.model.buffers]
            self.assertEqual(sizes.count(ROWS * COLUMNS * bits // 8), 1, profile)

    def test_fast_stores_no_zero_points_of_rows(self):
        """Eight bytes a row: with rows of 16, a third of the file."""
        report = litert.export(embedding(table([-5, -2, 0, 7], 16)), self.path)
        self.assertEqual(report.rows[0].form, "int8 scaled")
        self.assertLess(report.ratio, 0.38)
        self.assertGreater(report.graph_bytes, 0)

    def test_small_is_never_larger_than_fast(self):
        for columns in (8, 16, 48):
            drawn = table([-1.31, -0.52, 0.52, 1.31], columns)
            model = embedding(keras.ops.convert_to_numpy(pq.MultiBit(2, axis=0)(drawn)))
            sizes = [litert.export(model, self.path, name).bytes for name in ("small", "fast")]
            padding = 32  # of names and operators, whose lengths are not those of the tables
            self.assertLessEqual(sizes[0], sizes[1] + padding)

    def test_a_wrong_row_is_found(self):
        values = table([-1, 1])
        content, _ = convert.convert(embedding(values))
        model = flatbuffer.Model(content)
        changes = small.plan(model, plan.Request("small")).changes
        file, exact = write.apply(model, changes)
        verify.check_weights(file, exact)
        ((key, weights),) = exact.items()
        weights = weights.copy()
        weights[-1, 0] += 1
        with self.assertRaisesRegex(verify.VerificationError, "does not look up"):
            verify.check_weights(file, {key: weights})
