"""Pictures that are decoded when they are asked for: memory holds a batch, not the data set.

JPEG, PNG, BMP and the first picture of a GIF, of any colour mode, upright, in one size. All of it
is Pillow's, so that a script or an application can do the same.
"""

import concurrent.futures
import io
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import numpy as np

from tf_proxquant.typing import PathLike, Resize

FORMATS = ("JPEG", "PNG", "BMP", "GIF")
RESIZES = get_args(Resize)
_MODES = {1: "L", 3: "RGB"}
_CHUNK = 512
_TEST_SHARE = 0.2
# Of pictures that have no size in common, or a large one, where none is asked for.
_DEFAULT_SIZE, _LARGEST_OWN_SIDE = (128, 128), 256
_PROGRESS_SECONDS = 20


def read_picture(
    source: PathLike | bytes,
    size: tuple[int, int] | None = None,
    resize: Resize = "stretch",
    channels: int = 3,
) -> np.ndarray:
    """Decodes one picture.

    It is turned upright by its EXIF entry. Of 16 bits the higher 8 are kept, transparency is
    dropped, and all else is what `PIL.Image.convert("RGB")` makes of it. A picture that has the
    wanted size is not touched; another one is resized with `PIL.Image.Resampling.BILINEAR`, a
    triangle filter as wide as the pictures are reduced, that is, antialiased.

    Args:
      source: path of a file, or its bytes.
      size: (height, width) wanted; None keeps its own.
      resize: "stretch": `Image.resize`, the proportions change; "crop": `ImageOps.fit`, the middle
        is kept; "pad": `ImageOps.pad`, with black bars.
      channels: 3 for RGB, 1 for grey.

    Returns: uint8 array (height, width, channels).
    Raises: OSError, or another error of Pillow's: if it cannot be decoded.
    """
    from PIL import Image

    with Image.open(_opened(source), formats=FORMATS) as picture:
        picture.load()
        picture = _to_mode(_upright(picture), _MODES[channels])
    if size is not None:
        picture = _resized(picture, size, resize)
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def picture_size(source: PathLike | bytes) -> tuple[int, int]:
    """(height, width) of an upright picture; reads no more of the file than that takes.

    Raises: OSError, or another error of Pillow's: if it is no picture.
    """
    from PIL import ExifTags, Image

    with Image.open(_opened(source), formats=FORMATS) as picture:
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        width, height = picture.size
    return (width, height) if turned else (height, width)


class Pictures:
    """The pictures of many files, indexed like one array of shape (n, height, width, channels).

    Args:
      files: sequence of paths, or of the files' contents as bytes; an item is taken only when its
        picture is asked for.
      size: (height, width).
      resize: see `read_picture`.
      channels: 3 for RGB, 1 for grey.
      names: sequence of str, what the files are called; by default `files` themselves.
    """

    dtype = np.dtype("uint8")

    def __init__(
        self,
        files: Sequence,
        size: tuple[int, int],
        resize: Resize = "stretch",
        channels: int = 3,
        names: Sequence[str] | None = None,
    ):
        self.files, self.size, self.resize, self.channels = files, size, resize, channels
        self.names = files if names is None else names

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, height, width, channels)."""
        return len(self.files), *self.size, self.channels

    @property
    def ndim(self) -> int:
        """4."""
        return 4

    def __len__(self):
        return len(self.files)

    def __getitem__(self, chosen):
        """The pictures of a number, a slice or an array of numbers, uint8."""
        if np.ndim(chosen) == 0 and not isinstance(chosen, slice):
            return self._read(chosen)
        numbers = np.arange(len(self))[chosen]
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for place, picture in enumerate(in_threads(self._read, numbers)):
            found[place] = picture
        return found

    def _read(self, number):
        try:
            return read_picture(self.files[number], self.size, self.resize, self.channels)
        except Exception as error:
            raise ValueError(
                f"'{self.names[number]}' can no longer be read: {error}. Was it moved or changed?"
            ) from error


def common_size(sources: Sequence) -> tuple[int, int]:
    """The size of all pictures where it is one of at most 256 a side, else 128 x 128.

    Args:
      sources: sequence of paths or bytes; what is no picture is passed over.
    """

    def size(number):
        try:
            return picture_size(sources[number])
        except Exception:
            return None

    sizes = set(in_threads(size, range(len(sources)))) - {None}
    (found,) = sizes if len(sizes) == 1 else (_DEFAULT_SIZE,)
    return found if max(found) <= _LARGEST_OWN_SIDE else _DEFAULT_SIZE


def check(
    sources: Sequence,
    size: tuple[int, int],
    resize: str,
    channels: int = 3,
    progress: Callable | None = None,
) -> Iterator:
    """Decodes every picture once.

    Args:
      sources: sequence of paths or bytes.
      size: see `read_picture`, as `resize` and `channels`.
      progress: function (number checked, number of all), called now and then.

    Yields: for each of them the sums of each channel and of its squares, int64 (2, channels), or a
      str that says what is wrong with it.
    """
    shown = time.monotonic()

    def decode(number):
        return _sums(sources[number], size, resize, channels)

    for number, found in enumerate(in_threads(decode, range(len(sources))), 1):
        yield found
        if progress is not None and time.monotonic() - shown > _PROGRESS_SECONDS:
            progress(number, len(sources))
            shown = time.monotonic()


def statistics(sums: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, as of `channel_statistics`, from what `check` yields.

    Args:
      sums: int64 array (n, 2, channels), of pictures of one size.
      size: (height, width).
    """
    first, second = sums.sum(axis=0) / (len(sums) * math.prod(size))
    std = np.sqrt(np.maximum(second - first**2, 0))
    return first.astype("float32"), np.where(std > 0, std, 1.0).astype("float32")


