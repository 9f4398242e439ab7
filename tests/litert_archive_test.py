"""Tests of the archive and of its expanders on the device."""

import importlib.util
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flatbuffers
import keras
import numpy as np
from absl.testing import parameterized

from tf_proxquant import litert, models
from tf_proxquant.litert.archive import constants
from tf_proxquant.litert.archive import pqz as archive

ROOT = pathlib.Path(__file__).resolve().parents[1]
NUM_MUTATIONS = 3000
INT8 = 9


def flatbuffer(tensors):
    """Writes a .tflite file that holds `tensors` as constants and no operators.

    Args:
      tensors: list of int8 or float32 arrays; int8 ones get a scale for every row.
    """
    builder = flatbuffers.Builder(1 << 16)
    buffers, records = [table(builder, {})], []
    for index, tensor in enumerate(tensors):
        builder.StartVector(1, tensor.nbytes, 16)
        builder.head -= tensor.nbytes
        builder.Bytes[builder.head : builder.head + tensor.nbytes] = tensor.tobytes()
        buffers.append(table(builder, {constants.BUFFER_DATA: builder.EndVector()}))
        fields = {
            constants.TENSOR_SHAPE: builder.CreateNumpyVector(np.array(tensor.shape, np.int32)),
            constants.TENSOR_TYPE: np.int8(INT8 if tensor.dtype == np.int8 else 0),
            constants.TENSOR_BUFFER: np.uint32(index + 1),
        }
        if tensor.dtype == np.int8:
            scales = np.random.default_rng(index).random(len(tensor), np.float32)
            scales = builder.CreateNumpyVector(scales)
            fields[constants.TENSOR_QUANTIZATION] = table(
                builder, {constants.QUANTIZATION_SCALE: scales}
            )
        records.append(table(builder, fields))
    subgraph = table(builder, {constants.SUBGRAPH_TENSORS: vector(builder, records)})
    model = {
        constants.MODEL_SUBGRAPHS: vector(builder, [subgraph]),
        constants.MODEL_BUFFERS: vector(builder, buffers),
    }
    builder.Finish(table(builder, model), file_identifier=b"TFL3")
    return bytes(builder.Output())


