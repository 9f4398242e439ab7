"""Image data sets as arrays: digits, .npz files, IDX folders."""

import gzip
import pathlib
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from tf_proxquant.datasets.pictures import Pictures

# Names of the classes of data sets that come without them.
_CLASS_NAMES = {
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    ),
}  # fmt: skip
_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


class Images(NamedTuple):
    """Training and test images of one data set.

    Attributes:
      name: str.
      x_train: uint8 or float32 array (n, height, width, channels), or `Pictures`.
      y_train: int32 array (n,), class labels from 0 to num_classes - 1.
      x_test: as x_train.
      y_test: as y_train.
      num_classes: int >= 2.
      class_names: tuple of str, by label; by default the labels themselves.
      value_range: (lowest, highest) that a pixel can have.
      validation: (images, labels) to watch the training with; None: those of the test.
      statistics: (mean, std) of the channels of x_train, where they are known; or None.
      left_out: of a folder, pairs (name of a file that is no readable picture, what is wrong).
    """

    name: str
    x_train: "np.ndarray | Pictures"
    y_train: np.ndarray
    x_test: "np.ndarray | Pictures"
    y_test: np.ndarray
    num_classes: int
    class_names: tuple = ()
    value_range: tuple = (0, 255)
    validation: tuple | None = None
    statistics: tuple | None = None
    left_out: tuple = ()


def digits():
    """The 1,797 handwritten digits of scikit-learn: 8 x 8, values 0 to 16, ten classes.

    Split 80 : 20 by a fixed permutation: 1,437 for training, 360 for the test.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
      Learning Repository, 1998 (CC BY 4.0), the test part, as scikit-learn ships it.
    """
    with np.load(pathlib.Path(__file__).with_name("digits.npz")) as data:
        images, labels = data["images"][..., np.newaxis], data["labels"]
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    return checked("digits", images[train], labels[train], images[test], labels[test])


def from_npz(path, name=None):
    """Loads a .npz file with the arrays x_train, y_train, x_test and y_test.

    It may also have an array `class_names` of strings.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'. Pass the path of a .npz file.")
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {key: data[key] for key in (*_IDX_FILES, "class_names") if key in data}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"'{path}' is not a readable .npz file: {error}") from error
    missing = sorted(set(_IDX_FILES) - set(arrays))
    if missing:
        raise ValueError(f"'{path}' lacks the arrays {missing}. Expected {sorted(_IDX_FILES)}.")
    class_names = arrays.get("class_names")
    parts = {key: arrays[key] for key in _IDX_FILES}
    return checked(name or path.stem, **parts, class_names=class_names)


def from_idx(folder, name=None):
    """Loads a folder of the four IDX files of MNIST's layout, plain or .gz."""
    folder = pathlib.Path(folder)
    arrays = {}
    for key, filename in _IDX_FILES.items():
        path = _idx_path(folder, filename)
        if path is None:
            raise ValueError(f"The folder '{folder}' lacks '{filename}', plain or .gz.")
        arrays[key] = _read_idx(path)
    return checked(name or folder.name, *(arrays[key] for key in _IDX_FILES))


def is_idx(folder):
    """Whether a folder holds IDX files."""
    return _idx_path(folder, _IDX_FILES["x_train"]) is not None


def _idx_path(folder, filename):
    for candidate in (folder / filename, folder / f"{filename}.gz"):
        if candidate.is_file():
            return candidate
    return None


def _read_idx(path):
    """Reads one IDX file of unsigned bytes, of any number of dimensions."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            values = np.frombuffer(file.read(), np.uint8)
    except (OSError, EOFError, struct.error) as error:
        raise ValueError(f"'{path}' is not a readable IDX file: {error}") from error
    if zeros != 0 or kind != 8 or values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(
            f"'{path}' is not an IDX file of unsigned bytes. Received: type {kind}, shape "
            f"{shape}, {values.size} values."
        )
    return values.reshape(shape)


def checked(name, x_train, y_train, x_test, y_test, class_names=None):
    """Brings the arrays to the form of `Images`, or says what is wrong with them."""
    parts = {}
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        x, y = np.asarray(x), np.asarray(y)
        x = x[..., np.newaxis] if x.ndim == 3 else x
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or not len(x):
            raise ValueError(
                f"Data set '{name}': x_{part} must be (n, height, width[, channels]) and "
                f"y_{part} (n,), n >= 1. Received: shapes {x.shape} and {y.shape}."
            )
        if x.dtype != np.uint8 and x.dtype.kind != "f":
            raise ValueError(
                f"Data set '{name}': x_{part} must be uint8 or float. Received: {x.dtype}."
            )
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ValueError(f"Data set '{name}': x_{part} holds NaN or inf.")
        if y.dtype.kind not in "iu" or y.min() < 0:
            smallest = f", smallest {y.min()}" if y.dtype.kind in "iuf" else f", such as {y[0]!r}"
            raise ValueError(
                f"Data set '{name}': y_{part} must hold integer labels of at least 0. Received: "
                f"{y.dtype}{smallest}."
            )
        parts[part] = (x if x.dtype == np.uint8 else x.astype("float32"), y.astype("int32"))
    (x_train, y_train), (x_test, y_test) = parts["train"], parts["test"]
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"Data set '{name}': training and test images must have one shape. Received: "
            f"{x_train.shape[1:]} and {x_test.shape[1:]}."
        )
    num_classes = int(y_train.max()) + 1
    if num_classes < 2 or y_test.max() >= num_classes:
        raise ValueError(
            f"Data set '{name}': the training labels must cover at least 2 classes and all of the "
            f"test's. Received: labels up to {y_train.max()} and {y_test.max()}."
        )
    names = names_of_classes(name, class_names, num_classes)
    return Images(
        name, x_train, y_train, x_test, y_test, len(names), class_names=names,
        value_range=_value_range(x_train, x_test),
    )  # fmt: skip


def names_of_classes(name, given, num_classes):
    """The names given, or known, or the labels; as a tuple of str."""
    if given is None:
        known = _CLASS_NAMES.get(name, ())
        return tuple(known if len(known) == num_classes else map(str, range(num_classes)))
    names = tuple(str(each) for each in np.asarray(given).ravel())
    if len(names) < num_classes or any(len(each.splitlines()) != 1 for each in names):
        raise ValueError(
            f"Data set '{name}': `class_names` must name each of the {num_classes} classes in one "
            f"line. Received: {names}."
        )
    return names


def _value_range(*images):
    """(lowest, highest) pixel: 0 and 255 of bytes that use their range, else those that occur."""
    lowest, highest = (pick([pick(x) for x in images]) for pick in (np.min, np.max))
    if images[0].dtype == np.uint8:
        return 0, 255 if highest > 127 else int(highest)
    return float(lowest), float(highest)
