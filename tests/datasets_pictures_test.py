"""Pictures: decoded as Pillow does, found in folders, and what is said where something is wrong."""

import io
import os
import pathlib
import tempfile
import unittest
from unittest import mock

import numpy as np
from PIL import Image, ImageOps

from tf_proxquant import datasets
from tf_proxquant.datasets import folders, pictures

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (24, 32, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(size=(8, 8)):
    return Image.fromarray(RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8))


class ReadPictureTest(unittest.TestCase):
    def test_every_colour_mode_becomes_what_pillow_makes_of_it_in_rgb(self):
        alpha = PICTURE.copy()
        alpha.putalpha(100)
        palette = PICTURE.quantize(16)
        cases = {
            "rgb png": encoded(PICTURE, "PNG"),
            "jpeg": encoded(PICTURE, "JPEG"),
            "grey jpeg": encoded(PICTURE.convert("L"), "JPEG"),
            "cmyk jpeg": encoded(PICTURE.convert("CMYK"), "JPEG"),
            "alpha": encoded(alpha, "PNG"),
            "grey and alpha": encoded(alpha.convert("LA"), "PNG"),
            "palette": encoded(palette, "PNG"),
            "one bit": encoded(PICTURE.convert("1"), "PNG"),
            "bmp": encoded(PICTURE, "BMP"),
        }
        for name, content in cases.items():
            with self.subTest(name):
                expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
                np.testing.assert_array_equal(pictures.read_picture(content), expected)
                grey = pictures.read_picture(content, channels=1)
                self.assertEqual(grey.shape, (24, 32, 1))

    def test_transparent_colours_are_kept_as_they_are(self):
        content = encoded(PICTURE.quantize(16), "PNG", transparency=bytes(range(0, 160, 10)))
        expected = np.asarray(PICTURE.quantize(16).convert("RGB"))
        with self.assertNoLogs(), mock.patch("warnings.warn") as warned:
            np.testing.assert_array_equal(pictures.read_picture(content), expected)
        warned.assert_not_called()

    def test_of_sixteen_bits_the_higher_eight_are_kept(self):
        deep = RANDOM.integers(0, 2**16, (5, 6)).astype("uint16")
        found = pictures.read_picture(encoded(Image.fromarray(deep), "PNG"))
        np.testing.assert_array_equal(found[..., 0], deep >> 8)
        np.testing.assert_array_equal(found[..., 1], deep >> 8)

    def test_the_first_picture_of_a_gif_counts(self):
        frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue")]
        content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(pictures.read_picture(content)[0, 0], [255, 0, 0])

    def test_pictures_stand_upright_as_their_exif_entry_says(self):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[274] = orientation
            content = encoded(PICTURE, "PNG", exif=exif)
            expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
            found = pictures.read_picture(content)
            np.testing.assert_array_equal(found, expected)
            self.assertEqual(found.shape[0] > found.shape[1], orientation > 4)
            self.assertEqual(pictures.picture_size(content), found.shape[:2])

    def test_a_picture_of_the_wanted_size_is_not_touched(self):
        for resize in pictures.RESIZES:
            found = pictures.read_picture(encoded(PICTURE, "PNG"), (24, 32), resize)
            np.testing.assert_array_equal(found, PIXELS)

    def test_resizing_is_pillows(self):
        content, bilinear = encoded(PICTURE, "PNG"), Image.Resampling.BILINEAR
        for resize, expected in {
            "stretch": PICTURE.resize((10, 10), bilinear),
            "crop": ImageOps.fit(PICTURE, (10, 10), bilinear),
            "pad": ImageOps.pad(PICTURE, (10, 10), bilinear),
        }.items():
            found = pictures.read_picture(content, (10, 10), resize)
            np.testing.assert_array_equal(found, np.asarray(expected), resize)
        padded = pictures.read_picture(content, (10, 10), "pad")
        self.assertFalse(padded[0].any() or padded[-1].any())

    def test_resizing_is_antialiased(self):
        checked = np.indices((64, 64)).sum(axis=0) % 2 * 255
        content = encoded(Image.fromarray(checked.astype("uint8")), "PNG")
        self.assertLess(np.ptp(pictures.read_picture(content, (8, 8))[1:-1, 1:-1]), 3)


