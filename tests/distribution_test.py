"""Replicas on one machine, in processes of their own."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import unittest

import keras
import numpy as np

import tf_proxquant as pq
from tests import processes
from tests.processes import ROOT
from tests.training_cases import KILLED, LIKE_DIGITS

LIMIT = 1800  # seconds: ends a hang, and is far from what a busy machine takes

CODE = """
import keras, numpy as np, tensorflow as tf
import tf_proxquant as pq

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
random = np.random.default_rng(0)
x, y = random.normal(size=(48, 6)), random.normal(size=(48, 3))

def train(optimizer, devices):
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(3)])
        model.compile(optimizer(), "mse")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(24)
    model.fit(data, epochs=4, verbose=0)
    return model

for make in (
    lambda: pq.ProxQuant("adam", pq.Ternary(), 1.0, freeze_step=5),
    lambda: pq.ProxConnect("adam", pq.Binary(), clip=1.0),
    lambda: pq.ProxQuant(
        "adam", pq.Binary("mean"), prox="piecewise_affine", memory=0.9, freeze_step=7),
    lambda: pq.ProxQuant("adam", pq.Binary(), 1e4),
):
    one, three = train(make, 1), train(make, 3)
    for before, after in zip(one.get_weights(), three.get_weights()):
        np.testing.assert_allclose(before, after, atol=1e-5)
    kernel = three.get_layer("hidden").kernel.value
    copies = [value.numpy() for value in kernel.values]
    for copy in copies:
        np.testing.assert_array_equal(copy, copies[0])
    assert len(copies) == 3 and len(np.unique(copies[0])) <= 3, np.unique(copies[0])
print("equal")
"""


@unittest.skipIf(keras.backend.backend() != "tensorflow", "tf.distribute is TensorFlow's")
class MirroredStrategyTest(unittest.TestCase):
    def test_three_replicas_take_the_steps_of_one_and_stay_equal_and_on_the_grid(self):
        result = processes.run("-c", CODE)
        self.assertEqual(result.stdout.strip().splitlines()[-1:], ["equal"], result.stderr[-3000:])


@unittest.skipIf(keras.backend.backend() != "tensorflow", "tf.distribute is TensorFlow's")
class MultiWorkerTest(unittest.TestCase):
    def test_two_workers_in_a_loop_of_their_own_end_where_one_does(self):
        with tempfile.TemporaryDirectory() as folder:
            addresses = [free_address(), free_address()]
            programs = []
            for workers, index in ((addresses, 0), (addresses, 1), ([free_address()], 0)):
                config = {
                    "cluster": {"worker": workers},
                    "task": {"type": "worker", "index": index},
                }
                out = f"{folder}/{len(workers)}-{index}.npz"
                programs.append(
                    processes.Program(
                        "-m", "examples.multi_worker", f"--out={out}",
                        environment={"TF_CONFIG": json.dumps(config)},
                    )
                )  # fmt: skip
            for program in programs:
                result = program.finish(timeout=LIMIT)
                self.assertEqual(result.returncode, 0, result.stderr[-3000:])
            first, second, alone = (
                list(np.load(f"{folder}/{name}.npz").values()) for name in ("2-0", "2-1", "1-0")
            )
        for one, two, three in zip(first, second, alone, strict=True):
            self.assertEqual(one.tobytes(), two.tobytes())
            np.testing.assert_allclose(one, three, atol=1e-4)
        columns = [len(np.unique(column)) for column in first[0].T]
        self.assertEqual(max(columns), 2)


# One of several JAX processes; each feeds its part of every batch, and writes what it holds.
JAX_CODE = """
import sys
folder, index, count, address = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
import keras, numpy as np
keras.utils.set_random_seed(0)
if count > 1:
    keras.distribution.initialize(address, count, index)
keras.distribution.set_distribution(keras.distribution.DataParallel(
    devices=keras.distribution.list_devices(), auto_shard_dataset=False))
import tf_proxquant as pq
from tf_proxquant.datasets import Batches

