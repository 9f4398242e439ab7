"""Networks of one's own: keras.applications, functions, files; their weights and last layers."""

import contextlib
import io
import os
import pathlib
import sys
import tempfile
import unittest

import keras
import numpy as np
from keras import layers

import tf_proxquant as pq
from tests.training_cases import SMALL
from tf_proxquant import datasets, training
from tf_proxquant.training import images, networks, phases, seeding

SHAPE, CLASSES = (32, 32, 3), 4
MEAN, STD = np.float32([120, 110, 100]), np.float32([60, 61, 62])
PIXELS = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype("float32")
MODULE = """
import keras
from keras import layers

def plain(shape, num_classes):
    return keras.Sequential([
        keras.Input(shape), layers.Flatten(), layers.Dense(num_classes, name="last")])

def scaled(shape, num_classes):
    return keras.Sequential([
        keras.Input(shape), layers.Rescaling(1 / 255), layers.Flatten(),
        layers.Dense(num_classes, activation="softmax")])

class Subclassed(keras.Model):
    def __init__(self, num_classes):
        super().__init__()
        self.flat, self.last = layers.Flatten(), layers.Dense(num_classes)

    def call(self, x):
        return self.last(self.flat(x))

def subclassed(shape, num_classes):
    return Subclassed(num_classes)

def other(shape, num_classes):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(num_classes + 1)])

def nothing():
    return None

def number(shape, num_classes):
    return 3
"""


def build(shape=SHAPE, classes=CLASSES, **settings):
    return networks.build(training.Settings(**settings), shape, classes, MEAN, STD)


def normalized(pixels):
    return (pixels - MEAN) / STD


class InFolder(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)


class ApplicationTest(unittest.TestCase):
    def test_the_preprocessing_of_each_family_is_in_the_model(self):
        pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype("float32")
        for name, module in {
            "MobileNetV2": keras.applications.mobilenet_v2,
            "ResNet50": keras.applications.resnet,
            "VGG16": keras.applications.vgg16,
            "DenseNet121": keras.applications.densenet,
            "Xception": keras.applications.xception,
            "EfficientNetV2B0": keras.applications.efficientnet_v2,
            "MobileNetV3Small": keras.applications.mobilenet_v3,
            "ConvNeXtTiny": keras.applications.convnext,
        }.items():
            with self.subTest(name):
                inputs = keras.Input((4, 4, 3))
                out = networks.preprocessed(getattr(keras.applications, name), inputs)
                found = keras.Model(inputs, keras.ops.abs(out))(pixels)
                expected = np.abs(module.preprocess_input(pixels.copy()))
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)

    def test_a_model_takes_pixels_and_gives_a_logit_for_each_class(self):
        model, is_begun = build(model="MobileNetV2")
        self.assertFalse(is_begun)
        self.assertEqual((model.input_shape, model.output_shape), ((None, *SHAPE), (None, CLASSES)))
        self.assertEqual(networks.head_of(model).name, "head")
        self.assertTrue(np.any(np.asarray(model(PIXELS)) < 0))

    def test_grey_images_fill_the_three_channels(self):
        model, _ = build((32, 32, 1), model="MobileNetV2")
        self.assertEqual(model.input_shape, (None, 32, 32, 1))

    def test_a_size_that_the_family_does_not_take_is_said(self):
        with self.assertRaisesRegex(ValueError, "(?s)MobileNetV2 cannot be made.*--image_size"):
            build((8, 8, 3), model="MobileNetV2")

    def test_weights_without_their_last_layer_begin_a_model_for_other_classes(self):
        first, _ = build(model="MobileNetV2")
        with tempfile.TemporaryDirectory() as folder:
            of_all, of_base = f"{folder}/all.weights.h5", f"{folder}/base.weights.h5"
            first.save_weights(of_all)
            keras.Model(first.inputs, networks.head_of(first).input).save_weights(of_base)
            first.save(f"{folder}/first.keras")
            for path, classes, is_begun in (
                (of_all, CLASSES, False),
                (of_base, 7, True),
                (f"{folder}/first.keras", CLASSES, False),
                (f"{folder}/first.keras", 7, True),
            ):
                with self.subTest(f"{path} {classes}"):
                    found, begun = build(classes=classes, model="MobileNetV2", weights=path)
                    self.assertEqual(begun, is_begun)
                    for one, other in zip(found.weights[:-2], first.weights[:-2], strict=True):
                        np.testing.assert_array_equal(one, other)
            with self.assertRaisesRegex(ValueError, "do not fit the model"):
                build(model="resnet8", weights=f"{folder}/first.keras")
            with self.assertRaisesRegex(ValueError, "all.weights.h5' do not fit"):
                build(model="resnet8", weights=of_all)


class FunctionTest(InFolder):
    def setUp(self):
        super().setUp()
        pathlib.Path("own_networks.py").write_text(MODULE)
        self.addCleanup(sys.modules.pop, "own_networks", None)

    def test_a_function_is_called_and_its_model_made_to_take_pixels_and_give_logits(self):
        model, _ = build(model="own_networks:plain")
        inner = model.layers[-1]
        np.testing.assert_allclose(model(PIXELS), inner(normalized(PIXELS)), rtol=1e-4, atol=1e-4)
        model, _ = build(model="own_networks:scaled")
        self.assertEqual(len(model.layers), 3)
        self.assertTrue(np.any(np.abs(np.asarray(model(PIXELS)).sum(axis=-1) - 1) > 1e-3))
        model, _ = build(model="own_networks:subclassed")
        self.assertEqual(model.output_shape, (None, CLASSES))

    def test_what_is_no_model_for_the_data_is_said(self):
        for pattern, name in {
            "no function 'absent' in a module 'own_networks'": "own_networks:absent",
            "no function 'f' in a module 'no_such_module'": "no_such_module:f",
            "must return a keras.Model.*3": "own_networks:number",
            r"must take \(input_shape, num_classes\).*too many": "own_networks:nothing",
            r"'own_networks:other' does not fit.*\(None, 5\).*\(None, 4\)": "own_networks:other",
        }.items():
            with self.subTest(name), self.assertRaisesRegex(ValueError, pattern):
                build(model=name)


