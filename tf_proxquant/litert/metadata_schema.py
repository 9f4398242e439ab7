"""The flatbuffer of TensorFlow Lite metadata: dicts in, bytes out, and back.

Reference: metadata_schema.fbs of tflite-support, and of MediaPipe.
"""

import flatbuffers
import numpy as np
from flatbuffers import encode as packing
from flatbuffers import number_types

IDENTIFIER = b"M001"

# Of each table the fields that are used: (slot, kind). A kind is "string", "byte", "floats", a
# table, a list of one table for a vector, or (code, table) for a member of a union, its code in
# the slot.
SCHEMA: dict[str, dict] = {
    "ModelMetadata": {
        "name": (0, "string"), "description": (1, "string"), "graphs": (3, ["SubGraphMetadata"]),
        "min_parser_version": (7, "string"),
    },
    "SubGraphMetadata": {"inputs": (2, ["TensorMetadata"]), "outputs": (3, ["TensorMetadata"])},
    "TensorMetadata": {
        "name": (0, "string"), "description": (1, "string"), "content": (3, "Content"),
        "process_units": (4, ["ProcessUnit"]), "stats": (5, "Stats"),
        "files": (6, ["AssociatedFile"]),
    },
    "Content": {"image": (0, (2, "ImageProperties"))},
    "ImageProperties": {"color": (0, "byte")},
    "ProcessUnit": {"normalization": (0, (1, "NormalizationOptions"))},
    "NormalizationOptions": {"mean": (0, "floats"), "std": (1, "floats")},
    "Stats": {"max": (0, "floats"), "min": (1, "floats")},
    "AssociatedFile": {"name": (0, "string"), "type": (2, "byte")},
}  # fmt: skip


def encode(root):
    """Bytes of a ModelMetadata; `root` is a dict by the names of `SCHEMA`."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, "ModelMetadata", root), IDENTIFIER)
    return bytes(builder.Output())


def decode(content):
    """A dict by the names of `SCHEMA`, of bytes that nobody has checked.

    Raises: ValueError: if they are no ModelMetadata; struct.error, IndexError or TypeError where
      offsets lead out of them.
    """
    if content[4:8] != IDENTIFIER:
        raise ValueError(f"they must begin with {IDENTIFIER!r}. Received: {content[4:8]!r}")
    start = packing.Get(number_types.UOffsetTFlags.packer_type, content, 0)
    return _Reader(content).read(start, "ModelMetadata")


def _write(builder, table, values):
    """Writes a table behind all that it refers to; returns its offset."""
    slots = []
    for field, (slot, kind) in SCHEMA[table].items():
        value = values.get(field)
        if value is None:
            continue
        if isinstance(kind, tuple):
            slots.append((slot, "byte", kind[0]))
            slot, kind = slot + 1, kind[1]
        slots.append((slot, kind, value if kind == "byte" else _reference(builder, kind, value)))
    builder.StartObject(1 + max((slot for slot, _, _ in slots), default=0))
    for slot, kind, value in slots:
        if kind == "byte":
            builder.PrependInt8Slot(slot, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return builder.EndObject()


def _reference(builder, kind, value):
    if kind == "string":
        return builder.CreateString(value)
    if kind == "floats":
        return builder.CreateNumpyVector(np.asarray(value, "<f4"))
    if not isinstance(kind, list):
        return _write(builder, kind, value)
    offsets = [_write(builder, kind[0], entry) for entry in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


class _Reader:
    """Reads tables of bytes that nobody has checked, no more of them than there is room for."""

    def __init__(self, content):
        self.content = content
        self.left = len(content) // 4

    def read(self, position, name):
        """The table at a position as a dict."""
        self.left -= 1
        if self.left < 0:
            raise ValueError("they claim more tables than they have room for")
        table, values = flatbuffers.table.Table(self.content, position), {}
        for field, (slot, kind) in SCHEMA[name].items():
            if isinstance(kind, tuple):
                if _byte(table, slot) != kind[0]:
                    continue
                slot, kind = slot + 1, kind[1]
            place = table.Offset(4 + 2 * slot)
            if kind == "byte":
                values[field] = _byte(table, slot)
            elif place:
                values[field] = self._value(table, place, kind)
        return values

    def _value(self, table, place, kind):
        if kind == "string":
            return table.String(table.Pos + place).decode("utf-8")
        if kind == "floats":
            return table.GetVectorAsNumpy(number_types.Float32Flags, place).tolist()
        if not isinstance(kind, list):
            return self.read(table.Indirect(table.Pos + place), kind)
        first = table.Vector(place)
        places = (table.Indirect(first + 4 * i) for i in range(table.VectorLen(place)))
        return [self.read(each, kind[0]) for each in places]


def _byte(table, slot):
    place = table.Offset(4 + 2 * slot)
    return int(table.Get(number_types.Int8Flags, table.Pos + place)) if place else 0
