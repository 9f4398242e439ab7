"""Output channels: which axes of a kernel axis=-1 means, layer by layer."""

import unittest

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq
from tf_proxquant import selection


class Table(layers.Layer):
    """A layer of the user's own that shares the table of an embedding."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def build(self, shape):
        self.kernel = self.embedding.embeddings

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.kernel))


class MyTransposed(layers.Conv2DTranspose):
    pass


class ChannelAxisTest(unittest.TestCase):
    """Channels are found by moving a weight and looking which outputs of the layer change."""

    def check(self, layer, x, name="kernel", owner=None):
        """A weight reaches the same output channels as the others of its group, and no others."""
        ops.convert_to_numpy(layer(x))
        variable = next(
            v for v in (owner or layer).trainable_variables if v.path.rsplit("/", 1)[-1] == name
        )
        [(_, quantizer)] = [
            pair
            for pair in selection.resolve(f"{name}$", pq.Binary("mean", axis=-1), layer.weights)
            if pair[0] is variable
        ]
        groups = np.array(
            quantizer.spread(variable, np.arange(quantizer.levels(variable).shape[0]) * 1.0)
        )
        groups = np.broadcast_to(groups, variable.shape)
        reached = {}
        before = ops.convert_to_numpy(variable).copy()
        for index in np.ndindex(*variable.shape):
            moved = before.copy()
            moved[index] += 1.0
            variable.assign(moved)
            change = ops.convert_to_numpy(layer(x))
            variable.assign(before)
            change = np.abs(change - ops.convert_to_numpy(layer(x))) > 1e-6
            channels = tuple(np.unique(np.nonzero(change)[-1]))
            reached.setdefault(groups[index], set()).add(channels)
        self.assertTrue(all(len(channels) == 1 for channels in reached.values()), reached)
        alone = [channels for [channels] in reached.values()]
        self.assertEqual(len(set(alone)), len(alone), "two groups feed the same channel")
        return quantizer.axis

    def random(self, *shape):
        return np.random.default_rng(0).normal(size=shape).astype("float32") + 3

    def test_convolutions(self):
        for axis, layer, rank in (
            (-1, layers.Conv1D(3, 2), 1),
            (-1, layers.Conv2D(4, 2, groups=2), 2),
            (-2, layers.Conv1DTranspose(3, 2), 1),
            (-2, layers.Conv2DTranspose(3, 2), 2),
            (-2, layers.Conv3DTranspose(3, 1), 3),
            (-2, MyTransposed(3, 2), 2),
            ((-2, -1), layers.DepthwiseConv1D(2, depth_multiplier=2), 1),
            ((-2, -1), layers.DepthwiseConv2D(2, depth_multiplier=2), 2),
        ):
            with self.subTest(type(layer).__name__):
                x = self.random(1, *(3,) * rank, 2)
                self.assertEqual(self.check(layer, x), axis)

    def test_the_depthwise_part_of_a_separable_convolution(self):
        for layer, rank in ((layers.SeparableConv1D(3, 2), 1), (layers.SeparableConv2D(3, 2), 2)):
            layer(self.random(1, *(3,) * rank, 2))
            pairs = selection.resolve(None, pq.Binary("mean", axis=-1), layer.weights)
            self.assertEqual([q.axis for _, q in pairs], [(-2, -1), -1])

    def test_dense_layers_and_einsum(self):
        x = self.random(2, 3, 4)
        for axis, layer in (
            (-1, layers.Dense(5)),
            (-1, layers.EinsumDense("...x,xy->...y", (3, 5))),
            (0, layers.EinsumDense("abc,dc->abd", (3, 5))),
            (-1, layers.TimeDistributed(layers.Dense(5))),
            (-1, layers.SpectralNormalization(layers.Dense(5))),
        ):
            with self.subTest(layer.name):
                if "spectral" in layer.name:
                    layer.build(x.shape)
                self.assertEqual(self.check(layer, x), axis)

    def test_attention(self):
        layer = layers.MultiHeadAttention(2, 3)
        layer(self.random(1, 4, 5), self.random(1, 4, 5))
        pairs = selection.resolve(None, pq.Binary("mean", axis=-1), layer.weights)
        found = {v.path.split("/")[-2]: (q.axis, tuple(v.shape)) for v, q in pairs}
        self.assertEqual(found["query"], ((1, 2), (5, 2, 3)))
        self.assertEqual(found["value"], ((1, 2), (5, 2, 3)))
        self.assertEqual(found["attention_output"], (-1, (2, 3, 5)))

    def test_recurrent_layers_have_a_column_for_each_unit_of_each_gate(self):
        for layer in (
            layers.LSTM(3), layers.GRU(3), layers.SimpleRNN(3), layers.Bidirectional(layers.GRU(2)),
            layers.ConvLSTM1D(2, 1),
        ):  # fmt: skip
            layer(self.random(1, 4, 5, *((2,) if "conv" in layer.name else ())))
            pairs = selection.resolve(None, pq.Binary("mean", axis=-1), layer.weights)
            self.assertTrue(all(q.axis == -1 for _, q in pairs))
            self.assertEqual(len(pairs), 4 if "bidirectional" in layer.name else 2)

    def test_tables_by_rows_also_where_they_are_shared(self):
        quantizer = pq.Binary("mean", axis=-1)
        for table in (layers.Embedding(6, 4), layers.ReversibleEmbedding(6, 4)):
            table(np.array([[1, 2]]))
            model = keras.Sequential([Table(table)])
            model(self.random(2, 4))
            [(variable, found)] = selection.resolve(None, quantizer, model.weights)
            self.assertIs(variable, table.embeddings)
            self.assertEqual(found.axis, 0)
        table = layers.ReversibleEmbedding(6, 4, tie_weights=False)
        table.build()
        pairs = selection.resolve(None, quantizer, table.weights)
        self.assertEqual([q.axis for _, q in pairs], [0, -1])

    def test_an_axis_that_is_not_minus_one_is_meant_literally(self):
        layer = layers.Conv2DTranspose(3, 2)
        layer(self.random(1, 3, 3, 2))
        for axis in (None, 3, -2, (2, 3)):
            quantizer = pq.Binary("mean", axis=axis)
            [(_, found)] = selection.resolve(None, quantizer, layer.weights)
            self.assertIs(found, quantizer)

    def test_a_call_on_a_tensor_takes_minus_one_literally(self):
        quantizer = pq.Binary("mean", axis=-1)
        self.assertEqual(quantizer.levels(self.random(2, 2, 3, 5)).shape[0], 5)

    def test_variables_whose_layer_is_gone_go_by_their_names(self):
        for name, axis in (("embeddings", 0), ("depthwise_kernel", (-2, -1)), ("kernel", -1)):
            variable = keras.Variable(self.random(2, 2, 3, 4), name=name)
            [(_, found)] = selection.resolve(None, pq.Binary("mean", axis=-1), [variable])
            self.assertEqual(found.axis, axis)

    def test_the_optimizer_uses_one_set_of_levels_for_each_output_channel(self):
        inputs = keras.Input((4, 4, 2))
        x = layers.Conv2DTranspose(5, 2, name="up")(inputs)
        model = keras.Model(inputs, layers.DepthwiseConv2D(2, depth_multiplier=3, name="depth")(x))
        quantizer = pq.Binary("mean", axis=-1)
        model.compile(pq.ProxQuant("sgd", quantizer, "auto", freeze_step=2), "mse")
        data = self.random(4, 4, 4, 2), self.random(4, 4, 4, 15)
        model.fit(*data, batch_size=1, verbose=0)
        counts = [len(q.levels(v)) for v, q in model.optimizer.quantized_variables]
        self.assertEqual(counts, [5, 15])
        kernel = np.abs(ops.convert_to_numpy(model.get_layer("up").kernel))
        np.testing.assert_array_equal(kernel.max(axis=(0, 1, 3)), kernel.min(axis=(0, 1, 3)))
        self.assertEqual(quantizer.axis, -1)

    def test_quantizers_of_the_users_own_keep_their_values(self):
        class Scaled(pq.quantizers.Quantizer):
            def __init__(self, level):
                super().__init__(axis=-1)
                self.level = level

            def fit(self, rows):
                ones = ops.ones_like(rows[:, :1])
                return ops.concatenate([-self.level * ones, self.level * ones], axis=1)

        model = keras.Sequential(
            [keras.Input((5, 5, 2)), layers.Conv2DTranspose(2, 3), layers.Conv2DTranspose(2, 3)]
        )
        model.compile(pq.ProxQuant("sgd", Scaled(3.0), 1.0, freeze_step=1), "mse")
        model.fit(self.random(2, 5, 5, 2), self.random(2, 9, 9, 2), verbose=0)
        for variable, quantizer in model.optimizer.quantized_variables:
            self.assertEqual((quantizer.level, quantizer.axis), (3.0, -2))
            self.assertEqual(set(np.abs(ops.convert_to_numpy(variable)).ravel()), {3.0})
        with self.assertRaisesRegex(ValueError, r"Scaled cannot be saved.*\['level'\].*get_config"):
            keras.saving.serialize_keras_object(model.optimizer)
        self.assertEqual(repr(Scaled(3.0)), "Scaled(axis=-1, level=3.0)")
