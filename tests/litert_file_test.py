"""What the bytes of an exported file promise to a runtime that reads them in place."""

import pathlib
import tempfile
import unittest

import numpy as np
from ai_edge_litert import schema_py_generated as schema

import tf_proxquant as pq
from tests.litert_cases import exported, small_cnn
from tf_proxquant.litert.read import convert, flatbuffer


class FileTest(unittest.TestCase):
    def setUp(self):
        self.path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "model.tflite"

    def test_data_of_tensors_begin_at_multiples_of_16_bytes(self):
        for profile in ("fast", "portable", "small"):
            content = exported(small_cnn(pq.Ternary(axis=-1)), self.path, profile)
            start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
            file = schema.Model.GetRootAs(content, 0)
            places = [
                file.Buffers(i).DataAsNumpy().__array_interface__["data"][0] - start
                for i in range(file.BuffersLength())
                if file.Buffers(i).DataLength() >= 16
            ]
            self.assertGreater(len(places), 1)
            self.assertEqual([place % 16 for place in places], [0] * len(places), profile)

    def test_dequantize_has_the_version_that_knows_its_bits(self):
        # 5 reads a scale for each channel of int8, 6 int4, 7 int2; older runtimes then refuse.
        for quantizer, profile, version in (
            (pq.Ternary(axis=-1), "fast", 5),
            (pq.Uniform(4, axis=-1), "small", 6),
            (pq.Ternary(axis=-1), "small", 7),
        ):
            content = exported(small_cnn(quantizer), self.path, profile)
            codes = flatbuffer.Model(content).model.operatorCodes
            kind = schema.BuiltinOperator.DEQUANTIZE
            found = {code.version for code in codes if code.builtinCode == kind}
            self.assertEqual(max(found), version, (quantizer, profile))

    def test_notes_of_the_converter_that_no_longer_hold_are_left_out(self):
        def names(content):
            return {entry.name for entry in flatbuffer.Model(content).model.metadata or ()}

        converted, _ = convert.convert(small_cnn(pq.Ternary(axis=-1)))
        stale = names(converted) & {b"min_runtime_version", b"CONVERSION_METADATA"}
        self.assertTrue(stale, "The converter writes none of them: nothing is tested.")
        for profile in ("fast", "small"):
            content = exported(small_cnn(pq.Ternary(axis=-1)), self.path, profile)
            self.assertFalse(names(content) & stale)
            # Nor are their bytes: all buffers but the first, empty one are of tensors.
            model = flatbuffer.Model(content)
            used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
            self.assertEqual(used | {0}, set(range(len(model.model.buffers))), profile)


if __name__ == "__main__":
    unittest.main()
