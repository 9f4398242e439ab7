"""Text as word numbers: generated sentences, files, folders like Penn Treebank's, tfds."""

import collections
import pathlib
import re
from typing import NamedTuple

import numpy as np

from tf_proxquant.datasets import prepared
from tf_proxquant.datasets.grammar import sentences
from tf_proxquant.typing import PathLike

END, UNKNOWN = "<eos>", "<unk>"
_PARTS = ("train", "valid", "test")
_GRAMMAR_WORDS = 40_000
# Of the lines of a text without a split, in order: for training, validation and test.
_SHARES = (0.8, 0.1, 0.1)
_TFDS_PARTS = {"train": "train", "validation": "valid", "test": "test"}


class Text(NamedTuple):
    """Word numbers of one text, in three parts.

    Attributes:
      name: str.
      train: int32 array (words,), lines joined by the number of "<eos>".
      valid: as train; for the learning rate.
      test: as train; for the final perplexity only.
      vocabulary: tuple of str, the word of each number.
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: tuple

    @property
    def unknown_share(self) -> float:
        """Share of the test words that are not in the vocabulary."""
        if UNKNOWN not in self.vocabulary:
            return 0.0
        return float(np.mean(self.test == self.vocabulary.index(UNKNOWN)))


def load_text(
    name: str, data_dir: PathLike | None = None, download: bool = False, max_words: int = 10_000
) -> Text:
    """Loads a text into memory.

    The vocabulary is that of the training part: its `max_words` most frequent words, equal counts
    in alphabetical order; all others, and the words of the other parts that it lacks, are "<unk>".

    Args:
      name: "grammar" (generated, 40,000 words); the path of a folder with one file each named
        *.train.txt, *.valid.txt and *.test.txt, as Penn Treebank has them, words divided by
        blanks; the path of any other text file, whose lines are divided 80 : 10 : 10 in
        their order and into lower-case words and punctuation marks; or the name of a
        tensorflow-datasets set that has texts, such as "tiny_shakespeare".
      data_dir: folder of tensorflow-datasets. None = $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      download: True lets tensorflow-datasets download what it does not find.
      max_words: int >= 2, "<eos>" and "<unk>" included.

    Returns: `Text`.
    Raises: ValueError: for an unknown name, files that are not there or not UTF-8, and a text
      too short to be divided.

    Example:
      >>> text = load_text("grammar")
      >>> [text.vocabulary[number] for number in text.test[:6]]
      ['many', 'old', 'cats', 'wait', 'in', 'the']
    """
    source = pathlib.Path(name).expanduser()
    if name == "grammar":
        parts = _divide(sentences(_GRAMMAR_WORDS))
    elif source.is_dir():
        parts = _read_folder(source)
    elif source.is_file():
        parts = _divide([_words(line) for line in _read(source).splitlines()])
    else:
        parts = _read_tfds(name, data_dir, download)
    return number_words(source.stem if source.exists() else name, parts, max_words)


def number_words(name, parts, max_words):
    """Makes a `Text` of words.

    Args:
      name: of the text.
      parts: dict of three lists of lines, "train", "valid" and "test"; a line is a list of words.
      max_words: int >= 2.
    """
    streams = {part: [w for line in lines for w in (*line, END)] for part, lines in parts.items()}
    for part, words in streams.items():
        if len(words) < 2:
            raise ValueError(
                f"The text '{name}' is too short: its part '{part}' has {len(words)} words. Pass a "
                "text of at least 30 lines, or one that is divided in three."
            )
    counts = collections.Counter(streams["train"])
    counts.pop(UNKNOWN, None)
    counts.pop(END)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    vocabulary = (END, UNKNOWN, *ranked[: max_words - 2])
    numbers = {word: number for number, word in enumerate(vocabulary)}
    unknown = numbers[UNKNOWN]
    arrays = {
        part: np.array([numbers.get(word, unknown) for word in words], "int32")
        for part, words in streams.items()
    }
    return Text(name, **arrays, vocabulary=vocabulary)


def _divide(lines):
    first = round(_SHARES[0] * len(lines))
    second = round((_SHARES[0] + _SHARES[1]) * len(lines))
    return dict(zip(_PARTS, (lines[:first], lines[first:second], lines[second:]), strict=True))


def _words(line):
    return re.findall(r"\w+(?:['’]\w+)*|[^\w\s]", line.lower())


def _read_folder(folder):
    parts = {}
    for part in _PARTS:
        found = sorted(folder.glob(f"*.{part}.txt"))
        if len(found) != 1:
            raise ValueError(
                f"The folder '{folder}' must hold one file *.{part}.txt, such as "
                f"ptb.{part}.txt. Found: {[path.name for path in found]}."
            )
        parts[part] = [line.split() for line in _read(found[0]).splitlines()]
    return parts


def _read(path):
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is not a readable UTF-8 text: {error}") from error


def _read_tfds(name, data_dir, download):
    root = prepared.root_of(data_dir)
    versions = sorted((root / name).rglob("dataset_info.json"))
    if not versions and not download:
        raise ValueError(
            f"There is no text file or folder '{name}', nor a data set of that name in '{root}'. "
            "Pass the path of a text, 'grammar', or --download with the name of a text set of "
            "tensorflow-datasets."
        )
    tfds, builder = prepared.open_builder(name, root, versions, "the path of a text file")
    splits = [split for split in _TFDS_PARTS if split in builder.info.splits]
    if "text" not in builder.info.features or "train" not in splits:
        raise ValueError(
            f"The data set '{name}' must have a feature 'text' and a split 'train'. Received: "
            f"features {list(builder.info.features)}, splits {list(builder.info.splits)}."
        )
    found = {_TFDS_PARTS[split]: _tfds_lines(tfds, builder, split) for split in splits}
    return found if set(found) == set(_PARTS) else _divide(found["train"])


def _tfds_lines(tfds, builder, split):
    rows = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
    text = "\n".join(row["text"].decode("utf-8") for row in rows)
    return [_words(line) for line in text.splitlines()]
