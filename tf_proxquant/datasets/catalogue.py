"""Image sets of tensorflow-datasets: small ones as arrays, others picture by picture."""

import math
import pathlib
from collections.abc import Sequence

import numpy as np

from tf_proxquant.datasets import pictures, prepared, records
from tf_proxquant.datasets.images import Images, checked, names_of_classes

_PARTS = ("train", "validation", "test")
# Of a set that is read into memory at once.
_MAX_BYTES = 2**30


def load_prepared(name, data_dir=None, download=False, *, image_size=None, resize, progress=None):
    """Loads a data set prepared by tensorflow-datasets; prepares it only with `download`.

    Without `download` only the folder is looked at, so that its absence is known at once.

    Args: as of `load`.
    Returns: `Images`; of arrays where all of them fit in 1 GiB and have one size, and no other is
      asked for, else of `Pictures`.
    Raises: ValueError: for a set that is not there or has no images with labels.
    """
    root = prepared.root_of(data_dir)
    versions = sorted((root / name).rglob("dataset_info.json"))
    if not versions and not download:
        what = "There is no file or folder of that name"
        if pathlib.Path(name).is_file():
            what = "This file is none of images"
        raise ValueError(
            f"Unknown data set. Received: dataset={name!r}, data_dir={data_dir!r}. {what}, and in "
            f"'{root}' tensorflow-datasets has prepared none of that name. "
            "Pass 'digits'; the path of a folder of pictures, a .npz file or a folder of IDX "
            "files; or --download to fetch the set with tensorflow-datasets."
        )
    tfds, builder = prepared.open_builder(name, root, versions, "--data_dir with a .npz file")
    features, splits = builder.info.features, builder.info.splits
    if not {"image", "label"} <= set(features) or "train" not in splits:
        raise ValueError(
            f"The data set '{name}' must have features 'image' and 'label' and a split 'train'. "
            f"Received: features {sorted(features)}, splits {sorted(splits)}."
        )
    shape, class_names = features["image"].shape, getattr(features["label"], "names", None)
    count = sum(splits[part].num_examples for part in _PARTS if part in splits)
    is_small = None not in shape and count * math.prod(shape) <= _MAX_BYTES
    if is_small and image_size in (None, shape[:2]) and "test" in splits:
        batches = builder.as_dataset(batch_size=-1, shuffle_files=False)
        train, test = (tfds.as_numpy(batches[part]) for part in ("train", "test"))
        arrays = train["image"], train["label"], test["image"], test["label"]
        return checked(name, *arrays, class_names)
    channels = shape[-1] if shape[-1] in (1, 3) else 3
    return _streamed(name, builder, class_names, (image_size, resize, channels), progress)


def _streamed(name, builder, class_names, form, progress):
    """`Images` of `Pictures` of a prepared set; `form` is (size or None, resize, channels)."""
    parts = [part for part in _PARTS if part in builder.info.splits]
    sequences = [records.Records(builder, part) for part in parts]
    ends = np.cumsum([len(sequence) for sequence in sequences])
    numbers = dict(zip(parts, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
    joined = _Joined(sequences)
    encoded = records.EncodedImages(joined, np.arange(ends[-1]))
    form = form[0] or pictures.common_size(encoded), *form[1:]
    sums = _check(name, encoded, form, progress)
    labels = np.array([records.feature(joined[i], "label") for i in range(ends[-1])], "int32")
    if parts == ["train"]:
        numbers["train"], numbers["test"] = map(np.array, pictures.drawn(labels))
    if "test" not in numbers:
        numbers["test"] = numbers.pop("validation")
    made = {}
    for part, chosen in numbers.items():
        images = records.EncodedImages(joined, chosen)
        made[part] = pictures.Pictures(images, *form, names=_Names(name, chosen)), labels[chosen]
    class_names = names_of_classes(name, class_names, int(labels.max()) + 1)
    return Images(
        name, *made["train"], *made["test"], len(class_names), class_names,
        validation=made.get("validation"),
        statistics=pictures.statistics(sums[numbers["train"]], form[0]),
    )  # fmt: skip


def _check(name, encoded, form, progress):
    """What `pictures.check` finds of all pictures, an array.

    Raises: ValueError: naming those that cannot be decoded.
    """
    sums, problems = np.zeros((len(encoded), 2, form[-1]), "int64"), []
    for number, found in enumerate(pictures.check(encoded, *form, progress)):
        if isinstance(found, str):
            problems.append(f"\n  example {number}: {found}")
        else:
            sums[number] = found
    if problems:
        raise ValueError(
            f"{len(problems)} examples of '{name}' cannot be read as pictures. Prepare the data "
            f"set anew:{''.join(problems)}"
        )
    return sums


class _Names(Sequence):
    """What the pictures are called in messages."""

    def __init__(self, name, chosen):
        self.name, self.chosen = name, chosen

    def __len__(self):
        return len(self.chosen)

    def __getitem__(self, number):
        return f"{self.name}, example {self.chosen[number]}"


class _Joined(Sequence):
    """Several sequences as one."""

    def __init__(self, sequences):
        self.sequences = sequences
        self.ends = np.cumsum([len(sequence) for sequence in sequences])

    def __len__(self):
        return int(self.ends[-1])

    def __getitem__(self, number):
        which = int(np.searchsorted(self.ends, number, side="right"))
        return self.sequences[which][number - (self.ends[which - 1] if which else 0)]
