"""Data sets and batches."""

import gzip
import pathlib
import struct
import tempfile
import time
import unittest

import keras
import numpy as np

from tf_proxquant import datasets
from tf_proxquant.datasets import batches

RANDOM = np.random.default_rng(0)


def arrays(train=12, test=6, shape=(5, 4)):
    return {
        "x_train": RANDOM.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": np.arange(train, dtype=np.uint8) % 3,
        "x_test": RANDOM.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test, dtype=np.uint8) % 3,
    }


def write_idx(folder, content, compress):
    for key, filename in (
        ("x_train", "train-images-idx3-ubyte"),
        ("y_train", "train-labels-idx1-ubyte"),
        ("x_test", "t10k-images-idx3-ubyte"),
        ("y_test", "t10k-labels-idx1-ubyte"),
    ):
        values = content[key]
        header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
        opener, suffix = (gzip.open, ".gz") if compress else (open, "")
        with opener(folder / (filename + suffix), "wb") as file:
            file.write(header + values.tobytes())


class LoadTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def check(self, images, content):
        for key in ("x_train", "x_test"):
            np.testing.assert_array_equal(getattr(images, key)[..., 0], content[key])
        for key in ("y_train", "y_test"):
            np.testing.assert_array_equal(getattr(images, key), content[key])
        self.assertEqual(images.num_classes, 3)

    def test_digits_come_with_the_package_and_are_split_without_overlap(self):
        digits = datasets.load("digits")
        self.assertEqual(digits.x_train.shape, (1437, 8, 8, 1))
        self.assertEqual(digits.x_test.shape, (360, 8, 8, 1))
        self.assertEqual((digits.num_classes, int(digits.x_train.max())), (10, 16))
        together = np.concatenate([digits.x_train, digits.x_test]).reshape(1797, -1)
        self.assertEqual(int(together.sum()), 561718)
        self.assertEqual(sorted(np.bincount(digits.y_test))[0], 27)

    def test_an_npz_file_and_an_idx_folder_give_the_same_images(self):
        content = arrays()
        np.savez(self.folder / "images.npz", **content)
        self.check(datasets.load(str(self.folder / "images.npz")), content)
        for compress in (True, False):
            folder = self.folder / f"idx{compress}"
            folder.mkdir()
            write_idx(folder, content, compress)
            self.check(datasets.load(str(folder)), content)
            images = datasets.load("fashion_mnist", data_dir=str(folder))
            self.assertEqual(images.name, "fashion_mnist")

    def test_a_folder_that_tensorflow_datasets_prepared_is_read(self):
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            self.skipTest("tensorflow-datasets is not installed.")
        content = arrays(shape=(28, 28, 1))
        import tensorflow as tf

        splits = {
            split: tf.data.Dataset.from_tensor_slices(
                {"image": content[f"x_{split}"], "label": content[f"y_{split}"].astype("int64")}
            )
            for split in ("train", "test")
        }
        tfds.dataset_builders.store_as_tfds_dataset(
            name="fashion_mnist",
            version="3.0.1",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=3),
                }
            ),
            split_datasets=splits,
            data_dir=str(self.folder),
            disable_shuffling=True,
        )
        images = datasets.load("fashion_mnist", data_dir=str(self.folder))
        self.check(images, {**content, "x_train": content["x_train"][..., 0],
                            "x_test": content["x_test"][..., 0]})  # fmt: skip

    def test_what_is_not_there_is_said_within_seconds(self):
        start = time.monotonic()
        for data_set in ("cifar10", "cifar100", "fashion_mnist"):
            with self.assertRaisesRegex(ValueError, "--download"):
                datasets.load(data_set, data_dir=str(self.folder))
        self.assertLess(time.monotonic() - start, 5)

    def test_bad_names_files_and_contents_are_refused(self):
        def npz(name, **changes):
            content = {**arrays(), **changes}
            np.savez(self.folder / name, **{k: v for k, v in content.items() if v is not None})
            return str(self.folder / name)

        (self.folder / "empty").mkdir()
        (self.folder / "text.npz").write_text("no archive")
        write_idx(self.folder / "empty", arrays(), compress=False)
        (self.folder / "empty" / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x09abc")
        floats = RANDOM.normal(size=(12, 5, 4))
        cases = {
            "Unknown data set": "imagenet",
            "no file": "/nowhere/images.npz",
            "not a readable .npz": str(self.folder / "text.npz"),
            r"lacks the arrays \['y_test'\]": npz("lacks.npz", y_test=None),
            "not an IDX file": str(self.folder / "empty"),
            r"shapes \(12, 5, 4, 1\) and \(11,\)": npz("count.npz", y_train=np.zeros(11, int)),
            "x_train must be uint8 or float": npz("dtype.npz", x_train=np.zeros((12, 5, 4), int)),
            "NaN or inf": npz("nan.npz", x_train=floats * np.nan),
            "integer labels": npz("labels.npz", y_train=np.linspace(0, 2, 12)),
            "at least 0": npz("negative.npz", y_train=np.arange(12) - 1),
            "cover at least 2 classes": npz("classes.npz", y_test=np.full(6, 7)),
            "one shape": npz("shape.npz", x_test=np.zeros((6, 9, 9), np.uint8)),
            "n >= 1": npz(
                "none.npz", x_test=np.zeros((0, 5, 4), np.uint8), y_test=np.zeros(0, int)
            ),
        }
        for pattern, name in cases.items():
            with self.subTest(pattern), self.assertRaisesRegex(ValueError, pattern):
                datasets.load(name)


class BatchesTest(unittest.TestCase):
    def make(self, **arguments):
        images = np.random.default_rng(5).integers(0, 256, (50, 6, 6, 2), dtype=np.uint8)
        mean, std = datasets.channel_statistics(images)
        return datasets.Batches(
            images, np.arange(50, dtype="int32"), 16, mean=mean, std=std, **arguments
        )

    def epoch(self, feed):
        feed.on_epoch_end()
        feed.on_epoch_begin()
        found = [feed[i] for i in range(len(feed))]
        return np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found])

    def test_plain_batches_are_the_normalized_images_in_order(self):
        feed = self.make()
        x, y = self.epoch(feed)
        np.testing.assert_array_equal(y, np.arange(50))
        np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=1e-5)
        self.assertEqual(x.dtype, np.float32)

    def test_each_epoch_has_every_image_once_in_a_new_order(self):
        feed = self.make(shuffle=True)
        (_, first), (_, second) = self.epoch(feed), self.epoch(feed)
        self.assertEqual(sorted(first), list(range(50)))
        self.assertEqual(sorted(second), list(range(50)))
        self.assertTrue(np.any(first != second))

    def test_a_run_that_starts_at_an_epoch_sees_what_the_whole_run_saw(self):
        arguments = {"shuffle": True, "pad": 1, "flip": True, "seed": 3}
        whole = self.make(**arguments)
        self.epoch(whole)
        expected = self.epoch(whole)
        resumed = self.make(**arguments, epoch=1)
        for found, value in zip(self.epoch(resumed), expected, strict=True):
            np.testing.assert_array_equal(found, value)

    def test_fit_reads_the_epochs_that_it_counts(self):
        seen = []

        class Watched(datasets.Batches):
            def __getitem__(self, index):
                seen.append((self.epoch, index))
                return super().__getitem__(index)

        images = np.zeros((6, 2, 2, 1), "float32")
        feed = Watched(images, np.zeros(6, "int32"), 2, mean=[0], std=[1], epoch=3)
        model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
        model.add(keras.layers.Dense(1))
        model.compile("sgd", "mse")
        counter = datasets.EpochCounter(feed)
        model.fit(feed, initial_epoch=3, epochs=5, shuffle=False, verbose=0, callbacks=[counter])
        self.assertEqual(seen[-6:], [(3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2)])

    def test_another_seed_gives_other_batches(self):
        first, second = self.make(shuffle=True, seed=1), self.make(shuffle=True, seed=2)
        self.assertTrue(np.any(self.epoch(first)[1] != self.epoch(second)[1]))

    def test_crops_are_the_shifted_image_with_zeros_and_all_shifts_occur(self):
        image = np.arange(1.0, 10.0, dtype="float32").reshape(1, 3, 3, 1)
        crops = batches.random_crop(np.repeat(image, 500, axis=0), 1, np.random.default_rng(0))
        padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)))
        possible = {padded[i : i + 3, j : j + 3].tobytes() for i in range(3) for j in range(3)}
        self.assertEqual({crop.tobytes() for crop in crops}, possible)

    def test_flips_are_left_right_and_about_half(self):
        image = np.arange(6.0, dtype="float32").reshape(1, 2, 3, 1)
        flipped = batches.random_flip(np.repeat(image, 400, axis=0), np.random.default_rng(0))
        share = np.mean([np.array_equal(f, image[0, :, ::-1]) for f in flipped])
        same = np.mean([np.array_equal(f, image[0]) for f in flipped])
        self.assertEqual(share + same, 1)
        self.assertLess(abs(share - 0.5), 0.1)

    def test_a_constant_channel_normalizes_to_zero(self):
        _, std = datasets.channel_statistics(np.full((4, 3, 3, 1), 7, np.uint8))
        self.assertEqual(std[0], 1.0)

    def test_no_images_are_refused(self):
        with self.assertRaisesRegex(ValueError, "at least 1"):
            datasets.Batches(np.zeros((0, 2, 2, 1)), np.zeros(0), 4, mean=[0], std=[1])
