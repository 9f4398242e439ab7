"""Selection of variables."""

import math
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
