"""Saving and loading the optimizers."""

import copy
import os
import pickle
import tempfile
import unittest

import keras
import numpy as np

import tf_proxquant as pq
from tests.optimizers_cases import X, Y, make_model, train, weights

OPTIMIZERS = {
    "binary": lambda: pq.ProxQuant(
        keras.optimizers.Adam(0.01), pq.Binary(), pq.schedules.Linear(0.5), clip=1.0, freeze_step=14
    ),
    "ternary": lambda: pq.ProxQuant(
        keras.optimizers.SGD(0.01, momentum=0.9), pq.Ternary(), 1.0, select=["hidden", "head/k"]
    ),
    "mixed": lambda: pq.ProxQuant(
        "rmsprop", None, 0.5, select={"hidden/kernel": pq.MultiBit(2), "head": None}, freeze_step=2
    ),
    "scheduled": lambda: pq.ProxQuant(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 20)),
        pq.Uniform(3, axis=-1),
        2.0,
        prox="l1",
    ),
    "concave": lambda: pq.ProxQuant(
        "adam", pq.Binary(scale="mean", axis=-1), 5.0, prox="concave", freeze_step=12
    ),
    "restarted": lambda: pq.ProxQuant(  # saved in the middle of a period
        pq.optimizers.RestartedAdam(0.01, every=6, beta_1=0.8), pq.Ternary(), 1.0
    ),
    "kept_levels": lambda: pq.ProxQuant(
        "adam", pq.MultiBit(2, axis=-1), 2.0, update_levels_every=3, freeze_step=17
    ),
    "lazy_kept_levels": lambda: pq.ProxConnect(
        "adam", pq.Ternary(), update_levels_every=3, freeze_step=17
    ),
    "lazy": lambda: pq.ProxConnect(keras.optimizers.Adam(0.01), pq.Binary(), clip=1.0),
    "relaxed": lambda: pq.ProxConnect(
        "adam", pq.Ternary(), pq.schedules.Linear(0.05), prox="l2", freeze_step=18
    ),
    "parq": lambda: pq.ProxConnect(
        "adam", pq.MultiBit(2, axis=-1), pq.schedules.Sigmoid(2, 18), prox="piecewise_affine"
    ),
}


