"""Two replicas on one machine, in a process of their own."""

import os
import pathlib
import subprocess
import sys
import unittest

import keras

ROOT = pathlib.Path(__file__).parents[1]

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
    lambda: pq.ProxQuant("adam", pq.Binary(), 1.0, regularizer="concave", freeze_step=5),
    lambda: pq.ProxConnect("adam", pq.Binary(), clip=1.0, freeze_step=7),
    lambda: pq.ProxConnect("adam", pq.Binary(), clip=1.0),
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
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CODE],
            env=environment,
            capture_output=True,
            text=True,
        )
        self.assertEqual(result.stdout.strip().splitlines()[-1:], ["equal"], result.stderr[-3000:])
