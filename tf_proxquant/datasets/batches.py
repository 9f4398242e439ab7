"""Batches of augmented images, deterministic by seed and epoch."""

import keras
import numpy as np

from tf_proxquant.typing import TensorLike


class Batches(keras.utils.PyDataset):
    """Feeds `fit` and `evaluate` with batches of images, on any backend.

    What batch i of epoch e holds depends on (seed, e, i) only, so a run that resumes at
    epoch e sees what the uninterrupted one saw, if `fit` is called with `shuffle=False`
    (otherwise Keras reads the batches in an order of its own) and with the callback
    `EpochCounter`. All work is vectorised NumPy.

    Args:
      images: array (n, height, width, channels), uint8 or float.
      labels: int array (n,).
      batch_size: int >= 1; the last batch of an epoch may be smaller.
      mean: array (channels,) or number subtracted from the images, in their unit. By default
        the model gets pixels as the data have them, and normalizes them itself.
      std: array (channels,) or number > 0, divides them after that.
      pad: pixels >= 0 of `fill` around the image, of which a random crop of the original size
        is taken; 0 crops nothing. The paper: 4.
      fill: array (channels,) or number, in the unit of what the model gets. The paper: the mean
        of the channel, or 0 where the images are normalized here.
      flip: True flips each image left-right with probability 1/2.
      shuffle: True draws a new order each epoch.
      seed: int >= 0.
      epoch: int >= 0, the first epoch that will be read.
      shard: (index, count): of each batch only part `index` of `count` equal parts is given, in
        the same augmentation. `count` divides `multiple_of`.
      multiple_of: int >= 1, divides `batch_size`; the last batch of an epoch is cut to a multiple,
        so that it can be shared out evenly. Of a shuffled epoch these are other images each time.

    Reference: the augmentation of He et al., CVPR 2016, section 4.2.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        mean: TensorLike = 0.0,
        std: TensorLike = 1.0,
        pad: int = 0,
        fill: TensorLike = 0.0,
        flip: bool = False,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        shard: tuple[int, int] = (0, 1),
        multiple_of: int = 1,
    ):
        super().__init__()
        if len(images) != len(labels) or not len(images):
            raise ValueError(
                "`images` and `labels` must have one length of at least 1. "
                f"Received: {len(images)} and {len(labels)}."
            )
        checked = (("batch_size", batch_size, 1), ("pad", pad, 0), ("multiple_of", multiple_of, 1))
        for name, value, least in checked:
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(
                    f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}."
                )
        if not np.all(np.asarray(std) > 0):
            raise ValueError(
                f"`std` must be greater than 0 for each channel. Received: std={std!r}. "
                "`channel_statistics` gives 1 for a constant channel."
            )
        if batch_size % multiple_of or multiple_of % shard[1] or len(images) < multiple_of:
            raise ValueError(
                f"Batches of {shard[1]} processes must have a multiple of {multiple_of} images. "
                f"Received: batch_size={batch_size}, {len(images)} images."
            )
        self.images, self.labels = images, labels
        self.batch_size = batch_size
        self.shard = shard
        self.num_used = len(images) - len(images) % multiple_of
        self.mean = np.asarray(mean, "float32")
        self.std = np.asarray(std, "float32")
        self.fill = np.asarray(fill, "float32")
        self.pad, self.flip, self.shuffle = pad, flip, shuffle
        self.seed = seed
        self.start_at(epoch)
        self._order: tuple[int | None, np.ndarray | None] = (None, None)

    def start_at(self, epoch: int) -> None:
        """Makes `epoch` the one that is read next."""
        self.epoch = self._next_epoch = epoch

    def __len__(self):
        return -(-self.num_used // self.batch_size)

    def __getitem__(self, index):
        """Returns batch `index`: float32 images and int32 labels."""
        end = min((index + 1) * self.batch_size, self.num_used)
        chosen = self._permutation()[index * self.batch_size : end]
        images = self.normalize(self.images[chosen])
        random = np.random.default_rng((self.seed, self.epoch, index))
        if self.pad:
            images = random_crop(images, self.pad, random, self.fill)
        if self.flip:
            images = random_flip(images, random)
        part, count = self.shard
        size = len(chosen) // count
        own = slice(part * size, (part + 1) * size)
        return images[own], self.labels[chosen[own]]

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """Returns images as the model gets them without augmentation, float32."""
        return (np.asarray(images, "float32") - self.mean) / self.std

    def on_epoch_begin(self):
        # Not counted by `on_epoch_end`: Keras calls that once before the first epoch.
        self.epoch = self._next_epoch
        self._next_epoch += 1

    def _permutation(self):
        epoch, order = self._order
        if epoch != self.epoch:
            order = np.arange(len(self.images))
            if self.shuffle:
                np.random.default_rng((self.seed, self.epoch)).shuffle(order)
            self._order = (self.epoch, order)
        return order


class EpochCounter(keras.callbacks.Callback):
    """Tells `Batches` the epoch that `fit` is at.

    Without it they count by themselves, but some backends begin an epoch for nothing.

    Args:
      batches: the training `Batches`.
    """

    def __init__(self, batches: Batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.start_at(epoch)


def random_crop(images, pad, random, fill=0.0):
    """Pads with `fill` and crops each image back to its size at a random offset.

    Args:
      images: array (n, height, width, channels).
      pad: int >= 1, pixels on each side; offsets are uniform on 0 to 2 pad.
      random: `np.random.Generator`.
      fill: number, or array (channels,).

    Returns: array of the shape and dtype of `images`.
    """
    count, height, width, channels = images.shape
    padded = np.empty((count, height + 2 * pad, width + 2 * pad, channels), images.dtype)
    padded[...] = fill
    padded[:, pad:-pad, pad:-pad] = images
    top, left = random.integers(0, 2 * pad + 1, (2, count))
    rows = top[:, np.newaxis] + np.arange(height)
    columns = left[:, np.newaxis] + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_flip(images, random):
    """Flips each image left-right with probability 1/2.

    Args:
      images: array (n, height, width, channels).
      random: `np.random.Generator`.

    Returns: array of the shape and dtype of `images`.
    """
    flipped = random.random(len(images)) < 0.5
    return np.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, float32 arrays (channels,).

    A constant channel has 1 for its deviation, so that it normalizes to 0.
    """
    mean = images.mean(axis=(0, 1, 2), dtype="float64")
    std = images.std(axis=(0, 1, 2), dtype="float64")
    return mean.astype("float32"), np.where(std > 0, std, 1.0).astype("float32")
