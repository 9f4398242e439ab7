"""Schedules."""

import unittest

import keras
import numpy as np
from keras import ops

from tf_proxquant import schedules

ALL = (
    schedules.Constant(0.5),
    schedules.Linear(0.1, every=3),
    schedules.Sigmoid(2, 12, steepness=5.0),
    schedules.TotalPull(steps=9, total=3.0),
    schedules.TotalPull(steps=9, memory=0.75),
)


class SchedulesTest(unittest.TestCase):
    def test_every_public_schedule_is_in_the_list(self):
        public = {
            value
            for value in vars(schedules).values()
            if isinstance(value, type) and issubclass(value, schedules.Schedule)
        }
        self.assertEqual(public - {schedules.Schedule}, {type(s) for s in ALL})

    def test_config_round_trip_gives_equal_values(self):
        for schedule in ALL:
            config = keras.saving.serialize_keras_object(schedule)
            again = keras.saving.deserialize_keras_object(config)
            for step in (0, 2, 3, 7, 12, 40):
                self.assertEqual(float(schedule(step)), float(again(step)))

    def test_steps_may_be_tensors_and_variables(self):
        for schedule in ALL:
            expected = float(schedule(7))
            self.assertEqual(float(schedule(ops.convert_to_tensor(7))), expected)
            self.assertEqual(float(schedule(keras.Variable(7, dtype="int32"))), expected)

    def test_the_total_pull_adds_up(self):
        for steps, total, expected in ((2, 5.0, 5.0), (100, 12.0, 12.0), (50, None, 1.0)):
            schedule = schedules.TotalPull(steps, total)
            values = [float(schedule(step)) for step in range(steps)]
            self.assertAlmostEqual(sum(values), expected, places=4)
            self.assertEqual(float(schedule(steps + 7)), values[-1])

    def test_a_memory_multiplies_the_pull_by_the_steps_that_it_holds(self):
        plain = schedules.TotalPull(steps=40, total=3.0)
        for memory in (0.0, 0.5, 0.99, 1.0):
            held = schedules.TotalPull(steps=40, total=3.0, memory=memory)
            for step in (0, 1, 2, 39):
                expected = float(plain(step)) * sum(memory**i for i in range(step + 1))
                self.assertAlmostEqual(float(held(step)), expected, delta=1e-5 * (1 + expected))

    def test_linear_is_constant_within_a_stair(self):
        values = [float(schedules.Linear(0.5, every=3)(step)) for step in range(7)]
        self.assertEqual(values, [0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 1.0])

    def test_linear_is_exact_in_float64(self):
        keras.config.set_floatx("float64")
        self.addCleanup(keras.config.set_floatx, "float32")
        value = schedules.Linear(0.1)(3)
        if keras.backend.standardize_dtype(value.dtype) == "float64":
            self.assertEqual(float(value), 0.1 * 3)

    def test_sigmoid_falls_from_exactly_one_to_exactly_zero(self):
        values = [float(schedules.Sigmoid(2, 12)(step)) for step in range(15)]
        self.assertEqual(values[:3], [1.0] * 3)
        self.assertEqual(values[12:], [0.0] * 3)
        self.assertTrue(all(np.diff(values[2:13]) < 0))
        self.assertAlmostEqual(values[7], 0.5, places=6)
        steep = float(schedules.Sigmoid(2, 12, steepness=50.0)(6))
        self.assertGreater(steep, values[6])

    def test_bad_arguments_are_refused_with_what_was_received(self):
        cases = {
            "value=-1": lambda: schedules.Constant(-1),
            "value=inf": lambda: schedules.Constant(float("inf")),
            "value='1'": lambda: schedules.Constant("1"),
            "value=True": lambda: schedules.Constant(True),
            "rate=nan": lambda: schedules.Linear(float("nan")),
            "every=0": lambda: schedules.Linear(1.0, every=0),
            "every=2.5": lambda: schedules.Linear(1.0, every=2.5),
            "start=-1": lambda: schedules.Sigmoid(-1, 5),
            "end=5": lambda: schedules.Sigmoid(5, 5),
            "steepness=0": lambda: schedules.Sigmoid(0, 5, steepness=0),
        }
        for pattern, make in cases.items():
            with self.subTest(pattern), self.assertRaisesRegex(ValueError, pattern):
                make()
