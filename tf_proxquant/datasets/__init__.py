"""Data sets in memory, and batches of them."""

from tf_proxquant.datasets.batches import Batches, EpochCounter, channel_statistics
from tf_proxquant.datasets.images import Images, load
from tf_proxquant.datasets.streams import Streams
from tf_proxquant.datasets.text import Text, load_text

__all__ = [
    "Batches",
    "EpochCounter",
    "Images",
    "Streams",
    "Text",
    "channel_statistics",
    "load",
    "load_text",
]