class SavingTest(unittest.TestCase):
    def test_functions_and_classes_of_ones_own_are_copied_and_pickled(self):
        for arguments in (
            {"select": is_kernel},
            {"strength": rising},
            {"strength": OwnSchedule()},
            {"quantizer": OwnQuantizer()},
        ):
            given = pq.ProxQuant("adam", **{"quantizer": pq.Binary(), "strength": 1.0, **arguments})
            for again in (
                copy.copy(given),
                copy.deepcopy(given),
                pickle.loads(pickle.dumps(given)),
            ):
                with self.subTest(**arguments):
                    for key in ("quantizer", "strength", "select"):
                        one, two = getattr(given, key), getattr(again, key)
                        self.assertIs(type(one), type(two))
                        if callable(one) and not isinstance(one, pq.schedules.Schedule):
                            self.assertEqual(repr(one), repr(two))
        lazy = pq.ProxQuant("adam", pq.Binary(), lambda step: 0.5, select=lambda v: True)
        self.assertEqual(copy.deepcopy(lazy).strength(3), 0.5)

    def test_an_optimizer_that_is_not_built_can_be_copied_and_pickled(self):
        for name, optimizer in OPTIMIZERS.items():
            given = optimizer()
            for again in (copy.deepcopy(given), pickle.loads(pickle.dumps(given))):
                self.assertIsNot(again.inner_optimizer, given.inner_optimizer)
                self.assertEqual(repr(again), repr(given), name)

    def test_a_copy_of_a_built_optimizer_goes_on_with_a_copy_of_the_model_to_the_same_bits(self):
        for name in ("restarted", "lazy_kept_levels"):
            model = train(OPTIMIZERS[name](), epochs=2)
            other = keras.models.clone_model(model)
            other.set_weights(model.get_weights())
            other.compile(copy.deepcopy(model.optimizer), model.loss)
            for each in (model, other):
                each.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
            self.assertEqual(int(other.optimizer.iterations), int(model.optimizer.iterations))
            for value, expected in zip(other.get_weights(), model.get_weights(), strict=True):
                np.testing.assert_array_equal(value, expected, name)

    def test_fit_save_load_fit_equals_the_uninterrupted_run_bit_for_bit(self):
        for name, optimizer in OPTIMIZERS.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                whole = train(optimizer(), epochs=2)
                whole.save(os.path.join(folder, "model.keras"))
                model = keras.saving.load_model(os.path.join(folder, "model.keras"))
                for each in (whole, model):
                    each.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
                for path, value in weights(whole).items():
                    np.testing.assert_array_equal(value, weights(model)[path], path)

    def test_backup_and_restore_goes_on_to_the_same_bits_after_an_interruption(self):
        class Interrupt(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if int(self.model.optimizer.iterations) == 10:  # in the third of five epochs
                    raise KeyboardInterrupt

        def fit(model, folder, *more):
            backup = keras.callbacks.BackupAndRestore(os.path.join(folder, "backup"))
            model.fit(
                X, Y, batch_size=16, epochs=5, shuffle=False, verbose=0, callbacks=[backup, *more]
            )

        for name in ("binary", "kept_levels", "lazy", "relaxed"):
            optimizer = OPTIMIZERS[name]
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                whole = train(optimizer(), epochs=5)
                model = train(optimizer(), epochs=0)
                with self.assertRaises(KeyboardInterrupt):
                    fit(model, folder, Interrupt())
                model = train(optimizer(), epochs=0, seed=1)
                fit(model, folder)
                self.assert_equal_states(whole, model)

    def test_model_checkpoint_keeps_the_whole_state_and_replaces_whole_files(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "checkpoint.keras")
            model = train(OPTIMIZERS["binary"](), epochs=0)
            checkpoint = keras.callbacks.ModelCheckpoint(path)
            model.fit(
                X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[checkpoint]
            )
            self.assert_equal_states(model, keras.saving.load_model(path))
            self.assertEqual(os.listdir(folder), ["checkpoint.keras"])

    def assert_equal_states(self, model, other):
        states = [[*m.variables, *m.optimizer.variables] for m in (model, other)]
        for one, two in zip(*states, strict=True):
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two), one.path
            )

    def test_config_survives_a_round_trip(self):
        for name, optimizer in OPTIMIZERS.items():
            with self.subTest(name):
                config = keras.saving.serialize_keras_object(optimizer())
                # A copy: Keras revives an inner schedule inside the config it is given.
                again = keras.saving.deserialize_keras_object(copy.deepcopy(config))
                self.assertEqual(config, keras.saving.serialize_keras_object(again))

    def test_a_dict_of_selections_is_saved_with_its_quantizers(self):
        def make(model):
            hidden = pq.select_kernels(model, skip_last=True)
            select = {hidden: pq.Ternary(0.4), "head/kernel": pq.Uniform(3)}
            return pq.ProxQuant("adam", None, select=select, prox="hard", freeze_step=30)

        with tempfile.TemporaryDirectory() as folder:
            models = [make_model() for _ in range(2)]
            whole, model = (train(make(m), epochs=2, model=m) for m in models)
            model.save(os.path.join(folder, "model.keras"))
            model = keras.saving.load_model(os.path.join(folder, "model.keras"))
            self.assertEqual(
                [repr(q) for _, q in model.optimizer.quantized_variables],
                [repr(q) for _, q in whole.optimizer.quantized_variables],
            )
            for one in (whole, model):
                one.fit(X, Y, batch_size=16, epochs=1, shuffle=False, verbose=0)
            self.assert_equal_states(whole, model)

    def test_a_dict_of_an_earlier_version_is_read(self):
        optimizer = OPTIMIZERS["mixed"]()
        config = keras.saving.serialize_keras_object(optimizer)
        select = config["config"]["select"]
        config["config"]["select"] = {"patterns": dict(select.pop("choices"))}
        again = keras.saving.deserialize_keras_object(config)
        self.assertEqual(list(again.select), ["hidden/kernel", "head"])
        self.assertEqual(repr(again.select["hidden/kernel"]), repr(pq.MultiBit(2)))
        self.assertIsNone(again.select["head"])

    def test_a_state_from_before_the_weights_were_kept_is_read(self):
        """Not what it holds is replaced, and what it lacks says nothing about the weights."""
        model, other = (train(OPTIMIZERS["lazy_kept_levels"](), epochs=2) for _ in range(2))
        store = {}
        model.optimizer.save_own_variables(store)
        for _ in model.optimizer.quantized_variables:
            del store[str(len(store) - 1)]
        other.fit(X, Y, batch_size=16, epochs=1, shuffle=False, verbose=0)
        other.optimizer.load_own_variables(store)
        own = len(store)
        for one, two in zip(
            model.optimizer.variables[:own], other.optimizer.variables, strict=False
        ):
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two), one.path
            )
        latents = [other.optimizer.latent_of(v) for v, _ in other.optimizer.quantized_variables]
        before = [keras.ops.convert_to_numpy(v) for v in latents]
        zeros = [keras.ops.zeros(v.shape) for v in other.trainable_variables]
        other.optimizer.inner_optimizer.learning_rate = 0.0
        other.optimizer.apply(zeros, other.trainable_variables)
        for one, two in zip(before, latents, strict=True):
            np.testing.assert_array_equal(one, keras.ops.convert_to_numpy(two))

    def test_a_registered_predicate_is_saved(self):
        optimizer = pq.ProxQuant("adam", pq.Binary(), 1.0, select=is_hidden)
        config = keras.saving.serialize_keras_object(optimizer)
        again = keras.saving.deserialize_keras_object(config)
        self.assertIs(again.select, is_hidden)

    def test_the_file_holds_the_inner_state_once(self):
        model = train(pq.ProxQuant(keras.optimizers.Adam(0.01), pq.Binary(), 1.0))
        store = {}
        model.optimizer.save_own_variables(store)
        self.assertEqual(len(store), 2)


def is_kernel(variable):
    return "kernel" in variable.path


def rising(step):
    return 0.1 * step


class OwnSchedule(pq.schedules.Schedule):
    def __call__(self, step):
        return 0.1 * step

    def get_config(self):
        return {}


class OwnQuantizer(pq.Binary):
    pass


@keras.saving.register_keras_serializable("tests")
def is_hidden(variable):
    return variable.path == "net/hidden/kernel"
