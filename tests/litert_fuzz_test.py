"""Mutated files: the readers answer with a report or a ValueError, soon and without much memory."""

import os
import pathlib
import resource
import signal
import tempfile
import unittest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from tests.litert_cases import on_levels
from tf_proxquant import litert
from tf_proxquant.litert.archive import pqz as archive

NUM_FILES = 10_000
SECONDS = 5  # for one file; a sound one takes milliseconds
MAX_GROWTH = 600_000  # KiB of resident memory over all files
NUMBERS = (0, 1, 2, 127, 128, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1)


def dense():
    return keras.Sequential([keras.Input((24,)), layers.Dense(24), layers.Dense(4)])


def conv():
    parts = [keras.Input((4, 4, 2)), layers.Conv2D(4, 3), layers.DepthwiseConv2D(2)]
    return keras.Sequential(parts)


def recurrent():
    words = keras.Input((3,), dtype="int32")
    return keras.Model(words, layers.LSTM(4)(layers.Embedding(40, 8)(words)))


def storage(path):
    """A static file with its weights in tables."""
    wide = keras.Sequential([keras.Input((24,)), layers.Dense(24)])
    data = np.random.default_rng(0).normal(size=(8, 24)).astype(np.float32)
    options = {"representative_data": data, "verify": False, "weights": "tables"}
    litert.export(on_levels(wide, (-0.1, 0.1)), path, "static", **options)
    return path.read_bytes()


def seed_files(folder):
    """Small files of all forms, and an archive of one."""
    plans = [
        (dense, (-0.1, 0.1), "fast"),
        (dense, (-0.1, 0.1), "small"),
        (dense, (-0.171, -0.05, 0.041, 0.13), "small"),
        (conv, (-0.1, 0, 0.13), "small"),
        (recurrent, (-0.1, 0, 0.1), "small"),
    ]
    contents = []
    for number, (make, levels, profile) in enumerate(plans):
        path = folder / f"seed{number}.tflite"
        labels = list("abcd") if make is dense else None
        litert.export(on_levels(make(), levels), path, profile, verify=False, labels=labels)
        contents += [path.read_bytes()]
    contents += [storage(folder / "tables.tflite"), archive.compress(contents[0])]
    return contents


def mutate(random, contents):
    """One of the contents with one to three changes, many of them near the front."""
    content = bytearray(contents[random.integers(len(contents))])
    for _ in range(random.integers(1, 4)):
        at = int(len(content) * random.random() ** random.choice([1, 1, 3]))
        kind = random.integers(6)
        if kind == 0:
            content[at : at + 1] = bytes([random.integers(256)])
        elif kind == 1:
            content[at : at + 4] = int(random.choice(NUMBERS)).to_bytes(4, "little")
        elif kind == 2:
            content[at : at + 4] = int(random.integers(len(content) + 9)).to_bytes(4, "little")
        elif kind == 3 and random.random() < 0.2:
            del content[at:]
        elif kind == 4:
            other = contents[random.integers(len(contents))]
            start = int(random.integers(len(other)))
            size = int(random.integers(1, 64))
            content[at : at + size] = other[start : start + size]
        elif at < len(content):
            content[at] ^= 1 << int(random.integers(8))
        if not content:
            break
    return bytes(content)


def read(content, path):
    """Whether a reader accepts the content."""
    try:
        if content[:3] == b"PQZ":
            litert.expand(content)
        else:
            path.write_bytes(content)
            litert.inspect(path)
    except ValueError:
        return False
    return True


def too_slow(signum, frame):
    raise TimeoutError(f"no answer within {SECONDS} s")


class FuzzTest(unittest.TestCase):
    def test_ten_thousand_mutated_files_neither_crash_nor_hang_the_readers(self):
        random = np.random.default_rng(0)
        before = signal.signal(signal.SIGALRM, too_slow)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            contents = seed_files(folder)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            accepted = 0
            for number in range(NUM_FILES):
                content = mutate(random, contents)
                signal.alarm(SECONDS)
                try:
                    accepted += read(content, folder / "mutated.tflite")
                except Exception as error:
                    kept = pathlib.Path(tempfile.gettempdir(), f"fuzz-{number}.bin")
                    kept.write_bytes(content)
                    raise AssertionError(f"file {number}, kept as {kept}: {error!r}") from error
                finally:
                    signal.alarm(0)
            growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        self.assertLess(growth, MAX_GROWTH)
        # Neither all refused at the door nor hardly harmed.
        self.assertTrue(0.1 < accepted / NUM_FILES < 0.9, accepted)


if __name__ == "__main__":
    unittest.main()