def table(builder, fields):
    """Writes a table; a field is an offset (int) or a NumPy scalar."""
    builder.StartObject(max(fields, default=0) + 1)
    for number, value in fields.items():
        if isinstance(value, np.int8):
            builder.PrependInt8Slot(number, value, 0)
        elif isinstance(value, np.uint32):
            builder.PrependUint32Slot(number, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(number, value, 0)
    return builder.EndObject()


def vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def draw(levels, shape, shares=None, seed=0):
    generator = np.random.default_rng(seed)
    return np.array(levels, np.int8)[generator.choice(len(levels), shape, p=shares)]


def small_model():
    """A file with every kind of segment: binary, ternary, rows of their own levels, floats."""
    rows = np.concatenate([draw([-9 * r, -r, r, 9 * r], (1, 600), seed=r) for r in range(1, 7)])
    floats = np.random.default_rng(0).normal(size=(7, 33)).astype(np.float32)
    wide = draw(range(-100, 100), (5, 41))
    scales = np.random.default_rng(1).random((5, 1), np.float32)
    words = scales * draw([-1, 0, 1], (5, 99))
    codes = [draw([-1, 1], (7, 99)), draw([-1, 0, 1], (5, 77)), rows]
    return flatbuffer([*codes, floats, wide, words])


def streams_of(data):
    """Takes an archive apart into its header fields and inflated streams."""
    lengths = archive.HEADER.unpack_from(data)[4:]
    streams, at = [], archive.HEADER.size
    for deflated in lengths[1::2]:
        streams.append(bytearray(zlib.decompress(data[at : at + deflated], -15)))
        at += deflated
    return streams


def rebuild(data, streams, size=None):
    """Puts an archive together from streams with lengths that agree."""
    magic, version, old_size, checksum, *_ = archive.HEADER.unpack_from(data)
    packed = [archive._deflate([bytes(stream)], 9) for stream in streams]
    lengths = [n for pair in zip(streams, packed, strict=True) for n in map(len, pair)]
    size = old_size if size is None else size
    return b"".join([archive.HEADER.pack(magic, version, size, checksum, *lengths), *packed])


def mutate(data, generator):
    """Damages an archive: its bytes, its length, its header, or a stream behind right lengths."""
    damaged = bytearray(data)
    choice = generator.integers(6)
    if choice == 0:
        return data[: generator.integers(len(data))]
    if choice == 1:
        damaged[generator.integers(len(data))] ^= 1 << generator.integers(8)
    elif choice == 2:
        at = 4 * generator.integers(archive.HEADER.size // 4)
        struct.pack_into("<I", damaged, at, interesting(generator))
    elif choice == 3:
        at, size = generator.integers(len(data)), generator.integers(1, 40)
        damaged[at : at + size] = generator.bytes(generator.integers(40))
    else:
        streams = streams_of(data)
        stream = streams[0 if choice == 4 else generator.integers(4)]
        at = generator.integers(len(stream))
        if generator.random() < 0.3:
            del stream[at:]
        else:
            stream[at] = generator.integers(256)
        return rebuild(data, streams, None if generator.random() < 0.7 else interesting(generator))
    return bytes(damaged)


def interesting(generator):
    return int(
        generator.choice([0, 1, 43, 44, 1 << 10, 1 << 20, 1 << 31, (1 << 32) - 1])
        + generator.integers(2) * generator.integers(-1, 2)
    ) % (1 << 32)


def answer(data):
    """What the harnesses print of one archive."""
    try:
        expanded = archive.expand(data)
    except ValueError:
        return "refused"
    return f"{len(expanded)} {zlib.crc32(expanded):08x}"


def ask(command, archives):
    """Sends archives to a harness and returns its lines."""
    message = b"".join(struct.pack("<I", len(data)) + data for data in archives)
    run = subprocess.run(command, input=message, capture_output=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout.decode().split("\n")[:-1]


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


class DeviceTest(unittest.TestCase):
    """The expanders in C++, Kotlin and JavaScript give what the one in Python gives."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.data = archive.compress(small_model())
        generator = np.random.default_rng(1)
        cls.archives = [archive.compress(data) for data in (b"", b"abc", bytes(5000))]
        cls.archives += [mutate(cls.data, generator) for _ in range(NUM_MUTATIONS)]

    def check(self, command, archives=None):
        archives = archives or self.archives
        self.assertEqual(ask(command, [self.data]), [answer(self.data)])
        self.assertEqual(ask(command, archives), [*map(answer, archives)])

    def test_cpp_agrees_on_archives_and_on_mutations(self):
        compiler = shutil.which("g++")
        if not compiler:
            self.skipTest("g++ is not installed")
        binary = self.folder / "harness"
        checks = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsanitize=address,undefined"]
        options = ["-std=c++17", "-O1", "-fno-exceptions", "-fno-sanitize-recover", *checks]
        sources = ["-I", ROOT / "device", ROOT / "tests" / "pqz_harness.cc", "-lz"]
        subprocess.run([compiler, *options, *sources, "-o", binary], check=True)
        self.check([binary])

    def test_the_cpp_header_has_under_100_lines(self):
        self.assertLess(len((ROOT / "device" / "pqz.h").read_text().splitlines()), 100)

    def test_kotlin_agrees_on_archives_and_on_mutations(self):
        jars = kotlin_jars()
        if not jars or not shutil.which("java"):
            self.skipTest(
                "no Java or no Kotlin compiler: put `kotlinc` on the path or "
                "`pip install kotlin-jupyter-kernel`, which brings its jars"
            )
        sources = [ROOT / "device" / "Pqz.kt", ROOT / "tests" / "pqz_harness.kt"]
        compiler = ["java", "-cp", jars, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
        library = os.pathsep.join(map(str, pathlib.Path(jars).parent.glob("kotlin-stdlib*.jar")))
        options = ["-no-stdlib", "-no-reflect", "-Werror", "-cp", library]
        subprocess.run([*compiler, *options, *sources, "-d", self.folder], check=True)
        classes = os.pathsep.join([str(self.folder), jars])
        self.check(["java", "-cp", classes, "Pqz_harnessKt"])

    def test_javascript_agrees_on_archives_and_on_mutations(self):
        node = shutil.which("node")
        probe = "process.exit(require('zlib').crc32 ? 0 : 1)"
        if not node or subprocess.run([node, "-e", probe], check=False).returncode:
            self.skipTest("no Node of version 20.15 or later")
        # A browser's inflater takes milliseconds for each archive.
        self.check([node, ROOT / "tests" / "pqz_harness.mjs"], self.archives[:800])


def kotlin_jars():
    """Returns the class path of a Kotlin compiler, or None where there is none."""
    kotlinc = shutil.which("kotlinc")
    if kotlinc:
        return str(pathlib.Path(kotlinc).resolve().parents[1] / "lib" / "*")
    kernel = importlib.util.find_spec("run_kotlin_kernel")
    if kernel:
        return str(pathlib.Path(kernel.submodule_search_locations[0], "jars", "*"))
    return None


if __name__ == "__main__":
    unittest.main()