def drawn(labels: np.ndarray) -> tuple[list[int], list[int]]:
    """Divides data that have no test part: a fifth of each class, the same in every run.

    Args:
      labels: int array (n,).

    Returns: (numbers for training, numbers for the test), sorted lists of int. A class of a single
      picture has none in the test.
    """
    test = []
    for label in np.unique(labels):
        (of_class,) = np.nonzero(labels == label)
        count = round(_TEST_SHARE * len(of_class)) or int(len(of_class) > 1)
        test += np.random.default_rng(0).permutation(of_class)[:count].tolist()
    return sorted(set(range(len(labels))) - set(test)), sorted(test)


def _sums(source, size, resize, channels):
    try:
        if not (len(source) if isinstance(source, bytes) else os.path.getsize(source)):
            return "empty"
        pixels = read_picture(source, size, resize, channels).reshape(-1, channels)
    except Exception as error:
        return _what_is_wrong(error)
    pixels = pixels.astype("int64")
    return np.stack([pixels.sum(axis=0), (pixels**2).sum(axis=0)])


def _what_is_wrong(error):
    """Says in few words why a picture could not be decoded."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    if isinstance(error, PermissionError):
        return "may not be read"
    return f"broken: {error}"


def in_threads(function: Callable, items: Any) -> Iterator:
    """Results of a function, in the order of `items`; decoding runs outside of Python's lock."""
    items = list(items)
    if len(items) < 4:
        yield from map(function, items)
        return
    for first in range(0, len(items), _CHUNK):
        yield from _threads().map(function, items[first : first + _CHUNK])


_POOLS = []


def _threads():
    if not _POOLS:
        count = min(16, os.cpu_count() or 1)
        _POOLS.append(concurrent.futures.ThreadPoolExecutor(count, "pictures"))
    return _POOLS[0]


def _opened(source):
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _upright(picture):
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        # Anyone writes EXIF; a picture whose entry cannot be read stands as it is.
        return picture


def _to_mode(picture, mode):
    from PIL import Image

    if picture.mode.startswith("I"):
        high = np.asarray(picture).astype("int32") >> 8
        picture = Image.fromarray(np.clip(high, 0, 255).astype("uint8"))
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")  # or Pillow warns of what is dropped here
    return picture.convert(mode)


def _resized(picture, size, resize):
    from PIL import Image, ImageOps

    height, width = size
    if picture.size == (width, height):
        return picture
    bilinear = Image.Resampling.BILINEAR
    if resize == "crop":
        return ImageOps.fit(picture, (width, height), bilinear)
    if resize == "pad":
        return ImageOps.pad(picture, (width, height), bilinear)
    return picture.resize((width, height), bilinear)
