"""Selection of variables."""

import copy
import math
import pathlib
import tempfile
import unittest

import keras
from keras import layers

import tf_proxquant as pq
from tf_proxquant import selection


def make_model():
    inputs = keras.Input((8, 8, 2), name="image")
    x = layers.SeparableConv2D(4, 3, name="separable")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Reshape((-1, 4))(x)
    x = layers.LSTM(3, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def selected(select, quantizer=None, model=None):
    pairs = selection.resolve(
        select, quantizer or pq.Binary(), (model or make_model()).trainable_variables
    )
    return {v.path: q for v, q in pairs}


KERNELS = [
    "separable/depthwise_kernel",
    "separable/pointwise_kernel",
    "depthwise/kernel",
    "lstm/lstm_cell/kernel",
    "lstm/lstm_cell/recurrent_kernel",
    "head/kernel",
]


class ResolveTest(unittest.TestCase):
    def test_none_selects_every_kind_of_kernel_and_nothing_else(self):
        self.assertEqual(list(selected(None)), KERNELS)

    def test_none_selects_embedding_tables(self):
        model = keras.Sequential([keras.Input((3,)), layers.Embedding(5, 2, name="table")])
        self.assertEqual([p[-16:] for p in selected(None, model=model)], ["table/embeddings"])

    def test_regexes_search_the_path_and_may_name_any_variable(self):
        self.assertEqual(list(selected("lstm")), [*KERNELS[3:5], "lstm/lstm_cell/bias"])
        self.assertEqual(list(selected(["head/k", "^sep.*depth"])), [KERNELS[0], KERNELS[5]])

    def test_a_callable_decides(self):
        self.assertEqual(list(selected(lambda v: v.path == "head/bias")), ["head/bias"])

    def test_a_dict_gives_each_pattern_its_quantizer_and_the_rest_the_default(self):
        two, four = pq.MultiBit(2), pq.Uniform(4)
        chosen = selected({"separable": None, "lstm": two, "head/kernel": four})
        self.assertEqual(next(iter(chosen)), "depthwise/kernel")
        self.assertIs(chosen["lstm/lstm_cell/bias"], two)
        self.assertIs(chosen["head/kernel"], four)
        self.assertIsInstance(chosen["depthwise/kernel"], pq.Binary)
        pairs = selection.resolve({"head/k": two}, None, make_model().trainable_variables)
        self.assertEqual(len(pairs), 1)

    def test_patterns_that_overlap_with_one_quantizer_are_fine_and_with_two_are_refused(self):
        two = pq.MultiBit(2)
        self.assertIs(selected({"lstm": two, "recurrent": two})[KERNELS[4]], two)
        with self.assertRaisesRegex(ValueError, "lstm_cell/recurrent_kernel"):
            selected({"lstm": two, "recurrent": pq.MultiBit(3)})

    def test_what_matches_nothing_is_refused_with_the_candidates(self):
        for select in ("conv9", ["head", "conv9"], {"conv9": pq.Binary()}, lambda v: False):
            with self.assertRaisesRegex(ValueError, r"(?s)Nothing to quantize.*head/kernel \(3, 2"):
                selected(select)

    def test_integer_variables_are_refused(self):
        counter = keras.Variable([1, 2], dtype="int32", trainable=False, name="kernel")
        with self.assertRaisesRegex(ValueError, "int32"):
            selection.resolve(None, pq.Binary(), [counter])


class SelectKernelsTest(unittest.TestCase):
    def test_it_selects_exactly_the_kernels_that_are_not_skipped(self):
        model = make_model()
        self.assertEqual(list(selected(pq.select_kernels(model))), KERNELS)
        inner = pq.select_kernels(model, skip_first=True, skip_last=True, skip=["recurrent"])
        self.assertEqual(list(selected(inner)), [*KERNELS[1:4]])

    def test_paths_are_matched_whole(self):
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(2, name="a"), layers.Dense(2, name="aa")], name="net"
        )
        patterns = pq.select_kernels(model, skip_last=True)
        self.assertEqual(list(selected(patterns, model=model)), ["net/a/kernel"])

    def test_the_papers_counts_for_residual_networks(self):
        model = pq.models.resnet(20, (32, 32, 3), 10)

        def count(select):
            pairs = selection.resolve(select, pq.Binary(), model.trainable_variables)
            return sum(math.prod(v.shape) for v, _ in pairs)

        binary = pq.select_kernels(model, skip="shortcut")
        ternary = pq.select_kernels(model, skip_first=True, skip_last=True, skip="shortcut")
        self.assertEqual((count(binary), count(ternary)), (268336, 267264))

    def test_an_unbuilt_model_and_an_empty_selection_are_refused(self):
        with self.assertRaisesRegex(ValueError, "built model"):
            pq.select_kernels(keras.Sequential([layers.Dense(2)]))
        with self.assertRaisesRegex(ValueError, "Nothing to quantize"):
            pq.select_kernels(make_model(), skip=".")

    def test_a_pattern_that_skips_nothing_is_told_with_the_kernels(self):
        with self.assertWarnsRegex(UserWarning, f"'nowhere'.*{KERNELS[0]}.*{KERNELS[-1]}"):
            pq.select_kernels(make_model(), skip=["head", "nowhere"])

    def test_the_first_and_the_last_are_those_of_the_computation(self):
        second, first = layers.Dense(3, name="second"), layers.Dense(3, name="first")
        inputs = keras.Input((3,))
        model = keras.Model(inputs, second(first(inputs)))
        chosen = selected(pq.select_kernels(model, skip_last=True), model=model)
        self.assertEqual(list(chosen), ["first/kernel"])

    def test_a_frozen_layer_is_not_selected_and_still_the_first(self):
        model = two_towers()
        model.get_layer("user_tower").get_layer("hidden").trainable = False
        first = model.weights[0]
        chosen = pq.select_kernels(model, skip_first=True)
        self.assertFalse(chosen(first))
        self.assertEqual(len(chosen), 3)


