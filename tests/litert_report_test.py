"""The report of an export: for people, for notebooks, for machines."""

import html.parser
import json
import unittest

import numpy as np

from tf_proxquant.litert.report import ExportReport, TensorRow


def make_report(name="dense/kernel", **fields):
    values = np.float32([[-0.5, 0.5], [0.5, -0.5]])
    row = TensorRow.of(
        values, name=name, operators=("FULLY_CONNECTED",), form="int8", bits=8, bytes_after=12,
        reason="a < b & c",
    )  # fmt: skip
    return ExportReport("digits.tflite", "fast", 100, 200, 90, (row,), **fields)


class LevelsTest(unittest.TestCase):
    def test_codes_of_short_channels_are_counted_over_all_of_them(self):
        random = np.random.default_rng(0)
        scales = random.uniform(0.5, 2, 64).astype("float32")
        for size, most in ((3, 7), (2, 7), (3, 1)):
            values = (
                random.integers(-most, most + 1, (1, size, size, 64)).astype("float32") * scales
            )
            with self.subTest(size=size, most=most):
                stored = row_of(values, "int8")
                self.assertEqual((stored.num_levels, stored.axis), (2 * most + 1, 3))
        one = random.integers(-7, 8, (1, 200)).astype("float32") * scales[0]
        self.assertEqual(row_of(one, "int8").num_levels, 15)
        values = random.normal(size=(1, 3, 3, 64)).astype("float32")
        for form in ("int8", "float32"):
            self.assertIsNone(row_of(values, form).num_levels)
        self.assertIsNone(row_of(np.rint(7 * values) * scales, "float32").num_levels)


def row_of(values, form):
    return TensorRow.of(values, form, name="", operators=(), bits=8, bytes_after=0)


class Table(html.parser.HTMLParser):
    """The cells of a table, row by row, and every tag that occurs."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.text, self.is_cell = [], set(), "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        self.is_cell = tag in ("td", "th")
        if self.is_cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.is_cell = False

    def handle_data(self, data):
        self.text += data
        if self.is_cell:
            self.rows[-1][-1] += data


class NotebookTest(unittest.TestCase):
    def test_it_is_a_table_with_the_cells_of_the_printed_one(self):
        report = make_report(errors={"xnnpack": 1e-7})
        table = Table(report._repr_html_())
        header, row = table.rows
        self.assertEqual(header[0], "tensor")
        self.assertEqual(row[:6], ["dense/kernel", "FULLY_CONNECTED", "2x2", "2", "int8", "8"])
        for cell in (*header, *row):
            self.assertIn(cell, str(report))
        self.assertIn("100 bytes, 90 deflated; float file 200 (50.0 %)", table.text)
        self.assertIn("xnnpack 1.0e-07", table.text)

    def test_names_from_a_file_cannot_write_html(self):
        report = make_report("<script>x</script>", notes=("<img src=x>",))
        text = report._repr_html_()
        self.assertEqual(Table(text).tags, {"table", "tr", "th", "td", "br"})
        self.assertEqual(Table(text).rows[1][0], "<script>x</script>")


class MachineTest(unittest.TestCase):
    def test_to_dict_is_json(self):
        found = json.loads(json.dumps(make_report().to_dict()))
        self.assertEqual((found["ratio"], found["rows"][0]["shape"]), (0.5, [2, 2]))


if __name__ == "__main__":
    unittest.main()
