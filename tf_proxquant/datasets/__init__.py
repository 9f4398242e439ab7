"""Data sets in memory, and batches of them."""

from tf_proxquant.datasets.batches import Batches, EpochCounter, channel_statistics
from tf_proxquant.datasets.images import Images, load

__all__ = ["Batches", "EpochCounter", "Images", "channel_statistics", "load"]
