"""Puts the forms of a plan into a model: `apply`."""

from tf_proxquant.litert.forms import form
from tf_proxquant.litert.write import (
    apart,
    decoded,
    direct,
    lookup,
    matmul,
    offset,
    recoded,
    scaled,
    tables,
)


def _leave(*_):
    """What the file holds already, such as weights that the converter scaled, stays."""
    return []


WRITERS = {
    form.Form: _leave,
    form.Decoded: decoded.replace,
    form.Direct: direct.replace,
    form.Offset: offset.replace,
    form.Product: matmul.replace,
    form.Recoded: recoded.replace,
    form.Rows: lookup.replace,
    form.Scaled: scaled.replace,
}


__all__ = ["apply", "tables"]


def apply(model, changes, numbered=True):
    """Stores the weights of a model as planned.

    Args:
      model: `flatbuffer.Model`, edited in place.
      changes: iterable of `plan.Change`.
      numbered: see `flatbuffer.Model.name_tensors`.

    Returns: (bytes of the file, dict {(subgraph, tensor index): float32 values to find there}).
    """
    for change in changes:
        weight = change.weight
        model.subgraphs[weight.graph].tensors[weight.index].name = weight.name.encode()
    written = []
    for change in changes:
        if type(change.form) in WRITERS:
            written += WRITERS[type(change.form)](model, change.weight, change.form)
    apart.separate(model)
    model.drop_notes(keeps_others=numbered)
    moved = model.prune()
    model.name_tensors({change.weight.name for change in changes}, numbered)
    found = {(graph, int(moved[graph][index])): values for graph, index, values in written}
    return model.to_bytes(), found