random = np.random.default_rng(0)
images, labels = random.normal(size=(48, 2, 3, 1)).astype("float32"), np.arange(48) % 3
made = {
    "l1": lambda: pq.ProxQuant(
        keras.optimizers.SGD(0.1, momentum=0.9), pq.Ternary(), 1.0, freeze_step=5),
    "lazy": lambda: pq.ProxConnect(keras.optimizers.SGD(0.1), pq.Binary(), clip=1.0),
}
for name, optimizer in made.items():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([
        keras.Input((2, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(5, name="hidden"),
        keras.layers.BatchNormalization(), keras.layers.Dense(3)])
    model.compile(
        optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = Batches(images, labels, 24, mean=[0.0], std=[1.0], pad=1, flip=True, shuffle=True,
                      shard=(index, count), multiple_of=count)
    model.fit(batches, epochs=4, shuffle=False, verbose=0)
    own = [np.asarray(v.value.addressable_shards[0].data) for v in model.variables]
    np.savez(f"{folder}/{name}-{count}-{index}.npz", *own)
"""


def free_address():
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return f"localhost:{opened.getsockname()[1]}"


def start(arguments, folder):
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # The second run of the same program need not compile it again.
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


class DataParallelTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def finish(self, processes):
        outputs = [process.communicate(timeout=LIMIT) for process in processes]
        for process, (_, errors) in zip(processes, outputs, strict=True):
            self.assertEqual(process.returncode, 0, errors[-3000:])
        return [out for out, _ in outputs]

    def test_two_processes_take_the_steps_of_one_and_stay_equal_and_on_the_grid(self):
        address = free_address()
        runs = [(0, 2), (1, 2), (0, 1)]
        arguments = [["-c", JAX_CODE, str(self.folder), str(i), str(n), address] for i, n in runs]
        self.finish([start(each, self.folder) for each in arguments])
        for name in ("l1", "lazy"):
            first, second, alone = (
                list(np.load(self.folder / f"{name}-{n}-{i}.npz").values()) for i, n in runs
            )
            for one, two, three in zip(first, second, alone, strict=True):
                self.assertEqual(one.tobytes(), two.tobytes())
                np.testing.assert_allclose(one, three, atol=1e-5)
            self.assertLessEqual(len(np.unique(first[0])), 3)

    def train(self, workdir, *flags, kill_after=None):
        """Starts the two processes of a job; kills the chief after so many epochs."""
        begin = ["train.py"] if kill_after is None else ["-c", KILLED, str(kill_after)]
        address = free_address()
        common = [
            *flags, f"--workdir={workdir}", f"--dataset={self.folder}/even.npz", *LIKE_DIGITS,
            "--full_precision_epochs=0", "--epochs=2", "--freeze_epoch=1", "--batch_size=128",
            "--distribution=data_parallel", f"--job_addresses={address}", "--num_processes=2",
        ]  # fmt: skip
        return [
            start([*begin, *common, f"--process_id={i}"], self.folder)
            for i, begin in enumerate((begin, ["train.py"]))
        ]

    def test_a_killed_job_resumes_to_the_same_bits_and_only_the_chief_writes(self):
        digits = pq.datasets.load("digits")
        arrays = {k: getattr(digits, k) for k in ("x_train", "y_train", "x_test", "y_test")}
        np.savez(self.folder / "even.npz", **{k: v[:255] for k, v in arrays.items()})
        whole, killed = self.folder / "whole", self.folder / "killed"
        outputs = self.finish(self.train(whole))
        report = json.loads(outputs[0].splitlines()[-1])
        self.assertEqual(report["on_grid"], 1.0)
        self.assertAlmostEqual(report["tflite_accuracy"], report["quantized_accuracy"])
        chief, other = self.train(killed, kill_after=1)
        out, _ = chief.communicate(timeout=LIMIT)
        self.assertEqual((chief.returncode, "quantized 1/2" in out), (-9, True))
        other.kill()
        other.communicate()
        self.finish(self.train(killed, "--resume"))
        names = {path.name for path in whole.iterdir()}
        self.assertEqual({path.name for path in killed.iterdir()}, names)
        self.assertIn("model.tflite", names)
        for name in ("metrics.jsonl", "model.tflite"):
            self.assertEqual((killed / name).read_bytes(), (whole / name).read_bytes())
