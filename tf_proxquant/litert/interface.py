"""What goes into a .tflite file and what comes out: tensors, and what the metadata say of them."""

import dataclasses

import numpy as np

from tf_proxquant.litert import metadata
from tf_proxquant.litert.read import flatbuffer

_SHOWN_LABELS = 8


@dataclasses.dataclass(frozen=True)
class Edge:
    """An input or output of a file.

    Attributes:
      name: that the signature gives it, or its number among the tensors.
      dtype: "float32", "uint8", ...
      shape: tuple of int, None where the size is open.
      scale: of integers that stand for reals, real = scale (code - zero_point); else None.
      zero_point: see `scale`.
      color: order of the channels of an image, "RGB" or "grey"; "" if the file does not say it.
      range: (lowest, highest) value of an image; None if the file does not say it.
      labels: tuple of str, the name of each value on the last axis.
      vocabulary: tuple of str, the word of each number.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    scale: float | None = None
    zero_point: int | None = None
    color: str = ""
    range: tuple[float, float] | None = None
    labels: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()

    def __str__(self):
        sizes = " x ".join("any" if size is None else str(size) for size in self.shape)
        said = [f"{self.name}: {self.dtype} {sizes}"]
        if self.color:
            said.append(f"(batch, height, width, channels) in {self.color}")
        if self.range:
            said.append("values {:g} to {:g}".format(*self.range))
        if self.scale:
            said.append(f"real = {self.scale:g} * (code - {self.zero_point})")
        for names, what in ((self.labels, "labels"), (self.vocabulary, "words")):
            if names:
                shown = ", ".join(names[:_SHOWN_LABELS])
                more = ", ..." if len(names) > _SHOWN_LABELS else ""
                said.append(f"{len(names):,} {what}: {shown}{more}")
        return ", ".join(said)


def describe(model, content):
    """Inputs and outputs of a file, each a tuple of `Edge`.

    Args:
      model: `flatbuffer.Model` of the file.
      content: its bytes.

    Returns: (inputs, outputs, notes): what could not be read of the metadata is a note.
    """
    notes = ()
    try:
        said = metadata.read(content)
    except ValueError as error:
        said, notes = {}, (str(error),)
    graph, sides = model.subgraphs[0], []
    given = zip((graph.inputs, graph.outputs), metadata.signature_names(model), strict=True)
    for side, (indices, names) in zip(("inputs", "outputs"), given, strict=True):
        entries = said.get(side, [])
        entries = entries if len(entries) == len(indices) else [{}] * len(indices)
        sides.append(
            tuple(
                _edge(graph.tensors[index], names.get(int(index)) or str(index), entry)
                for index, entry in zip(indices, entries, strict=True)
            )
        )
    return *sides, notes


def _edge(tensor, name, said):
    sizes = flatbuffer.tensor_shape(tensor)
    signature = sizes if tensor.shapeSignature is None else [int(n) for n in tensor.shapeSignature]
    scale, zero_point = _quantization(tensor.quantization)
    kind = flatbuffer.NUMPY_TYPES.get(tensor.type)
    return Edge(
        name=name,
        dtype=kind.name if kind else flatbuffer.TYPE_NAMES.get(tensor.type, "unknown").lower(),
        shape=tuple(None if size < 0 else size for size in signature),
        scale=scale,
        zero_point=zero_point,
        color=said.get("color", ""),
        range=said.get("range"),
        labels=tuple(said.get("labels", ())),
        vocabulary=tuple(said.get("vocabulary", ())),
    )


def _quantization(parameters):
    if parameters is None or parameters.scale is None or np.size(parameters.scale) != 1:
        return None, None
    zeros = [0] if parameters.zeroPoint is None else np.ravel(parameters.zeroPoint)
    return float(np.ravel(parameters.scale)[0]), int(zeros[0])
