"""What a .tflite file says of its inputs and outputs: the standard TensorFlow Lite metadata.

They are an entry of the file, TFLITE_METADATA; what belongs to them, such as the names of the
classes, follows the model in a zip archive. MediaPipe, Android Studio and ML Kit read both.
"""

import io
import struct
import zipfile

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tf_proxquant.litert import metadata_schema
from tf_proxquant.litert.read import flatbuffer

ENTRY = b"TFLITE_METADATA"
LABELS, VOCABULARY = "labels.txt", "vocabulary.txt"
_SIDES = ("inputs", "outputs")
_FILE_TYPES = {LABELS: 2, VOCABULARY: 5}  # of AssociatedFileType
PIXELS = (0, 255)
_COLORS = {3: 1, 1: 2}  # of ColorSpaceType, by the number of channels
_COLOR_NAMES = {1: "RGB", 2: "grey"}
_MAX_LISTED_BYTES = 2**26
# Operators between an input of word numbers and the lookup; Keras counts negative ones from behind.
_PASSING = {"ADD", "CAST", "EXPAND_DIMS", "RESHAPE", "SELECT", "SELECT_V2", "SQUEEZE", "TRANSPOSE"}
_DAMAGED = (
    struct.error, IndexError, TypeError, ValueError, OverflowError, MemoryError, RecursionError,
    zipfile.BadZipFile, NotImplementedError, EOFError,
)  # fmt: skip


def check(content, *, labels=None, vocabulary=None, value_range=None):
    """Checks what a file shall say of itself before it is made.

    Args:
      content: bytes of the float file.
      labels, vocabulary, value_range: as for `attach`.

    Raises: ValueError: as `attach`, and for more words than a table that the file looks them up in
      has rows.
    """
    check_range(value_range)
    if labels is None and vocabulary is None:
        return
    model = flatbuffer.Model(content)
    graph = model.subgraphs[0]
    if labels is not None:
        _labelled(graph, len(_checked_names(LABELS, labels)))
    if vocabulary is not None:
        count = len(_checked_names(VOCABULARY, vocabulary))
        rows = _rows(model, graph, int(graph.inputs[_reading_words(graph)]))
        if rows is not None and count > rows:
            raise ValueError(
                f"`vocabulary` must have a word for each row of its table, or fewer. Received: "
                f"{count:,} words for a table of {rows:,} rows."
            )


def _rows(model, graph, index):
    """Rows of the smallest table that the numbers of an input are looked up in, or None."""
    reached, found = {index}, []
    for operator in graph.operators:
        name, inputs = model.operator_name(operator), [int(i) for i in operator.inputs]
        if name in _PASSING and reached.intersection(inputs):
            reached.add(int(operator.outputs[0]))
        elif name == "GATHER" and inputs[1] in reached and operator.builtinOptions.axis == 0:
            found.append(int(flatbuffer.tensor_shape(graph.tensors[inputs[0]])[0]))
    return min(found, default=None)


def attach(
    content,
    *,
    labels=None,
    vocabulary=None,
    value_range=None,
    normalization=None,
    name=None,
    description=None,
):
    """Writes into a file what its inputs and outputs are.

    Args:
      content: bytes of a .tflite file without metadata.
      labels: list of str, the name of each value on the last axis of the output, in order.
      vocabulary: list of str, the word of each number that the first integer input takes.
      value_range: (lowest, highest) value of the images that the file takes. None: 0 and 255,
        pixels as they are.
      normalization: (mean, std), numbers or one for each channel: of pixels from 0 to 255 an
        application makes (pixel - mean) / std for an input of floats. None maps them to
        `value_range`.
      name: of the model.
      description: of the model, for people.

    Returns: bytes of the file with its metadata, the same each time.
    Raises: ValueError: if no output has as many values as there are labels, a label is not one
      line of text, no input takes words, or the normalization is none.
    """
    model = flatbuffer.Model(content)
    graph = model.subgraphs[0]
    inputs, outputs = (
        [{"name": names.get(int(i)) or str(i)} for i in side]
        for side, names in zip((graph.inputs, graph.outputs), signature_names(model), strict=True)
    )
    for entry, index in zip(inputs, graph.inputs, strict=True):
        entry.update(_image(graph.tensors[index], normalization, value_range))
    listed = {}
    if labels is not None:
        listed[LABELS] = to_lines(LABELS, labels)
        outputs[_labelled(graph, len(labels))].update(_list_file(LABELS))
    if vocabulary is not None:
        listed[VOCABULARY] = to_lines(VOCABULARY, vocabulary)
        inputs[_reading_words(graph)].update(_list_file(VOCABULARY))
    root = {"name": name, "description": description, "min_parser_version": "1.0.0"}
    root["graphs"] = [{"inputs": inputs, "outputs": outputs}]
    _set_entry(model, np.frombuffer(metadata_schema.encode(root), np.uint8))
    return _append(model.to_bytes(), listed)


