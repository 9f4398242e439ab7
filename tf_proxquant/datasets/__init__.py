"""Data sets in memory, and batches of them."""

from tf_proxquant.datasets.batches import Batches, channel_statistics
from tf_proxquant.datasets.images import Images, load

__all__ = ["Batches", "Images", "channel_statistics", "load"]
