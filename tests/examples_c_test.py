"""examples/c: a program in C computes what Python computes, from a file and from its archive."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ai_edge_litert
import keras
import numpy as np
from keras import layers

import tf_proxquant as pq
from tf_proxquant import litert

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ROOT / "examples" / "c"
LIBRARY = pathlib.Path(ai_edge_litert.__file__).with_name("libLiteRt.so")
CHECKS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]


def build(folder):
    """Compiles the program as its comment says, and returns its path."""
    objects = []
    for source, compiler in (
        ("expand.cc", ["g++", "-std=c++17"]),
        ("classify.c", ["gcc", "-std=c11"]),
    ):
        target = folder / f"{source}.o"
        options = [*CHECKS, "-I", ROOT / "device", "-c", SOURCES / source, "-o", target]
        subprocess.run([*compiler, *options], check=True)
        objects.append(target)
    program, home = folder / "classify", LIBRARY.parent
    link = ["-L", home, f"-Wl,-rpath,{home}", f"-l:{LIBRARY.name}", "-lz", "-o", program]
    subprocess.run(["g++", *objects, *link], check=True)
    return program


@unittest.skipUnless(shutil.which("g++") and shutil.which("gcc"), "needs gcc and g++")
@unittest.skipUnless(LIBRARY.exists(), "this ai-edge-litert has no libLiteRt.so")
class ClassifyTest(unittest.TestCase):
    def test_scores_are_those_of_python(self):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((9, 7, 3))
        x = layers.Conv2D(16, 3, activation="relu")(inputs)
        model = keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)))
        pq.snap(model, pq.Binary("mean", axis=-1))
        data = np.random.default_rng(0).normal(size=(8, 9, 7, 3)).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            program = build(folder)
            for profile, io in (("fast", "float32"), ("static", "int8")):
                path, archive = folder / "model.tflite", folder / "model.tflite.pqz"
                options = {"representative_data": data, "io": io} if profile == "static" else {}
                pq.export(model, path, profile, batch_size=1, archive=True, **options)
                samples = data if io == "float32" else (32 * data).clip(-128, 127).astype(np.int8)
                samples.tofile(folder / "samples")
                expected = litert.predict(path, samples)
                for source in (path, archive):
                    command = [program, source, folder / "samples", folder / "scores"]
                    subprocess.run(command, check=True, capture_output=True)
                    scores = np.fromfile(folder / "scores", expected.dtype)
                    np.testing.assert_array_equal(scores.reshape(expected.shape), expected)
            archive.write_bytes(archive.read_bytes()[:-1])
            command = [program, archive, folder / "samples", folder / "scores"]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            self.assertIn("the archive is damaged", done.stderr)


if __name__ == "__main__":
    unittest.main()
