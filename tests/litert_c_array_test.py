"""litert/c_array.py: the header is compiled, and holds the bytes of the file."""

import pathlib
import shutil
import subprocess
import tempfile
import unittest

import numpy as np

from tf_proxquant.litert import c_array

PRINT = """
#include <stdio.h>
#include "2 cats-v1.h"
int main(void) {
  if ((unsigned long long)_2_cats_v1_tflite % 16) return 2;
  return fwrite(_2_cats_v1_tflite, 1, _2_cats_v1_tflite_size, stdout) !=
         _2_cats_v1_tflite_size;
}
"""


class CArrayTest(unittest.TestCase):
    def setUp(self):
        self.path = (
            pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "2 cats-v1.tflite"
        )

    def test_c_and_cplusplus_read_the_bytes_of_the_file_back(self):
        compiler = shutil.which("g++")
        if compiler is None:
            self.skipTest("g++ is not installed")
        content = np.random.default_rng(0).integers(0, 256, 1003, np.uint8).tobytes()
        self.path.write_bytes(content)
        c_array.write(self.path)
        for language, standard in (("c", "c11"), ("c++", "c++11")):
            source = self.path.with_name(f"print.{language[0]}")
            source.write_text(PRINT)
            program = self.path.with_name(f"print-{standard}")
            flags = ["-x", language, f"-std={standard}", "-Wall", "-Werror"]
            subprocess.run([compiler, *flags, source, "-o", program], check=True)
            printed = subprocess.run([program], capture_output=True, check=True).stdout
            self.assertEqual(printed, content)

    def test_a_file_that_is_not_there_is_a_clear_error(self):
        with self.assertRaisesRegex(ValueError, "Expected a file with bytes"):
            c_array.write(self.path)