class FolderCase(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "pets"
        self.folder.mkdir()

    def add(self, name, content=None):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(), "PNG") if content is None else content)
        return path

    def fill(self, *classes, count=5, part=""):
        for name in classes:
            for number in range(count):
                self.add(f"{part}{name}/{number}.png")

    def load(self, **arguments):
        return datasets.load(str(self.folder), **arguments)


class FolderTest(FolderCase):
    def test_a_fifth_of_each_class_is_for_the_test_the_same_each_time(self):
        self.fill("cat", count=10)
        self.fill("dog", count=21)
        first, second = self.load(), self.load()
        self.assertEqual(first.class_names, ("cat", "dog"))
        self.assertEqual(np.bincount(first.y_test).tolist(), [2, 4])
        self.assertEqual(np.bincount(first.y_train).tolist(), [8, 17])
        self.assertEqual(first.x_test.names, second.x_test.names)
        self.assertFalse(set(first.x_test.names) & set(first.x_train.names))
        for names, labels in (
            (first.x_train.names, first.y_train),
            (first.x_test.names, first.y_test),
        ):
            self.assertEqual([n.split("/")[0] for n in names], [("cat", "dog")[i] for i in labels])

    def test_parts_are_what_the_folders_say(self):
        for part, count in (("train", 5), ("validation", 3), ("test", 2)):
            self.fill("cat", "dog", count=count, part=f"{part}/")
        found = self.load()
        self.assertEqual((len(found.x_train), len(found.x_test)), (10, 4))
        self.assertEqual(len(found.validation[0]), 6)
        self.assertEqual(found.x_test.names[0], "test/cat/0.png")

    def test_parts_have_other_names_too(self):
        for names in (("Training", "Testing"), ("TRAIN", "dev"), ("train", "Val")):
            self.setUp()
            for part, count in zip(names, (5, 2), strict=True):
                self.fill("cat", "dog", count=count, part=f"{part}/")
            found = self.load()
            self.assertEqual(found.class_names, ("cat", "dog"))
            self.assertEqual((len(found.x_train), len(found.x_test)), (10, 4))

    def test_without_a_test_part_the_validation_serves_for_both(self):
        self.fill("cat", "dog", part="train/")
        self.fill("cat", "dog", count=2, part="val/")
        found = self.load()
        self.assertIsNone(found.validation)
        self.assertEqual(len(found.x_test), 4)

    def test_a_class_may_be_called_train(self):
        self.fill("train", "tram")
        self.assertEqual(self.load().class_names, ("train", "tram"))

    def test_pictures_are_decoded_only_when_they_are_asked_for(self):
        self.fill("cat", "dog", count=20)
        found = self.load()
        with mock.patch.object(pictures, "read_picture", wraps=pictures.read_picture) as read:
            batch, labels = datasets.Batches(found.x_train, found.y_train, 4)[1]
            self.assertEqual(read.call_count, 4)
        self.assertEqual((batch.shape, batch.dtype), ((4, 8, 8, 3), "float32"))
        paths = [self.folder / name for name in found.x_train.names[4:8]]
        expected = np.stack([np.asarray(Image.open(path)) for path in paths])
        np.testing.assert_array_equal(batch, expected)
        self.assertEqual(labels.tolist(), found.y_train[4:8].tolist())

    def test_mean_and_deviation_are_those_of_the_training_pictures(self):
        self.fill("cat", "dog")
        found = self.load()
        expected = datasets.channel_statistics(found.x_train[:])
        for one, other in zip(found.statistics, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)

    def test_pictures_have_their_own_size_where_it_is_one_and_small(self):
        self.fill("cat", "dog")
        self.assertEqual(self.load().x_train.shape[1:], (8, 8, 3))
        self.assertEqual(self.load(image_size=(6, 4)).x_train.shape[1:], (6, 4, 3))
        self.add("cat/wide.png", encoded(noise((8, 9)), "PNG"))
        self.assertEqual(self.load().x_train.shape[1:], (128, 128, 3))
        for path in self.folder.rglob("*.png"):
            path.write_bytes(encoded(noise((300, 300)), "PNG"))
        self.assertEqual(self.load().x_train.shape[1:], (128, 128, 3))

    def test_names_in_any_script_are_classes_in_their_order(self):
        names = ["père noël", "собака", "猫", "می‌خواهم", "10", "2", "🐈"]
        self.fill(*names, count=2)
        self.assertEqual(self.load().class_names, tuple(sorted(names)))

    def test_what_is_hidden_is_passed_over(self):
        self.fill("cat", "dog")
        before = self.load()
        for name in ("cat/.DS_Store", "cat/._0.png", ".git/x", "cat/Thumbs.db", "__MACOSX/cat/0"):
            self.add(name, b"no picture")
        self.add("README.txt", b"about")
        after = self.load()
        self.assertEqual(before.x_train.names, after.x_train.names)
        self.assertEqual(before.class_names, after.class_names)

    def test_links_are_followed_and_end_where_they_lead_back(self):
        self.fill("cat", "dog")
        self.add("../elsewhere/deep/9.png")
        elsewhere = self.folder.parent / "elsewhere"
        (self.folder / "bird").symlink_to(elsewhere)
        (self.folder / "cat/one.png").symlink_to(elsewhere / "deep/9.png")
        (self.folder / "dog/again").symlink_to(self.folder / "dog")
        found = self.load()
        names = [*found.x_train.names, *found.x_test.names]
        self.assertEqual(found.class_names, ("bird", "cat", "dog"))
        self.assertEqual(len(names), 12)
        self.assertIn("bird/deep/9.png", names)


