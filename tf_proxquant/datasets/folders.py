"""A folder of pictures, one folder a class, as a data set."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tf_proxquant.datasets import pictures
from tf_proxquant.datasets.images import Images
from tf_proxquant.typing import PathLike, Resize

# Names of parts, in small letters.
_PARTS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
# What systems leave in folders, besides files whose names begin with a dot.
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


class File(NamedTuple):
    """One file that a class folder holds: its path from the data set's folder, class and part.

    The part is "train", "validation" or "test"; "" if the folder is not divided.
    """

    name: str
    class_name: str
    part: str


def from_folder(
    folder: PathLike,
    image_size: tuple[int, int] | None = None,
    resize: Resize = "stretch",
    skip_broken: bool = False,
    progress: Callable | None = None,
) -> Images:
    """Loads a folder of pictures: their names; they are decoded when they are asked for.

    Every file is decoded once here, so that what is broken is known before any training.

    Args:
      folder: path of a folder with one folder for each class, or with folders train, validation and
        test that hold those (also training, valid, val, dev and testing, in letters of any size).
        Without a test part the validation part serves for both; without
        either, a fifth of each class is drawn for the test, the same in every run. What begins with
        a dot is passed over; links are followed.
      image_size: (height, width) that all pictures are brought to. None: their own size where all
        have one of at most 256 a side, else 128 x 128.
      resize: "stretch", "crop" or "pad", see `read_picture`.
      skip_broken: True leaves out files that are no readable picture; False names them all in one
        error.
      progress: function (number of files checked, number of all), called now and then.

    Returns: `Images` whose pictures are `Pictures`; the classes are in the order of their names.
    Raises: ValueError: if the folder holds no such folders, fewer than two classes, a class without
      pictures, or files that are no readable picture.
    """
    folder = pathlib.Path(folder)
    files, class_names, problems = find(folder)
    sources = _Paths(folder, [file.name for file in files])
    size = image_size or pictures.common_size(sources)
    kept, sums = [], np.zeros((len(files), 2, 3), "int64")
    checked = pictures.check(sources, size, resize, progress=progress)
    for file, found in zip(files, checked, strict=True):
        if isinstance(found, str):
            problems.append((file.name, found))
        else:
            sums[len(kept)] = found
            kept.append(file)
    if problems and not skip_broken:
        raise ValueError(_all_named(folder, problems))
    _check_classes(folder, kept, class_names)
    parts = _divided(kept, class_names)
    made = {
        part: _part(folder, [kept[i] for i in chosen], class_names, size, resize)
        for part, chosen in parts.items()
    }
    statistics = pictures.statistics(sums[parts["train"]], size)
    return Images(
        folder.resolve().name, *made["train"], *made["test"], len(class_names), class_names,
        validation=made.get("validation"), statistics=statistics, left_out=tuple(problems),
    )  # fmt: skip


def find(folder: pathlib.Path) -> tuple[list[File], tuple[str, ...], list[tuple[str, str]]]:
    """Lists the files of all class folders.

    Returns: (files in the order of their names, names of the classes, list of (name, what is wrong
      with it) of what cannot be a picture).
    Raises: ValueError: if there are no class folders.
    """
    problems = []
    folders, outside = _list(folder, "", problems)
    levels = {"": folders}
    if _is_divided(folder, folders):
        levels = {}
        for part in folders:
            levels[part], beside = _list(folder, part, problems)
            outside += beside
    files = [
        File(name, class_folder.rsplit("/", 1)[-1], _part_of(part))
        for part, class_folders in levels.items()
        for class_folder in class_folders
        for name in _below(folder, class_folder, problems)
    ]
    stray = [name for name in outside if name.lower().endswith(_SUFFIXES)]
    problems += [(name, "lies in no class folder") for name in stray]
    learned = [name for part in levels for name in levels[part] if _part_of(part) in ("", "train")]
    if not learned:
        raise ValueError(
            f"The folder '{folder}' holds no class folders. Expected one folder for each class, "
            "named after it, with its pictures; or such folders inside of train, validation and "
            "test."
        )
    class_names = dict.fromkeys(name.rsplit("/", 1)[-1] for name in learned)
    return sorted(files), tuple(class_names), problems


def _part_of(name):
    """The part that a folder of this name holds; "" for none."""
    return _PARTS.get(name.lower(), "")


def _is_divided(folder, folders):
    """Whether folders are parts of a data set, and not classes.

    Raises: ValueError: if one is a part, with folders of classes, and others are not.
    """
    training = [name for name in folders if _part_of(name) == "train"]
    others = [name for name in folders if not _part_of(name)]
    if not training or (others and not any(_list(folder, name, [])[0] for name in training)):
        return False
    if others:
        raise ValueError(
            f"The folder '{folder}' is divided into parts, for '{training[0]}' holds folders of "
            f"classes, but not all its folders are parts. Received: {', '.join(others)}. Expected: "
            "train, validation and test. Rename or move these, or the folders of classes."
        )
    return True


def _list(folder, inside, problems):
    """(folders, files) in a folder, as sorted paths from the data set's; links are followed."""
    folders, files = [], []
    try:
        entries = sorted(os.scandir(folder / inside), key=lambda entry: entry.name)
    except OSError as error:
        problems.append((inside or ".", f"cannot be opened: {error.strerror}"))
        entries = []
    for entry in entries:
        name = f"{inside}/{entry.name}" if inside else entry.name
        if entry.name.startswith(".") or entry.name.lower() in _LEFT_BY_SYSTEMS:
            continue
        if entry.is_dir():
            folders.append(name)
        elif entry.is_file():
            files.append(name)
        else:
            what = "a link that leads nowhere" if entry.is_symlink() else "neither file nor folder"
            problems.append((name, what))
    return folders, files