class FileTest(InFolder):
    def test_a_file_for_other_classes_gets_a_new_last_layer(self):
        keras.utils.set_random_seed(0)
        body = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
        first = keras.Sequential([keras.Input(SHAPE), *body, layers.Dense(9), layers.Softmax()])
        first.save("first.keras")
        model, is_begun = build(model="first.keras")
        self.assertTrue(is_begun)
        self.assertEqual(model.output_shape, (None, CLASSES))
        np.testing.assert_array_equal(model.weights[0], first.weights[0])
        same, is_begun = build(classes=9, model="first.keras")
        self.assertFalse(is_begun)
        logits = np.log(np.asarray(first(normalized(PIXELS))))
        found = np.asarray(same(PIXELS))
        np.testing.assert_allclose(
            found - found.mean(-1, keepdims=True),
            logits - logits.mean(-1, keepdims=True),
            atol=1e-4,
        )

    def test_a_file_of_an_open_size_takes_the_pictures(self):
        body = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
        first = keras.Sequential([keras.Input((None, None, 3)), *body, layers.Dense(CLASSES)])
        first.save("open.keras")
        model, _ = build(model="open.keras")
        self.assertEqual(model.input_shape, (None, *SHAPE))


class HeadTest(unittest.TestCase):
    def test_only_the_last_layer_learns_and_statistics_stay_until_all_do(self):
        model, _ = build(model="resnet8")
        networks.freeze_all_but_head(model)
        before = [np.array(w) for w in model.weights]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)
        model.fit(PIXELS, np.arange(3), verbose=0)
        moved = [not np.array_equal(w, b) for w, b in zip(model.weights, before, strict=True)]
        self.assertEqual(moved, [False] * (len(moved) - 2) + [True, True])
        networks.unfreeze(model)
        model.compile("sgd", loss)
        model.fit(PIXELS, np.arange(3), verbose=0)
        moved = [not np.array_equal(w, b) for w, b in zip(model.weights, before, strict=True)]
        self.assertTrue(all(moved))


class SeedRandomLayersTest(unittest.TestCase):
    def test_what_layers_draw_depends_on_seed_layer_and_epoch_alone(self):
        inner = keras.Sequential([keras.Input((50,)), layers.Dropout(0.5), layers.Dropout(0.5)])
        model = keras.Sequential([keras.Input((50,)), layers.Dropout(0.5), inner])
        x = np.ones((1, 50), "float32")

        def drawn(seed, epoch):
            callback = seeding.SeedRandomLayers(seed)
            callback.set_model(model)
            callback.on_epoch_begin(epoch)
            parts = (model.layers[0], *inner.layers)
            return [np.asarray(layer(x, training=True)) for layer in parts]

        first, again = drawn(1, 2), drawn(1, 2)
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)
        others = [*first[1:], *drawn(1, 3), *drawn(2, 2)]
        for other in others:
            self.assertTrue(np.any(first[0] != other))


class EdgesTest(unittest.TestCase):
    def levels(self, **settings):
        """Most levels in a column of each kernel that is quantized, in the order of the model."""
        data = datasets.load("digits")
        task = images.ImageTask(training.Settings(**settings), data)
        model = task.make_model()
        optimizer = phases.quantizing_optimizer(task.settings, task, model)
        task.compile(model, optimizer)
        optimizer.build(model.trainable_variables)
        pq.snap(model)
        columns = {
            v.path: np.asarray(v).reshape(-1, v.shape[-1]).T
            for v, _ in optimizer.quantized_variables
        }
        return {path: max(len(np.unique(c)) for c in of) for path, of in columns.items()}

    def test_the_first_and_the_last_kernel_have_bits_of_their_own(self):
        found = self.levels(edge_bits=3, quantizer="uniform", bits=2)
        self.assertEqual(len(found), 8)
        self.assertTrue(4 < found["stem/kernel"] <= 8 and 4 < found["head/kernel"] <= 8)
        self.assertLessEqual(found["stage1_block1_conv1/kernel"], 4)
        self.assertFalse([path for path in found if "shortcut" in path])

    def test_or_one_bit(self):
        found = self.levels(edge_bits=1, quantizer="ternary")
        self.assertEqual((len(found), found["stem/kernel"], found["head/kernel"]), (8, 2, 2))
        self.assertEqual(found["stage1_block1_conv1/kernel"], 3)

    def test_a_network_of_edges_says_that_it_does_not_use_the_quantizer(self):
        settings = {"model": SMALL, "quantizer": "ternary"}
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            found = self.levels(**settings, edge_bits=4)
        self.assertIn(
            "4 bits for them (--edge_bits), and --quantizer=ternary is not used", errors.getvalue()
        )
        self.assertGreater(min(found.values()), 3)
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            found = self.levels(**settings, edge_bits=32)
        self.assertEqual((set(found.values()), errors.getvalue()), ({3}, ""))

    def test_or_full_precision_or_the_papers_choice(self):
        self.assertEqual(len(self.levels(edge_bits=32)), 6)
        self.assertEqual(len(self.levels(quantizer="ternary")), 6)
        self.assertEqual(len(self.levels()), 8)