def carry(content, source):
    """Writes the metadata of one file, and the files that belong to them, into another.

    Args:
      content: bytes of a .tflite file of the same inputs and outputs.
      source: bytes of the file that has them, or has none.

    Returns: bytes of the file.
    Raises: ValueError: if what is behind the model in `source` is damaged.
    """
    try:
        packed, listed = _entry(source), _behind(source)
    except _DAMAGED as error:
        raise _damaged(error) from error
    if packed is None and not listed:
        return content
    model = flatbuffer.Model(content)
    if packed is not None:
        _set_entry(model, np.frombuffer(packed, np.uint8))
    return _append(model.to_bytes(), listed)


def said_by(source):
    """What `attach` would have to be given to write the metadata of a file, as far as it can."""
    found = read(source)
    said = {key: found[key] for key in ("name", "description") if key in found}
    names = {"labels": "labels", "vocabulary": "vocabulary", "range": "value_range"}
    for entry in [*found.get("inputs", ()), *found.get("outputs", ())]:
        for key in (*names, "normalization"):
            if key in entry:
                said.setdefault(names.get(key, key), entry[key])
    return said


def read(content):
    """Reads the metadata of a file, from anywhere.

    Args:
      content: bytes of a .tflite file that `read.untrusted.load` has accepted.

    Returns: dict with "name", "description", "inputs" and "outputs", as far as the file has them;
      the last two are lists in its order, of dicts with "name", "description", "color" ("RGB" or
      "grey"), "normalization" (mean, std), "range" (lowest, highest), "labels" and "vocabulary".
      Empty without metadata.
    Raises: ValueError: if the metadata are damaged.
    """
    try:
        packed = _entry(content)
        if packed is None:
            return {}
        root = metadata_schema.decode(packed)
        graph = next(iter(root.get("graphs", [])), {})
        listed = _behind(content)
        sides = {s: [_readable(e, listed) for e in graph.get(s, [])] for s in _SIDES}
    except _DAMAGED as error:
        raise _damaged(error) from error
    return {**{key: root[key] for key in ("name", "description") if key in root}, **sides}


def _set_entry(model, packed):
    """Puts the metadata into a model, in place of those that it has."""
    for entry in model.model.metadata or ():
        if entry.name == ENTRY:
            model.model.buffers[entry.buffer].data = packed
            return
    entry = schema.MetadataT(name=ENTRY, buffer=model.add_buffer(packed))
    model.model.metadata = [*(model.model.metadata or ()), entry]


def signature_names(model):
    """Names by tensor index, a dict for the inputs and one for the outputs."""
    signatures = [s for s in model.model.signatureDefs or () if s.subgraphIndex == 0][:1]
    sides = ([m for s in signatures for m in getattr(s, side) or ()] for side in _SIDES)
    return tuple(
        {int(m.tensorIndex): m.name.decode("utf-8", "replace") for m in side if m.name}
        for side in sides
    )


def _image(tensor, normalization, value_range):
    """What is said of an input that takes images."""
    shape = flatbuffer.tensor_shape(tensor)
    if len(shape) != 4 or shape[-1] not in _COLORS:
        return {}
    lowest, highest = check_range(value_range)
    said: dict = {"content": {"image": {"color": _COLORS[shape[-1]]}}}
    said["stats"] = {"max": [highest], "min": [lowest]}
    if tensor.type == schema.TensorType.FLOAT32:
        std = 255 / (highest - lowest)
        given = (0.0 - lowest * std, std) if normalization is None else normalization
        mean, std = _normalization(given, shape[-1])
        said["process_units"] = [{"normalization": {"mean": mean, "std": std}}]
    return said


