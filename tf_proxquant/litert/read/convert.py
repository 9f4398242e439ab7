"""Keras model or .tflite file to the bytes of a float .tflite file."""

import os
import pathlib

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tf_proxquant.litert.read import equivalents, flatbuffer, refusals, tracing, untrusted
from tf_proxquant.litert.read import signature as signatures

LOOPED = "LiteRT has no looped recurrent layer over an open batch."


class Refusal(ValueError):
    """LiteRT's converter does not take the model; `reason` is a sentence."""

    def __init__(self, reason, way_out):
        super().__init__(f"{reason} {way_out}")
        self.reason = reason


class MissingFileError(FileNotFoundError, ValueError):
    """A path that leads to no file."""


def load(model_or_path):
    """The Keras model, or the bytes of the .tflite file, that `model_or_path` names.

    Args:
      model_or_path: a `keras.Model`, which is returned as it is, or the path of a .keras, .h5 or
        .tflite file.

    Raises: MissingFileError (a FileNotFoundError and a ValueError): if there is no such file.
      ValueError: if the suffix is another, or the file cannot be read.
    """
    if isinstance(model_or_path, keras.Model):
        return model_or_path
    if not isinstance(model_or_path, str | os.PathLike):
        raise ValueError(
            "export takes a keras.Model or the path of a .keras, .h5 or .tflite file. "
            f"Received: {model_or_path!r} of type {type(model_or_path).__name__}"
        )
    path = pathlib.Path(model_or_path)
    if path.suffix not in (".keras", ".h5", ".tflite"):
        raise ValueError(
            f"The model file must end in .keras, .h5 or .tflite. Received: {str(path)!r}"
        )
    if not path.is_file():
        raise MissingFileError(f"There is no model file at {str(path)!r}.")
    if path.suffix == ".tflite":
        content = path.read_bytes()
        untrusted.load(content, str(path))
        return content
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(
            f"Keras cannot load {str(path)!r}: {error}. Import the module that registers its "
            "custom layers first; on the command line, --import=MODULE."
        ) from error


def check_variables(model):
    """Refuses a model whose weights are not finite, by name."""
    for variable in model.variables:
        value = keras.ops.convert_to_numpy(variable.value)
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            bad = int(value.size - np.isfinite(value).sum())
            raise ValueError(
                f"Cannot export a model with weights that are NaN or infinite. Received: "
                f"{variable.path!r} with {bad} such values of {value.size}."
            )


def convert(model, batch_size=None, input_signature=None):
    """Converts a Keras model to a float32 .tflite file.

    The model's variables are read, never written. BatchNorm behind a convolution or a dense layer
    is folded into its weights by the converter, channel by channel. Inputs and outputs stand in
    the file in the model's own order.

    Args:
      model: a built `keras.Model`.
      batch_size: fixes the first dimension of every input. None leaves it open, or fixes it at 1
        where LiteRT cannot leave it open, as in looped recurrent layers; a note says so.
      input_signature: as for `keras.Model.export`; needed for a subclassed model that takes several
        arguments.

    Returns: (bytes of the file, notes for the report).
    Raises: ValueError: if the backend is not TensorFlow, the model is not built, a recurrent layer
      is stateful, or LiteRT cannot express some layer.
    """
    _check(model, batch_size)
    signature = signatures.read(model, input_signature)
    if batch_size is not None:
        return _convert(model, signature.with_batch(batch_size)), ()
    if all(entry.shape[:1] != (None,) for entry in signature.inputs):
        return _convert(model, signature), ()
    if any(map(_is_loop, model._flatten_layers())):
        return _convert(model, signature.with_batch(1)), (f"batch fixed at 1: {LOOPED}",)
    try:
        return _convert(model, signature), ()
    except Refusal as refusal:
        return _convert_fixed(model, signature, refusal)


def _convert_fixed(model, signature, refusal):
    """Tries with a fixed batch what was refused with an open one: 1, or what the model declares."""
    reason, last = refusal.reason, refusal
    for tried in (signature.with_batch(1), signature.with_declared_batch()):
        if all(entry.shape[:1] != (None,) for entry in tried.inputs):
            try:
                size = tried.inputs[0].shape[0]
                return _convert(model, tried), (f"batch fixed at {size}: {reason}",)
            except Refusal as error:
                last = error
    raise last


def _check(model, batch_size):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Export to LiteRT needs the TensorFlow backend: save the model to a .keras file and "
            "export that file with KERAS_BACKEND=tensorflow. Received: backend="
            f"{keras.backend.backend()!r}"
        )
    if not model.built:
        raise ValueError(
            f"Build the model before export: call it once on data. Received: {model.name!r}, "
            "which has no weights yet."
        )
    stateful = [x.name for x in model._flatten_layers() if getattr(x, "stateful", False)]
    if stateful:
        raise ValueError(
            "A stateful layer hides its state, which a .tflite file must take and give. Received: "
            f"{stateful}. Export a copy with stateful=False; of a language model of this package, "
            "`models.with_states(model)`."
        )
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size must be a positive integer. Received: {batch_size!r}")


def _is_loop(layer):
    return isinstance(layer, keras.layers.RNN) and not getattr(layer, "unroll", False)


def _convert(model, signature):
    import tensorflow as tf

    concrete = None
    try:
        concrete, outputs = tracing.trace(model, signature)
        # Given for its own trackable, a function is frozen and converted without a SavedModel on
        # the way, which takes five times as long for the same file.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], concrete)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        with refusals.muted():
            content = converter.convert()
    except Exception as error:
        raise Refusal(*refusals.explain(model, signature, error, concrete)) from error
    return _name(content, signature.names, outputs)


def _name(content, inputs, outputs):
    """Gives a file the signature that it lacks, and its inputs and outputs their names."""
    model = flatbuffer.Model(content)
    graph = model.subgraphs[0]
    equivalents.narrow(graph)
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs = _name_tensors(graph, graph.inputs, inputs)
    signature.outputs = _name_tensors(graph, graph.outputs, outputs)
    model.model.signatureDefs = [signature]
    return model.to_bytes()


def _name_tensors(graph, indices, names):
    entries = []
    for index, name in zip(indices, names, strict=True):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), int(index)
        graph.tensors[index].name = entry.name
        entries.append(entry)
    return entries