def _below(folder, class_folder, problems):
    """The files of a class folder at any depth; a link back to a folder above ends there."""
    found, waiting, seen = [], [class_folder], set()
    while waiting:
        current = waiting.pop()
        place = os.path.realpath(folder / current)
        if place not in seen:
            seen.add(place)
            deeper, files = _list(folder, current, problems)
            waiting += deeper
            found += files
    return found


def _check_classes(folder, files, class_names):
    """Raises ValueError for fewer than two classes, one without pictures, an unusable name."""
    for name in class_names:
        # What is no UTF-8 on the disk has surrogates in Python.
        is_text = name.encode("utf-8", "ignore").decode() == name
        if not is_text or not name.strip() or len(name.splitlines()) != 1:
            raise ValueError(
                "The name of a class must be one line of UTF-8, for labels.txt. Received: "
                f"{name!r}. Rename this folder in '{folder}'."
            )
    if len(class_names) < 2:
        raise ValueError(
            f"A classifier needs at least two classes, one folder each. '{folder}' has "
            f"{len(class_names)}: {', '.join(class_names)}."
        )
    learned = {file.class_name for file in files if file.part in ("", "train")}
    empty = [name for name in class_names if name not in learned]
    if empty:
        raise ValueError(
            f"Each class needs pictures to learn from. Without any in '{folder}': "
            f"{', '.join(empty)}. Remove these folders, or fill them."
        )
    unknown = sorted({file.class_name for file in files} - set(class_names))
    if unknown:
        raise ValueError(
            f"Each class of the test needs pictures to learn from. Not among the classes of "
            f"'{folder}/train': {', '.join(unknown)}."
        )


def _divided(files, class_names):
    """Numbers of the files of each part that there is, lists by "train", "test", "validation"."""
    parts = {"train": [], "validation": [], "test": []}
    for number, file in enumerate(files):
        parts[file.part or "train"].append(number)
    if not parts["validation"] and not parts["test"]:
        classes = np.array([class_names.index(files[i].class_name) for i in parts["train"]])
        parts["train"], parts["test"] = pictures.drawn(classes)
    parts["test"] = parts["test"] or parts.pop("validation")
    if not parts["test"]:
        raise ValueError(
            "A fifth of each class is put apart for the test, which takes two pictures of some "
            f"class at least. Received: {len(parts['train'])} pictures of {len(class_names)} "
            "classes."
        )
    return {part: chosen for part, chosen in parts.items() if chosen}


def _part(folder, files, class_names, size, resize):
    """(pictures, labels) of some files."""
    numbers = {name: number for number, name in enumerate(class_names)}
    names = [file.name for file in files]
    labels = np.array([numbers[file.class_name] for file in files], "int32")
    return pictures.Pictures(_Paths(folder, names), size, resize, names=names), labels


class _Paths(Sequence):
    """The paths of files by number, joined when they are asked for."""

    def __init__(self, folder, names):
        self.folder, self.names = os.fspath(folder), names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, number):
        return os.path.join(self.folder, self.names[number])


def _all_named(folder, problems):
    lines = "".join(f"\n  {name}: {what}" for name, what in sorted(problems))
    return (
        f"{len(problems)} of the files in '{folder}' cannot be read as pictures (JPEG, PNG, BMP, "
        f"GIF). Remove them, or pass --skip_broken to leave them out:{lines}"
    )
