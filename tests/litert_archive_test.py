"""Tests of the archive: sizes, exact copies, and refusal of what is damaged."""

import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl.testing import parameterized

from tests.litert_archive_cases import (
    answer,
    draw,
    flatbuffer,
    mutate,
    rebuild,
    small_model,
    streams_of,
)
from tf_proxquant import litert, models
from tf_proxquant.litert.archive import pqz as archive

ROOT = pathlib.Path(__file__).resolve().parents[1]
NUM_MUTATIONS = 3000


class ArchiveTest(parameterized.TestCase):
    def test_the_file_comes_back_byte_for_byte(self):
        for tflite in (
            small_model(),
            b"",
            b"x",
            b"\0\0\0\0TFL3",
            small_model()[:-5],
            os.urandom(999),
        ):
            self.assertEqual(archive.expand(archive.compress(tflite)), tflite)

    def test_every_kind_of_segment_occurs(self):
        plan = streams_of(archive.compress(small_model()))[0]
        kinds = set()
        while plan:
            kinds.add(plan[0])
            del plan[: 5 + (plan[0] % 128 * (4 if plan[0] > 128 else 1) if plan[0] > 1 else 0)]
        self.assertEqual(kinds, {archive.PLAIN, archive.FLOATS, 2, 3, 4, archive.WORDS + 3})

    @parameterized.parameters(
        ([-1, 1], [0.5, 0.5]),
        ([-1, 1], [0.3, 0.7]),
        ([-1, 0, 1], [0.29, 0.42, 0.29]),
        ([-1, 0, 1], [0.15, 0.7, 0.15]),
        ([-7, -2, 2, 7], [0.15, 0.35, 0.35, 0.15]),
        ([-3, -2, -1, 0, 1, 2, 3], [0.04, 0.11, 0.21, 0.28, 0.21, 0.11, 0.04]),
    )
    def test_codes_take_little_more_than_their_entropy(self, levels, shares):
        codes = draw(levels, (1000, 1000), shares)
        limit = -codes.size * np.dot(shares, np.log2(shares)) / 8
        scales = 4 * len(codes)
        size = len(archive.compress(flatbuffer([codes])))
        self.assertLess(size, 1.015 * limit + scales + 300)

    def test_rows_with_levels_of_their_own_are_packed_by_row(self):
        codes = np.stack([draw([-9 * r, -r, r, 9 * r], 900, seed=r) for r in range(1, 13)])
        size = len(archive.compress(flatbuffer([codes])))
        self.assertLess(size, codes.size / 4 + 600)

    def test_floats_of_few_values_in_a_row_are_packed_as_codes(self):
        generator = np.random.default_rng(2)
        floats = np.stack([generator.normal(size=3)[draw([0, 1, 2], 2000)] for _ in range(40)])
        size = len(archive.compress(flatbuffer([floats.astype(np.float32)])))
        self.assertLess(size, floats.size / 5 + 40 * 18 + 300)

    def test_random_floats_cost_at_most_seven_eighths(self):
        floats = np.random.default_rng(1).normal(size=(100, 100)).astype(np.float32)
        self.assertLess(len(archive.compress(flatbuffer([floats]))), 0.875 * floats.nbytes)

    def test_a_constant_file_is_not_taken_for_a_bomb(self):
        tflite = flatbuffer([np.zeros((1000, 3000), np.float32)])
        self.assertEqual(archive.expand(archive.compress(tflite)), tflite)

    def test_archives_work_where_only_numpy_is_installed(self):
        script = (
            "import sys\n"
            "class Block:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        allowed = ('numpy', 'tf_proxquant', *sys.stdlib_module_names)\n"
            "        if name.split('.')[0] not in allowed:\n"
            "            raise ImportError('blocked: ' + name)\n"
            "sys.meta_path.insert(0, Block())\n"
            "import tf_proxquant.litert.archive as archive\n"
            "assert archive.expand(archive.compress(bytes(100))) == bytes(100)\n"
            "import tf_proxquant as pq\n"
            "assert pq.expand is archive.expand\n"
            "try:\n"
            "    pq.ProxQuant\n"
            "except ImportError as error:\n"
            "    print(error)\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", script],
            check=True, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        self.assertIn("needs Keras and its backend: blocked", done.stdout)


class ExportTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = self.folder / "model.tflite"
        self.archive_path = self.folder / "model.tflite.pqz"

    def test_binary_resnet20_takes_4_percent_of_its_float_file(self):
        model = models.resnet(20, (32, 32, 3), 10)
        generator = np.random.default_rng(0)
        for variable in model.trainable_variables:
            if variable.path.endswith("kernel"):
                variable.assign(generator.choice([-0.1, 0.1], variable.shape))
            else:
                variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        report = litert.export(model, self.path, archive=True, verify=False)
        self.assertLess(report.archive_bytes, 0.04 * report.float_bytes)
        self.assertEqual(report.archive_bytes, self.archive_path.stat().st_size)
        self.assertEqual(litert.expand(self.archive_path), self.path.read_bytes())
        self.assertEqual(litert.expand(str(self.archive_path)), self.path.read_bytes())

    def test_a_refused_export_leaves_both_old_files_and_no_debris(self):
        self.path.write_bytes(b"old")
        self.archive_path.write_bytes(b"old archive")
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.layers[0].kernel.assign(np.full((4, 2), np.nan))
        with self.assertRaises(ValueError):
            litert.export(model, self.path, archive=True)
        self.assertEqual(self.path.read_bytes(), b"old")
        self.assertEqual(self.archive_path.read_bytes(), b"old archive")
        self.assertEqual(set(self.folder.iterdir()), {self.path, self.archive_path})

    def test_without_the_option_there_is_no_archive(self):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        report = litert.export(model, self.path, verify=False)
        self.assertIsNone(report.archive_bytes)
        self.assertFalse(self.archive_path.exists())

    def test_a_missing_path_is_named(self):
        with self.assertRaisesRegex(FileNotFoundError, "absent.pqz"):
            archive.expand(self.folder / "absent.pqz")


class HostileArchiveTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tflite = small_model()
        cls.data = archive.compress(cls.tflite)

    def assert_refused(self, data, message):
        with self.assertRaisesRegex(ValueError, message):
            archive.expand(data)

    def test_every_truncation_is_refused(self):
        for size in range(0, len(self.data), 7):
            self.assert_refused(self.data[:size], "Not a usable .pqz archive")

    def test_other_files_and_newer_versions_are_refused(self):
        self.assert_refused(self.tflite, "starts with")
        self.assert_refused(b"PQZ\x02" + self.data[4:], "version 2 is unknown")
        with self.assertRaisesRegex(ValueError, "Received: int"):
            archive.expand(5)

    def test_a_changed_checksum_is_refused(self):
        self.assert_refused(self.data[:8] + bytes(4) + self.data[12:], "checksum")

    def test_a_lying_size_takes_no_memory(self):
        for at in (4, 12, 20, 28, 36):
            damaged = bytearray(self.data)
            struct.pack_into("<I", damaged, at, (1 << 31) - 1)
            self.assert_refused(damaged, "declares 2147483647 bytes")

    def test_a_bomb_is_refused(self):
        streams = streams_of(self.data)
        streams[1] = bytes(1 << 24)
        self.assert_refused(rebuild(self.data, streams), "declares 16777216 bytes")
        honest = bytearray(rebuild(self.data, streams))
        struct.pack_into("<I", honest, 20, 1 << 10)
        self.assert_refused(honest, "does not inflate to its declared length")

    def test_a_limit_is_kept(self):
        self.assertEqual(archive.expand(self.data, max_bytes=len(self.tflite)), self.tflite)
        with self.assertRaisesRegex(ValueError, "max_bytes"):
            archive.expand(self.data, max_bytes=len(self.tflite) - 1)

    def test_segments_past_the_file_or_a_stream_are_refused(self):
        for count in (0, 1 << 16, (1 << 32) - 1):
            streams = streams_of(self.data)
            struct.pack_into("<I", streams[0], 1, count)
            self.assert_refused(rebuild(self.data, streams), "segments")
        for index in range(4):
            streams = streams_of(self.data)
            streams[index] += bytes(4)
            self.assert_refused(rebuild(self.data, streams), "segments")
            streams[index] = streams[index][:-8]
            self.assert_refused(rebuild(self.data, streams), "segments")

    def test_bytes_that_are_no_trits_are_refused(self):
        streams = streams_of(self.data)
        streams[3][:] = b"\xff" * len(streams[3])
        self.assert_refused(rebuild(self.data, streams), "byte 255")

    def test_mutations_are_refused_or_harmless(self):
        generator = np.random.default_rng(0)
        for _ in range(NUM_MUTATIONS):
            mutation = mutate(self.data, generator)
            self.assertIn(answer(mutation), ("refused", answer(self.data)))