class BadFolderTest(FolderCase):
    def spoil(self):
        """Adds one of each thing that is no picture; returns their names and what is wrong."""
        whole = encoded(noise((40, 40)), "JPEG")
        self.add("cat/cut.jpg", whole[: len(whole) // 2])
        self.add("cat/empty.png", b"")
        self.add("dog/notes.txt", b"not a picture")
        self.add("dog/liar.jpg", b"<html>")
        self.add("dog/picture.tiff", encoded(noise(), "TIFF"))
        self.add("stray.jpg")
        (self.folder / "cat/gone.png").symlink_to("nowhere.png")
        os.mkfifo(self.folder / "dog/pipe.png")
        return {
            "cat/cut.jpg": "broken: ",
            "cat/empty.png": "empty",
            "dog/notes.txt": "no JPEG, PNG, BMP or GIF",
            "dog/liar.jpg": "no JPEG, PNG, BMP or GIF",
            "dog/picture.tiff": "no JPEG, PNG, BMP or GIF",
            "stray.jpg": "lies in no class folder",
            "cat/gone.png": "a link that leads nowhere",
            "dog/pipe.png": "neither file nor folder",
        }

    def test_all_that_is_no_picture_is_named_in_one_error(self):
        self.fill("cat", "dog")
        expected = self.spoil()
        with self.assertRaises(ValueError) as caught:
            self.load()
        message = str(caught.exception)
        self.assertIn("8 of the files", message)
        self.assertIn("--skip_broken", message)
        for name, what in expected.items():
            self.assertIn(f"\n  {name}: {what}", message)

    def test_or_it_is_left_out_and_counted(self):
        self.fill("cat", "dog")
        before = self.load()
        expected = self.spoil()
        found = self.load(skip_broken=True)
        self.assertEqual({name for name, _ in found.left_out}, set(expected))
        self.assertEqual(found.x_train.names, before.x_train.names)
        self.assertEqual(found.x_test.names, before.x_test.names)

    def test_folders_that_are_no_classes_are_refused_in_clear_words(self):
        def only(*classes, **arguments):
            return lambda: self.fill(*classes, **arguments)

        def empty_class():
            self.fill("cat", "dog")
            (self.folder / "bird").mkdir()

        def unknown_class():
            self.fill("cat", "dog", part="train/")
            self.fill("cat", "cow", part="test/")

        def unknown_part():
            self.fill("cat", "dog", part="train/")
            self.fill("cat", "dog", part="unlabeled/")

        def pictures_alone():
            self.add("0.png")

        def spoiled_class():
            self.fill("cat", "dog")
            self.add("bird/0.png", b"")

        cases = {
            "holds no class folders": pictures_alone,
            "divided into parts.*Received: unlabeled": unknown_part,
            "at least two classes.*has 1: cat": only("cat"),
            "pictures to learn from.*bird": empty_class,
            "Not among the classes.*cow": unknown_class,
            "one line of UTF-8.*'a.nb'": only("a\nb", "c"),
            "Without any.*bird": spoiled_class,
            "two pictures of some class.*2 pictures of 2 classes": only("cat", "dog", count=1),
        }
        for pattern, make in cases.items():
            with self.subTest(pattern):
                self.setUp()
                make()
                with self.assertRaisesRegex(ValueError, f"(?s){pattern}"):
                    self.load(skip_broken=True)

    def test_a_name_that_is_no_utf8_is_refused(self):
        self.fill("dog")
        os.mkdir(os.fsencode(self.folder) + b"/caf\xe9")
        with self.assertRaisesRegex(ValueError, "UTF-8.*caf"):
            self.load()

    def test_a_picture_that_goes_away_later_is_named(self):
        self.fill("cat", "dog")
        found = self.load()
        (self.folder / found.x_train.names[2]).unlink()
        with self.assertRaisesRegex(ValueError, f"{found.x_train.names[2]}.*moved"):
            found.x_train[1:4]

    def test_a_size_for_arrays_is_refused(self):
        with self.assertRaisesRegex(ValueError, "for pictures"):
            datasets.load("digits", image_size=(16, 16))

    def test_progress_is_shown_now_and_then(self):
        self.fill("cat", "dog")
        shown = []
        with mock.patch.object(pictures, "_PROGRESS_SECONDS", -1):
            folders.from_folder(self.folder, progress=lambda *numbers: shown.append(numbers))
        self.assertEqual(shown[-1], (10, 10))


class CatalogueTest(unittest.TestCase):
    def test_pictures_of_many_sizes_are_read_one_by_one(self):
        try:
            import tensorflow as tf
            import tensorflow_datasets as tfds
        except ImportError:
            self.skipTest("tensorflow-datasets is not installed.")
        contents = [encoded(noise((20 + i, 30)), "PNG") for i in range(10)]
        names = ["cat", "dog"]
        with tempfile.TemporaryDirectory() as folder:
            for name, splits in (("whole", ["train"]), ("parted", ["train", "validation"])):
                tfds.dataset_builders.store_as_tfds_dataset(
                    name=name,
                    version="1.0.0",
                    features=tfds.features.FeaturesDict(
                        {
                            "image": tfds.features.Image(shape=(None, None, 3)),
                            "label": tfds.features.ClassLabel(names=names),
                        }
                    ),
                    split_datasets={
                        split: tf.data.Dataset.from_generator(
                            lambda: (
                                {"image": pictures.read_picture(c), "label": i % 2}
                                for i, c in enumerate(contents)
                            ),
                            output_signature={
                                "image": tf.TensorSpec((None, None, 3), tf.uint8),
                                "label": tf.TensorSpec((), tf.int64),
                            },
                        )
                        for split in splits
                    },
                    data_dir=folder,
                    disable_shuffling=True,
                )
            parted = datasets.load("parted", data_dir=folder, image_size=(16, 16))
            whole = datasets.load("whole", data_dir=folder)
            expected = [pictures.read_picture(content, (16, 16)) for content in contents]
            np.testing.assert_array_equal(parted.x_train[:], np.stack(expected))
            np.testing.assert_array_equal(parted.x_test[[3, 1]], np.stack(expected)[[3, 1]])
            self.assertEqual(parted.y_train.tolist(), [0, 1] * 5)
            self.assertEqual(parted.class_names, ("cat", "dog"))
            self.assertEqual((len(whole.x_train), len(whole.x_test)), (8, 2))
            self.assertEqual(whole.x_train.shape[1:], (128, 128, 3))
            self.assertIn("whole, example", whole.x_train.names[0])
