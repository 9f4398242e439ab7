"""The static profile with its weights in 4 bits, and in tables for tflite-micro."""

import pathlib
import tempfile

import keras
import numpy as np
from absl.testing import parameterized
from ai_edge_litert.schema_py_generated import TensorType
from keras import layers

import tf_proxquant as pq
from tf_proxquant import litert
from tf_proxquant.litert import __main__ as command
from tf_proxquant.litert.check import verify
from tf_proxquant.litert.forms import decoding, indexed
from tf_proxquant.litert.plan import static
from tf_proxquant.litert.read import flatbuffer
from tf_proxquant.litert.write.recoded import LAYERS

# Odd sizes, every layer that has integer weights.
SHAPE = (9, 7, 3)
BITS = {"binary": 1, "ternary": 2, "2 bits": 2}
QUANTIZERS = {
    "binary": pq.Binary("mean", axis=-1),
    "ternary": pq.Ternary(symmetric=True, axis=-1),
    "2 bits": pq.Uniform(2, axis=-1, mid_rise=True),
    "uneven": pq.Ternary(axis=-1),
}


def network(quantizer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = layers.BatchNormalization()(layers.Conv2D(37, 3, strides=2, use_bias=False)(inputs))
    x = layers.DepthwiseConv2D((1, 3), padding="same")(layers.ReLU()(x))
    x = layers.Conv2DTranspose(21, 2, strides=2)(x)
    model = keras.Model(inputs, layers.Dense(33)(layers.Flatten()(layers.ReLU(6)(x))))
    pq.snap(model, quantizer)
    return model


def samples():
    return np.random.default_rng(0).normal(size=(24, *SHAPE)).astype(np.float32)


def layers_of(path):
    """{name of the operator: (type of the weights, version, codes)} of a file."""
    model, found = flatbuffer.Model(path.read_bytes()), {}
    (graph,) = model.subgraphs
    known = decoding.decode_graph(model, graph, 1 << 20)
    for operator in graph.operators:
        name = model.operator_name(operator)
        if name in LAYERS:
            index = int(operator.inputs[1])
            version = model.model.operatorCodes[operator.opcodeIndex].version
            found[name] = graph.tensors[index].type, version, known[index].values
    return found


class StorageTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.files = {}

    def export(self, model, weights, **options):
        path = self.folder / f"{weights}.tflite"
        options = {"representative_data": samples(), "io": "int8", "batch_size": 1} | options
        return path, pq.export(model, path, "static", weights=weights, **options)

    def exported(self, quantizer, weights):
        """(path, report) of the network, exported once for all tests."""
        if (quantizer, weights) not in self.files:
            path, report = self.export(network(QUANTIZERS[quantizer]), weights)
            kept = path.with_stem(f"{quantizer}-{weights}")
            self.files[quantizer, weights] = path.rename(kept), report
        return self.files[quantizer, weights]

    @parameterized.parameters("binary", "2 bits")
    def test_convolutions_take_four_bits_and_lose_nothing_but_roundings(self, name):
        wide, _ = self.exported(name, "int8")
        path, report = self.exported(name, "int4")
        found, before = layers_of(path), layers_of(wide)
        for layer in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            kind, version, codes = found[layer]
            self.assertEqual((kind, version), (TensorType.INT4, 7))
            self.assertLessEqual(np.abs(codes).max(), 7)
            np.testing.assert_array_equal(16 * codes.astype(int), before[layer][2])
        for layer in ("TRANSPOSE_CONV", "FULLY_CONNECTED"):
            self.assertEqual(found[layer][0], TensorType.INT8)
        self.assertEqual([row.bits for row in report.rows].count(4), 2)
        self.assertEqual([row.reason for row in report.rows].count(static.DENSE_IN_8_BITS), 2)
        data = samples()[:8]
        codes = (data / report.inputs[0].scale + report.inputs[0].zero_point).round()
        codes = codes.clip(-128, 127).astype(np.int8)
        outputs = [litert.predict(p, codes).astype(int) for p in (wide, path)]
        self.assertLessEqual(np.abs(np.subtract(*outputs)).max(), 2)

    @parameterized.parameters(*BITS)
    def test_tables_hold_the_codes_in_as_many_bits_as_there_are_levels(self, name):
        wide, _ = self.exported(name, "int8")
        path, report = self.exported(name, "tables")
        self.assertLess(path.stat().st_size, wide.stat().st_size)
        for layer, (_, _, codes) in layers_of(wide).items():
            np.testing.assert_array_equal(layers_of(path)[layer][2], codes, layer)
        bits = BITS[name]
        rows = {row.operators[0]: row for row in report.rows}
        self.assertEqual(rows["FULLY_CONNECTED"].form, f"{bits} bit table")
        read = {row.operators[0]: row for row in pq.inspect(path).rows}
        self.assertEqual(read["FULLY_CONNECTED"].form, f"{bits} bit table")
        self.assertEqual(read["FULLY_CONNECTED"].bits, bits)
        self.assertIn("tflite-micro alone", report.notes[-1])

    def test_what_takes_eight_bits_says_why(self):
        _, report = self.exported("uneven", "int4")
        reasons = {row.operators[0]: row.reason for row in report.rows}
        self.assertEqual(reasons["CONV_2D"], static.IN_8_BITS)

    def test_weights_that_several_layers_read_stay_and_say_why(self):
        inputs = keras.Input((3, 16))
        unrolled = keras.Model(inputs, layers.SimpleRNN(32, unroll=True)(inputs))
        pq.snap(unrolled, pq.Binary("mean", axis=-1))
        data = np.random.default_rng(0).normal(size=(8, 3, 16)).astype(np.float32)
        _, report = self.export(unrolled, "tables", representative_data=data, verify=False)
        shared = [row for row in report.rows if len(row.operators) > 1]
        self.assertNotEmpty(shared)
        for row in shared:
            self.assertEqual((row.form, row.reason), ("int8 static", static.SHARED_IN_8_BITS))

    def test_weights_in_a_loop_are_said_to_be_wrong_in_tflite_micro(self):
        inputs = keras.Input((3, 16))
        looped = keras.Model(inputs, layers.Dense(3)(layers.SimpleRNN(32)(inputs)))
        pq.snap(looped, pq.Binary("mean", axis=-1))
        data = np.random.default_rng(0).normal(size=(8, 3, 16)).astype(np.float32)
        _, report = self.export(looped, "int8", representative_data=data, verify=False)
        self.assertIn("tflite-micro computes codes", "".join(report.notes))

    def test_each_operator_decodes_before_its_layer_into_nameless_memory(self):
        path, _ = self.exported("binary", "tables")
        model = flatbuffer.Model(path.read_bytes())
        (graph,) = model.subgraphs
        names = [model.operator_name(operator) for operator in graph.operators]
        for place, name in enumerate(names):
            if name == flatbuffer.DECODE:
                self.assertIn(names[place + 1], LAYERS)
                (made,) = graph.operators[place].outputs
                self.assertEqual(made, graph.operators[place + 1].inputs[1])
                self.assertEqual(graph.tensors[made].buffer, 0)
        self.assertIn(flatbuffer.DECODE, names)
        tensors = [tensor.name for tensor in graph.tensors]
        self.assertLen(set(tensors), len(tensors))

    def test_litert_refuses_tables_with_a_way_out(self):
        path, _ = self.exported("binary", "tables")
        with self.assertRaisesRegex(ValueError, "tflite-micro alone.*weights='int8'"):
            litert.predict(path, samples()[:1])

    def test_names_can_be_left_out(self):
        wide, _ = self.exported("binary", "tables")
        path, _ = self.export(network(QUANTIZERS["binary"]), "tables", strip_names=True)
        self.assertLess(path.stat().st_size, wide.stat().st_size)
        (graph,) = flatbuffer.Model(path.read_bytes()).subgraphs
        self.assertIn(None, [tensor.name for tensor in graph.tensors])

    def test_weights_that_gain_nothing_stay_as_they_are(self):
        inputs = keras.Input((4,))
        small = keras.Model(inputs, layers.Dense(3)(inputs))
        pq.snap(small, pq.Binary("mean", axis=-1))
        data = {"representative_data": samples()[:, 0, :4, 0]}
        path, report = self.export(small, "tables", **data)
        plain, _ = self.export(small, "int8", **data)
        self.assertEqual(path.read_bytes(), plain.read_bytes())
        self.assertNotIn("tflite-micro", "".join(report.notes))

    def test_the_report_knows_tables_of_weights_on_no_grid(self):
        inputs = keras.Input((40,))
        coarse = keras.Model(inputs, layers.Dense(48)(inputs))
        values = np.random.default_rng(0).choice([-1, 0.3717, 0.9113], (40, 48))
        coarse.layers[-1].kernel.assign(values)
        data = np.random.default_rng(1).normal(size=(8, 40)).astype(np.float32)
        path, report = self.export(coarse, "tables", representative_data=data)
        forms = [report.rows[0].form, pq.inspect(path).rows[0].form]
        self.assertEqual(forms, ["2 bit table"] * 2)
        self.assertEqual(report.rows[0].reason, static.BY_CONVERTER)

    def test_tables_that_decode_to_something_else_are_not_written(self):
        wide, _ = self.exported("binary", "int8")
        other, _ = self.exported("ternary", "tables")
        with self.assertRaisesRegex(verify.VerificationError, "tables of layer 0"):
            verify.check_codes(other.read_bytes(), wide.read_bytes())

    def test_operators_that_tflite_micro_has_not_are_named(self):
        inputs = keras.Input(SHAPE)
        tiled = keras.Model(inputs, layers.Conv2D(2, 1)(layers.UpSampling2D(2)(inputs)))
        pq.snap(tiled, pq.Binary("mean", axis=-1))
        _, report = self.export(tiled, "int8", verify=False)
        self.assertIn("tflite-micro has no TILE", report.notes[-1])
        self.assertNotIn("tflite-micro", "".join(self.exported("binary", "int8")[1].notes))

    def test_bad_requests_are_refused(self):
        model = network(QUANTIZERS["binary"])
        with self.assertRaisesRegex(ValueError, "weights must be one of.*'int2'"):
            self.export(model, "int2")
        with self.assertRaisesRegex(ValueError, "static.*weights='int4'.*profile='fast'"):
            pq.export(model, self.folder / "model.tflite", "fast", weights="int4")

    def test_the_command_takes_it(self):
        network(QUANTIZERS["binary"]).save(self.folder / "model.keras")
        np.savez(self.folder / "data.npz", samples())
        files = [str(self.folder / name) for name in ("model.keras", "m.tflite", "data.npz")]
        arguments = [*files[:2], "--profile=static", f"--data={files[2]}", "--weights=tables"]
        self.assertEqual(command.main([*arguments, "--c_array", "--batch_size=1"]), 0)
        self.assertIn("bit table", str(litert.inspect(files[1])))


class IndexedTest(parameterized.TestCase):
    @parameterized.parameters((2, (5, 3, 3, 7), 0), (3, (1, 3, 3, 11), 3), (100, (9, 31), 0))
    def test_what_is_packed_comes_back(self, count, shape, axis):
        generator = np.random.default_rng(count)
        values = generator.choice(np.arange(-128, 128), count, replace=False).astype(np.int8)
        codes = generator.choice(values, shape)
        codes[(slice(None),) * axis + (0,)] = values[0]  # a channel of fewer levels
        packed, tables = indexed.encode(codes, axis)
        np.testing.assert_array_equal(indexed.decode(packed, tables, shape), codes)
        self.assertEqual(packed.size, -(-codes.size * indexed.index_bits(tables) // 8))

    def test_a_pinned_example(self):
        """Two channels of three weights: -1 5 -1 and 7 7 2, each with its own two levels."""
        packed, tables = indexed.encode(np.int8([[-1, 5, -1], [7, 7, 2]]), 0)
        self.assertEqual(packed.tolist(), [0b01011000])
        self.assertEqual(tables.tolist(), [0, 1, 0, 0, 1, 0x01, 2, *[0] * 9, 255, 5, 2, 7])

    def test_damage_is_a_value_error(self):
        packed, tables = indexed.encode(np.int8([[-1, 5, -1], [7, 7, 2]]), 0)
        for place, value in ((0, 1), (1, 2), (4, 0), (5, 0x21), (5, 0x02), (6, 3), (6, 1)):
            damaged = tables.copy()
            damaged[place] = value
            with self.assertRaises((ValueError, IndexError), msg=(place, value)):
                indexed.decode(packed, damaged, (2, 3))
        with self.assertRaises(ValueError):
            indexed.decode(packed, tables[:12], (2, 3))