def check_range(given):
    """Returns a `value_range` as two floats; of None, that of 8-bit images."""
    given = PIXELS if given is None else given
    try:
        lowest, highest = (float(each) for each in given)
        fits = np.isfinite([lowest, highest]).all() and lowest < highest
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "`value_range` must be (lowest, highest), two numbers, the second greater. "
            f"Received: {given!r}"
        )
    return lowest, highest


def _normalization(given, channels):
    try:
        mean, std = (np.atleast_1d(np.asarray(each, float)) for each in given)
        fits = mean.shape == std.shape and mean.shape in ((1,), (channels,))
        fits = fits and np.isfinite([mean, std]).all() and (std > 0).all()
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "`normalization` must be (mean, std), two numbers or two lists with one for each of "
            f"the {channels} channels, std greater than 0. Received: {given!r}"
        )
    return mean.tolist(), std.tolist()


def to_lines(what, names):
    """Bytes of a file with one name in each line.

    Raises: ValueError: for an empty name, or one of several lines.
    """
    return "".join(f"{name}\n" for name in _checked_names(what, names)).encode()


def _checked_names(what, names):
    if isinstance(names, (str, bytes)):
        raise ValueError(
            f"`{what.removesuffix('.txt')}` must be a list of names. Received: {names!r}"
        )
    names = [str(name) for name in names]
    for name in names:
        if not name.strip() or len(name.splitlines()) != 1:
            raise ValueError(
                f"Each name of `{what.removesuffix('.txt')}` must be one line of text. "
                f"Received: {name!r}"
            )
    return names


def _labelled(graph, count):
    """Number of the output that has `count` values on its last axis."""
    shapes = [flatbuffer.tensor_shape(graph.tensors[i]) for i in graph.outputs]
    for number, shape in enumerate(shapes):
        if shape and shape[-1] == count:
            return number
    raise ValueError(
        "`labels` must name each value on the last axis of an output. Received: "
        f"{count} labels for outputs of the shapes {shapes}."
    )


def _reading_words(graph):
    """Number of the first input that takes word numbers."""
    integers = (schema.TensorType.INT32, schema.TensorType.INT64)
    for number, index in enumerate(graph.inputs):
        if graph.tensors[index].type in integers:
            return number
    raise ValueError("`vocabulary` needs an input of word numbers, int32 or int64.")


def _list_file(name):
    return {"files": [{"name": name, "type": _FILE_TYPES[name]}]}


def _append(content, listed):
    """The file with a zip archive of what belongs to it, not deflated, behind the model."""
    if not listed:
        return content
    whole = io.BytesIO()
    whole.write(content)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, lines in listed.items():
            entry = zipfile.ZipInfo(name)  # of 1980, so that the bytes are the same each time
            entry.create_system = 3
            archive.writestr(entry, lines)
    return whole.getvalue()


def _entry(content):
    """Bytes of the entry TFLITE_METADATA, or None."""
    model = schema.Model.GetRootAs(content)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    for entry in entries:
        if entry.Name() == ENTRY:
            data = model.Buffers(entry.Buffer()).DataAsNumpy()
            return data.tobytes() if isinstance(data, np.ndarray) else b""
    return None


def _behind(content):
    """Bytes of the files in the archive behind the model, by name."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [e for e in archive.infolist() if e.file_size <= _MAX_LISTED_BYTES]
        return {e.filename: archive.read(e) for e in entries}


def _damaged(error):
    return ValueError(
        f"The metadata of the file are damaged: {error}. strip_names=True exports without them."
    )


def _readable(entry, listed):
    said = {key: entry[key] for key in ("name", "description") if key in entry}
    color = entry.get("content", {}).get("image", {}).get("color", 0)
    if color in _COLOR_NAMES:
        said["color"] = _COLOR_NAMES[color]
    for unit in entry.get("process_units", []):
        if "normalization" in unit:
            said["normalization"] = tuple(unit["normalization"].get(k, []) for k in ("mean", "std"))
    if entry.get("stats"):
        said["range"] = tuple(entry["stats"].get(key, [None])[0] for key in ("min", "max"))
    types = {type_: name.removesuffix(".txt") for name, type_ in _FILE_TYPES.items()}
    for file in entry.get("files", []):
        if file["type"] in types and file.get("name") in listed:
            said[types[file["type"]]] = listed[file["name"]].decode("utf-8").splitlines()
    return said