def tower(name):
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="hidden"), layers.Dense(3, name="out")], name=name
    )


def functional_tower(name):
    inputs = keras.Input((4,))
    x = layers.Dense(5, name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name=name)


def two_towers(make=functional_tower):
    """Two towers whose layers have the same names, and so, in functional ones, the same paths."""
    inputs = [keras.Input((4,), name="user"), keras.Input((4,), name="item")]
    towers = [make("user_tower"), make("item_tower")]
    outputs = layers.Dot(1)([t(x) for t, x in zip(towers, inputs, strict=True)])
    return keras.Model(inputs, outputs, name="recommender")


def quantized(model):
    return [v for v, _ in model.optimizer.quantized_variables]


def compiled(model, select, **arguments):
    model.compile(pq.ProxQuant("sgd", pq.Binary("mean"), 1.0, select=select, **arguments), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


class KernelSelectionTest(unittest.TestCase):
    def is_in(self, variable, variables):
        return any(variable is v for v in variables)

    def test_it_means_variables_not_names(self):
        for make in (functional_tower, tower):
            model = two_towers(make)
            kernels = [v for v in model.trainable_variables if v.path.endswith("kernel")]
            compiled(model, pq.select_kernels(model, skip_last=True))
            self.assertEqual([id(v) for v in quantized(model)], [id(v) for v in kernels[:-1]])
            compiled(model, pq.select_kernels(model, skip_first=True))
            self.assertEqual([id(v) for v in quantized(model)], [id(v) for v in kernels[1:]])

    def test_it_selects_within_a_model_that_contains_the_model(self):
        model = two_towers()
        inner = model.get_layer("item_tower")
        compiled(model, pq.select_kernels(inner))
        self.assertEqual(len(quantized(model)), 2)
        self.assertTrue(all(self.is_in(v, inner.weights) for v in quantized(model)))

    def test_it_survives_trainable_set_and_reset(self):
        model = two_towers()
        select = pq.select_kernels(model, skip_first=True)
        model.get_layer("item_tower").trainable = False
        compiled(model, select)
        self.assertEqual([v.path for v in quantized(model)], ["out/kernel"])
        model.get_layer("item_tower").trainable = True
        compiled(model, select)
        self.assertEqual(len(quantized(model)), 3)

    def test_a_saved_model_loads_with_the_same_variables_selected(self):
        for make in (functional_tower, tower):
            model = two_towers(make)
            compiled(model, pq.select_kernels(model, skip_last=True))
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "model.keras"
                model.save(path)
                loaded = keras.models.load_model(path)
            chosen = [v for v in loaded.trainable_variables if self.is_in(v, quantized(loaded))]
            expected = [v for v in loaded.trainable_variables if v.path.endswith("kernel")][:-1]
            self.assertEqual([id(v) for v in chosen], [id(v) for v in expected])
            again = loaded.optimizer.get_config()["select"]
            self.assertEqual(again, model.optimizer.get_config()["select"])

    def test_a_copy_of_the_model_is_selected_in_the_same_places(self):
        model = two_towers()
        select = pq.select_kernels(model, skip_first=True)
        other = keras.models.clone_model(model)
        compiled(other, select)
        expected = [v for v in other.trainable_variables if v.path.endswith("kernel")][1:]
        self.assertEqual([id(v) for v in quantized(other)], [id(v) for v in expected])
        again = copy.deepcopy(select)
        self.assertEqual(again.get_config(), select.get_config())
        self.assertEqual(len(again.among(model.trainable_variables)), 3)

    def test_where_only_names_are_left_and_do_not_tell_it_refuses(self):
        select = pq.select_kernels(two_towers(), skip_last=True)
        with self.assertRaisesRegex(
            ValueError, "has 2 that it may be, this one has 1. Make it for"
        ):
            compiled(functional_tower("alone"), select)
        with self.assertRaisesRegex(ValueError, "Nothing to quantize"):
            compiled(keras.Sequential([keras.Input((3,)), layers.Dense(2, name="x")]), select)

    def test_a_clone_with_a_frozen_layer_is_told_by_paths(self):
        model = make_model()
        select = pq.select_kernels(model, skip_last=True)
        other = keras.models.clone_model(model)
        other.get_layer("depthwise").trainable = False
        compiled(other, select)
        self.assertEqual([v.path for v in quantized(other)], [*KERNELS[:2], *KERNELS[3:5]])

    def test_it_is_a_key_of_mixed_precision(self):
        model = two_towers()
        user, item = (pq.select_kernels(model.get_layer(f"{n}_tower")) for n in ("user", "item"))
        two, four = pq.MultiBit(2), pq.Uniform(4)
        pairs = selection.resolve({user: two, item: four}, None, model.trainable_variables)
        self.assertEqual([q for _, q in pairs], [two, two, four, four])
        selection.validate({user: two, "out": four})

    def test_it_reads_as_a_sequence_of_patterns(self):
        select = pq.select_kernels(tower("net"))
        self.assertEqual(list(select), ["(^|/)hidden/kernel$", "(^|/)out/kernel$"])
        self.assertEqual((len(select), select[0]), (2, "(^|/)hidden/kernel$"))
        self.assertEqual(repr(select), "<selection of 2: hidden/kernel, out/kernel>")
