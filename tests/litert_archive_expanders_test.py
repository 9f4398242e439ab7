"""The expanders of archives in C++, Kotlin and JavaScript against the one in Python."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tests.litert_archive_cases import answer, ask, mutate, small_model
from tf_proxquant.litert.archive import pqz as archive

ROOT = pathlib.Path(__file__).resolve().parents[1]
NUM_MUTATIONS = 3000


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
        checks = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
        checks += ["-fsanitize=address,undefined"]
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
