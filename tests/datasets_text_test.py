"""Text as word numbers, and its windows."""

import pathlib
import tempfile
import unittest

import numpy as np

from tf_proxquant import datasets


def spell(text, numbers):
    return " ".join(text.vocabulary[number] for number in numbers)


class LoadTextTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def write(self, **parts):
        for part, text in parts.items():
            (self.folder / f"ptb.{part}.txt").write_text(text)

    def test_a_folder_like_penn_treebanks_keeps_its_words_and_its_unknown_ones(self):
        self.write(train=" b a b\n <unk> b c \n", valid="a d\n", test="c b <unk>\n")
        text = datasets.load_text(str(self.folder))
        self.assertEqual(text.vocabulary, ("<eos>", "<unk>", "b", "a", "c"))
        self.assertEqual(spell(text, text.train), "b a b <eos> <unk> b c <eos>")
        self.assertEqual(spell(text, text.valid), "a <unk> <eos>")
        self.assertEqual(text.unknown_share, 1 / 4)

    def test_the_vocabulary_is_the_most_frequent_training_words(self):
        self.write(train="b a b c\n", valid="d d d d d\n", test="a b\n")
        text = datasets.load_text(str(self.folder), max_words=4)
        self.assertEqual(text.vocabulary, ("<eos>", "<unk>", "b", "a"))

    def test_a_plain_file_is_divided_in_its_order(self):
        path = self.folder / "tale.txt"
        path.write_text("".join(f"It's Line {i}.\n" for i in range(20)))
        text = datasets.load_text(str(path))
        self.assertEqual(text.name, "tale")
        self.assertEqual(spell(text, text.train[:5]), "it's line 0 . <eos>")
        self.assertEqual([len(part) for part in text[1:4]], [80, 10, 10])
        self.assertEqual(spell(text, text.test[:5]), "it's line <unk> . <eos>")

    def test_the_grammar_is_the_same_every_time_and_its_verbs_agree(self):
        text = datasets.load_text("grammar")
        np.testing.assert_array_equal(text.train, datasets.load_text("grammar").train)
        self.assertGreater(len(text.train), 30_000)
        self.assertEqual(text.unknown_share, 0.0)
        words = spell(text, text.train).split()
        written = " ".join(words)
        self.assertIn("<eos> the dog sees ", written)
        self.assertNotIn("<eos> the dog see ", written)
        self.assertIn("<eos> the dogs see ", written)
        self.assertIn("dog that sees ", written)

    def test_texts_that_tensorflow_datasets_prepared_are_read(self):
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            self.skipTest("tensorflow-datasets is not installed.")
        import tensorflow as tf

        rows = {"train": "To be,\nor not", "validation": "to be", "test": "not to be"}
        tfds.dataset_builders.store_as_tfds_dataset(
            name="tiny_shakespeare",
            version="1.0.0",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            split_datasets={
                split: tf.data.Dataset.from_tensor_slices({"text": [row]})
                for split, row in rows.items()
            },
            data_dir=str(self.folder),
        )
        text = datasets.load_text("tiny_shakespeare", data_dir=str(self.folder))
        self.assertEqual(spell(text, text.train), "to be , <eos> or not <eos>")
        self.assertEqual(spell(text, text.test), "not to be <eos>")

    def test_what_is_not_there_or_too_short_is_refused(self):
        self.write(train="a b\n", valid="a\n")
        (self.folder / "short.txt").write_text("one line\n")
        (self.folder / "image.txt").write_bytes(b"\xff\xd8\xff")
        for pattern, name in {
            r"one file \*.test.txt": self.folder,
            "too short": self.folder / "short.txt",
            "not a readable UTF-8": self.folder / "image.txt",
            "no text file or folder '.*none.txt'": self.folder / "none.txt",
            "--download": "wiki40b/en",
        }.items():
            with self.subTest(pattern), self.assertRaisesRegex(ValueError, pattern):
                datasets.load_text(str(name), data_dir=str(self.folder))


class StreamsTest(unittest.TestCase):
    def test_every_word_is_predicted_once_from_the_one_before_it_in_its_stream(self):
        words = np.arange(1, 24)
        streams = datasets.Streams(words, batch_size=3, steps=3, first=0)
        self.assertEqual(len(streams), 3)
        seen = []
        for row in range(3):
            inputs, targets, weights = (
                np.concatenate([batch[k][row] for batch in (streams[i] for i in range(3))])
                for k in range(3)
            )
            used = weights > 0
            np.testing.assert_array_equal(inputs[used] + 1, targets[used])
            seen += targets[used].tolist()
        self.assertEqual(seen, words.tolist())

    def test_training_windows_are_whole_and_go_on_where_the_last_one_ended(self):
        streams = datasets.Streams(np.arange(1, 24), batch_size=3, steps=3, drop_last=True)
        self.assertEqual(len(streams), 2)
        (first, _), (second, targets) = streams[0], streams[1]
        np.testing.assert_array_equal(second[:, 0], first[:, -1] + 1)
        np.testing.assert_array_equal(targets, second + 1)

    def test_a_text_shorter_than_one_window_is_refused(self):
        with self.assertRaisesRegex(ValueError, "= 12 words. Received: 11"):
            datasets.Streams(np.arange(11), 3, 4, drop_last=True)
