"""The records of tensorflow-datasets one by one, by number, without reading the others."""

import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

# A TFRecord: 8 bytes length, 4 checksum, the bytes, 4 checksum.
_HEAD, _TAIL = 12, 4


class Records:
    """The serialized examples of one split.

    Args:
      builder: of tensorflow-datasets, prepared.
      split: name of the split.

    Raises: ValueError: for a format other than TFRecord and ArrayRecord.
    """

    def __init__(self, builder: Any, split: str):
        paths = [os.fspath(path) for path in builder.info.splits[split].filepaths]
        kind = getattr(builder.info.file_format, "value", builder.info.file_format)
        if kind == "tfrecord":
            self._source = _TfRecords(paths)
        elif kind == "array_record":
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            self._source = ArrayRecordDataSource(paths)
        else:
            raise ValueError(
                f"'{builder.info.name}' is stored as {kind}; read are tfrecord and array_record. "
                "Prepare it anew with tensorflow-datasets' file_format."
            )

    def __len__(self):
        return len(self._source)

    def __getitem__(self, number):
        return bytes(self._source[int(number)])


class _TfRecords:
    """The records of TFRecord files; only their places are kept, 12 bytes for each."""

    def __init__(self, paths):
        self._paths = paths
        found = [_places(path) for path in paths]
        self._starts = np.concatenate([places for places in found])
        self._files = np.repeat(np.arange(len(paths), dtype="int32"), [len(p) for p in found])

    def __len__(self):
        return len(self._starts)

    def __getitem__(self, number):
        with open(self._paths[self._files[number]], "rb") as file:
            file.seek(int(self._starts[number]))
            (length,) = struct.unpack("<Q", file.read(8))
            file.seek(_HEAD - 8, os.SEEK_CUR)
            return file.read(length)


def _places(path):
    """Where each record of a file begins."""
    places, at, end = [], 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while at < end:
            file.seek(at)
            head = file.read(8)
            if len(head) < 8:
                raise ValueError(f"'{path}' is damaged: it ends within a record.")
            places.append(at)
            at += _HEAD + struct.unpack("<Q", head)[0] + _TAIL
    if at != end:
        raise ValueError(f"'{path}' is damaged: it ends within a record.")
    return np.array(places, "int64")


def feature(record: bytes, name: str) -> Any:
    """The first value of a feature of a serialized `tf.train.Example`: bytes or a number."""
    import tensorflow as tf

    values = tf.train.Example.FromString(record).features.feature[name]
    kind = values.WhichOneof("kind")
    return getattr(values, kind).value[0] if kind else None


class EncodedImages(Sequence):
    """The encoded pictures of some records, by number.

    Args:
      records: sequence of serialized examples.
      chosen: numbers of the records, int array.
    """

    def __init__(self, records: Sequence, chosen: np.ndarray):
        self.records, self.chosen = records, chosen

    def __len__(self):
        return len(self.chosen)

    def __getitem__(self, number):
        return feature(self.records[int(self.chosen[number])], "image")
