"""The sensitivity scan, and the mixed precision that it suggests."""

import contextlib
import io
import unittest

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq
from tf_proxquant.sensitivity import Candidate, Sensitivity, _is_higher_better

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(256, 6)).astype("float32")


def make_model():
    """A model whose hidden layer is on a binary grid, and whose head is far from one."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(16, activation="tanh", name="hidden"),
         layers.Dense(4, name="head")]
    )  # fmt: skip
    hidden, head = model.get_layer("hidden"), model.get_layer("head")
    hidden.kernel.assign(np.where(RANDOM.random((6, 16)) < 0.5, -0.5, 0.5))
    head.kernel.assign(RANDOM.standard_t(2, (16, 4)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss=loss, metrics=["accuracy"])
    return model


def _wrong(y_true, y_pred):
    """Of each sample whether the class is wrong."""
    classes = ops.reshape(ops.cast(y_true, "int32"), (-1,))
    return ops.cast(ops.not_equal(classes, ops.argmax(y_pred, axis=-1)), "float32")


MODEL = make_model()
Y = np.argmax(MODEL.predict(X, verbose=0), axis=-1)


class ScanTest(unittest.TestCase):
    def setUp(self):
        self.before = MODEL.get_weights()

    def test_a_tensor_on_its_grid_loses_nothing_and_others_what_evaluate_says(self):
        found = pq.sensitivity(MODEL, (X, Y), {"binary": pq.Binary("mean", axis=-1)})
        self.assertEqual(found.metric, "accuracy")
        self.assertEqual(
            [(row.path, row.name) for row in found.rows],
            [(f"{layer}/kernel", name) for layer in ("hidden", "head")
             for name in ("full precision", "binary")],
        )  # fmt: skip
        self.assertEqual([row.bytes for row in found.rows], [384, 12, 256, 8])
        drops = [row.drop for row in found.rows]
        self.assertEqual(drops[:3], [0.0, 0.0, 0.0])
        kernel = MODEL.get_layer("head").kernel
        original = ops.copy(kernel)
        kernel.assign(pq.Binary("mean", axis=-1)(kernel))
        snapped = MODEL.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"]
        kernel.assign(original)
        self.assertGreater(drops[3], 0.02)
        self.assertAlmostEqual(drops[3], 1 - snapped, places=6)

    def test_a_loss_is_better_when_it_is_lower(self):
        found = pq.sensitivity(MODEL, (X, Y), {"1": pq.Binary("mean")}, metric="loss")
        self.assertGreater(found.rows[3].drop, 0)
        self.assertGreater(found.rows[3].value, found.rows[2].value)

    def test_weights_are_put_back_bit_for_bit_also_after_an_exception(self):
        pq.sensitivity(MODEL, (X, Y), select="head")

        class Broken(pq.Binary):
            def nearest(self, weights, levels):
                raise RuntimeError("broken")

        with self.assertRaises(RuntimeError):
            pq.sensitivity(MODEL, (X, Y), {"broken": Broken()})
        with self.assertRaises(ValueError):
            pq.sensitivity(MODEL, (X, Y), {"1": pq.Binary()}, metric="f1")
        for value, expected in zip(MODEL.get_weights(), self.before, strict=True):
            np.testing.assert_array_equal(value, expected)

    def test_what_is_suggested_fits_and_trains(self):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            found = pq.sensitivity(MODEL, (X, Y), max_bytes=100, profile=None)
        suggested = found.suggest(100)
        self.assertIn("hidden/kernel", output.getvalue())
        self.assertIn("select= for 100 bytes", output.getvalue())
        model = keras.models.clone_model(MODEL)
        optimizer = pq.ProxQuant("adam", None, 1.0, select=suggested)
        optimizer.build(model.trainable_variables)
        quantizers = [q for v, q in optimizer.quantized_variables if "hidden" in v.path]
        self.assertIsInstance(quantizers[0], pq.Binary)

    @unittest.skipUnless(keras.backend.backend() == "tensorflow", "the export needs TensorFlow")
    def test_the_budget_is_the_size_of_the_file(self):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((8, 8, 4)), layers.Conv2D(32, 3), layers.Conv2DTranspose(16, 3),
             layers.GlobalAveragePooling2D(), layers.Dense(5)]
        )  # fmt: skip
        model.compile("sgd", "mse")
        data = np.zeros((4, 8, 8, 4), "float32"), np.zeros((4, 5), "float32")
        found = pq.sensitivity(model, data, metric="loss", profile="fast")
        before = model.get_weights()
        largest = pq.litert.preview(model, "fast").bytes
        for budget in (0.9 * largest, 0.6 * largest, 0.5 * largest):
            suggested = found.suggest(budget)
            pq.snap(model, None, select=suggested)
            self.assertLessEqual(pq.litert.preview(model, "fast").bytes, budget)
            model.set_weights(before)
        with self.assertRaisesRegex(ValueError, 'profile="fast" takes [0-9,]+ bytes'):
            found.suggest(0.1 * largest)
        for value, expected in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(value, expected)

    def test_an_error_by_any_of_its_names_is_better_when_it_is_lower(self):
        model = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
        model.compile("sgd", "mse", metrics=["mae", "kl_divergence"])
        y = model.predict(X, verbose=0)
        binary = {"binary": pq.Binary("mean", axis=-1)}
        found = pq.sensitivity(model, (X, y), binary, metric="mae", profile=None)
        self.assertGreater(found.rows[1].drop, 0.01)

    def test_each_metric_has_its_direction_whatever_the_output_is_called(self):
        inputs = keras.Input((6,))
        heads = {name: layers.Dense(3, name=name)(inputs) for name in ("mae", "mae_error")}
        model = keras.Model(inputs, heads)
        own = ["accuracy", "mae", "hinge", "squared_hinge", "poisson", "top_k_categorical_accuracy",
               keras.metrics.FalseNegatives(name="missed"), keras.metrics.Recall(),
               keras.metrics.R2Score(), keras.metrics.CosineSimilarity()]  # fmt: skip
        weighted = {name: ["mse"] for name in heads}
        model.compile(
            "sgd", "mse", metrics={name: list(own) for name in heads}, weighted_metrics=weighted
        )
        y = keras.ops.one_hot(np.arange(len(X)) % 3, 3)
        results = model.evaluate(X, dict.fromkeys(heads, y), verbose=0, return_dict=True)
        up = {"accuracy", "top_k_categorical_accuracy", "r2_score", "cosine_similarity", "recall"}
        for name in results:
            own = name.removeprefix("mae_error_").removeprefix("mae_")
            self.assertEqual(_is_higher_better(model, name), own in up, name)
        self.assertGreater(len(results), 20)

    def test_the_direction_can_be_given_and_is_shown(self):
        model = keras.models.clone_model(MODEL)
        model.set_weights(self.before)
        model.compile(
            "sgd", MODEL.loss, metrics=[keras.metrics.MeanMetricWrapper(_wrong, "badness")]
        )
        binary = {"binary": pq.Binary("mean", axis=-1)}
        drops = {}
        for given in (None, True, False):
            found = pq.sensitivity(
                model, (X, Y), binary, metric="badness", profile=None, higher_is_better=given
            )
            drops[given] = found.rows[3].drop
            self.assertIn("lower" if given is False else "higher", str(found).splitlines()[0])
        self.assertGreater(drops[False], 0.02)
        self.assertEqual(drops[True], -drops[False])
        self.assertEqual(drops[None], drops[True])

    def test_a_path_at_the_end_of_another_has_a_choice_of_its_own(self):
        inputs = keras.Input((6,))
        block = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="dense")], name="block")
        model = keras.Model(inputs, layers.Dense(3, name="dense")(block(inputs)))
        model.compile("sgd", "mse")
        y = np.zeros((len(X), 3), "float32")
        binary = {"binary": pq.Binary("mean", axis=-1)}
        found = pq.sensitivity(model, (X, y), binary, profile=None)
        self.assertEqual({row.path for row in found.rows}, {"block/dense/kernel", "dense/kernel"})
        for quantized in ("block/dense/kernel", "dense/kernel"):
            rows = [r for r in found.rows if (r.quantizer is not None) == (r.path == quantized)]
            select = Sensitivity("loss", rows).suggest(1e6)
            snapped = pq.snap(model, None, select)
            self.assertEqual([variable.path for variable, _ in snapped], [quantized])

    def test_tensors_of_one_path_are_scanned_as_one(self):
        inputs = keras.Input((6,))
        halves = [keras.Model(inputs, layers.Dense(4, name="hidden")(inputs)) for _ in range(2)]
        model = keras.Model(inputs, layers.Add()([half(inputs) for half in halves]))
        model.compile("sgd", "mse")
        data = X, np.zeros((len(X), 4), "float32")
        found = pq.sensitivity(model, data, {"binary": pq.Binary()}, profile=None)
        self.assertEqual([row.bytes for row in found.rows], [192, 6])
        self.assertEqual(len(pq.snap(model, None, found.suggest(6))), 2)

    def test_a_list_of_inputs_is_what_the_model_takes(self):
        inputs = [keras.Input((6,)), keras.Input((6,))]
        model = keras.Model(inputs, layers.Dense(3)(layers.Subtract()(inputs)))
        model.compile("sgd", "mse", metrics=["mae"])
        dense = model.layers[-1]
        data = [X, 2 * X]
        y = model.predict(data, verbose=0)
        found = pq.sensitivity(model, (data, y), {"1": pq.Binary()}, profile=None, metric="mae")
        self.assertGreater(found.rows[1].drop, 0.01)

        class Unlabelled(keras.Model):
            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=None):
                return ops.mean(ops.square(y_pred))

        model = Unlabelled(inputs, dense(layers.Subtract()(inputs)))
        model.compile("sgd")
        found = pq.sensitivity(model, data, {"1": pq.Binary()}, profile=None)
        self.assertAlmostEqual(found.rows[0].value, float(np.mean(y**2)), places=5)

    def test_bad_input_is_refused(self):
        unbuilt = keras.Sequential([layers.Dense(2)])
        one = {"1": pq.Binary()}
        cases = {
            "built and compiled": lambda: pq.sensitivity(unbuilt, (X, Y)),
            "metric='f1'": lambda: pq.sensitivity(MODEL, (X, Y), one, metric="f1"),
            "candidates={}": lambda: pq.sensitivity(MODEL, (X, Y), {}),
            "'1': 3": lambda: pq.sensitivity(MODEL, (X, Y), {"1": 3}),
            "Received: a dict": lambda: pq.sensitivity(MODEL, (X, Y), one, select={"a": None}),
            "Nothing to quantize": lambda: pq.sensitivity(MODEL, (X, Y), one, select="nowhere"),
            "profile=.static., which needs": lambda: pq.sensitivity(
                MODEL, (X, Y), one, profile="static"
            ),
            "profile='tiny'": lambda: pq.sensitivity(MODEL, (X, Y), one, profile="tiny"),
            "generator, which can be read once": lambda: pq.sensitivity(
                MODEL, ((X, Y) for _ in range(2)), one
            ),
            "higher_is_better='lower'": lambda: pq.sensitivity(
                MODEL, (X, Y), one, higher_is_better="lower"
            ),
            "a tuple of 4": lambda: pq.sensitivity(MODEL, (X, Y, None, 3), one),
            "accuracy=nan|loss=nan": lambda: pq.sensitivity(
                MODEL, (X * np.nan, Y), one, metric="loss"
            ),
            "max_bytes=1.": lambda: pq.sensitivity(MODEL, (X, Y), one, profile=None).suggest(1),
        }
        for pattern, call in cases.items():
            with self.subTest(pattern), self.assertRaisesRegex(ValueError, pattern):
                call()


class SuggestionTest(unittest.TestCase):
    def setUp(self):
        self.one, self.eight = pq.Binary(), pq.Uniform(8)
        rows = []
        for path, drops in (("a", (0.0, 0.01, 0.30)), ("b", (0.0, -0.01, 0.02))):
            for name, quantizer, size, drop in zip(
                ("full precision", "8", "1"), (None, self.eight, self.one), (400, 100, 13), drops,
                strict=True,
            ):  # fmt: skip
                rows.append(Candidate(path, name, quantizer, size, 0.9 - drop, drop))
        self.found = Sensitivity("accuracy", rows)

    def chosen(self, max_bytes):
        return list(self.found.suggest(max_bytes).values())

    def test_what_makes_the_metric_nan_is_the_worst(self):
        rows = [Candidate("a", "full precision", None, 400, 0.9, 0.0)]
        rows.append(Candidate("a", "8", self.eight, 100, 0.8, 0.1))
        rows.append(Candidate("a", "1", self.one, 13, float("nan"), float("nan")))
        found = Sensitivity("accuracy", rows)
        for budget, expected in ((500, None), (100, self.eight), (13, self.one)):
            self.assertEqual(list(found.suggest(budget).values()), [expected])

    def test_a_tensor_that_loses_nothing_is_made_small_first(self):
        self.assertEqual(self.chosen(500), [None, self.eight])

    def test_the_cheapest_exchange_comes_next(self):
        self.assertEqual(self.chosen(200), [self.eight, self.eight])
        self.assertEqual(self.chosen(120), [self.eight, self.one])
        self.assertEqual(self.chosen(26), [self.one, self.one])

    def test_the_table_names_what_it_shows(self):
        table = str(self.found)
        self.assertIn("accuracy in full precision 0.9000", table)
        self.assertIn("0.3000", table)

    def test_the_table_has_no_minus_before_what_is_rounded_to_zero(self):
        rows = [Candidate("a", "full precision", None, 400, 0.9, 0.0)]
        rows.append(Candidate("a", "1", self.one, 13, 0.9, -1e-9))
        self.assertNotIn("-0.0000", str(Sensitivity("accuracy", rows)))
