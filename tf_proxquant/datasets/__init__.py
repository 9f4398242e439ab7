"""Data sets, in memory or on the disk, and batches of them."""

from tf_proxquant.datasets.batches import Batches, EpochCounter, channel_statistics
from tf_proxquant.datasets.images import Images
from tf_proxquant.datasets.loading import load
from tf_proxquant.datasets.pictures import Pictures, read_picture
from tf_proxquant.datasets.streams import Streams
from tf_proxquant.datasets.text import Text, load_text

__all__ = [
    "Batches",
    "EpochCounter",
    "Images",
    "Pictures",
    "Streams",
    "Text",
    "channel_statistics",
    "load",
    "load_text",
    "read_picture",
]
