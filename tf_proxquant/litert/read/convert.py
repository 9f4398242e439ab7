"""Keras model, SavedModel or .tflite file to the bytes of a float .tflite file."""

import os
import pathlib
import tempfile

import keras
import numpy as np

from tf_proxquant.litert.read import untrusted

FIXED_BATCH = "batch fixed at 1: LiteRT has no looped recurrent layer over an open batch"


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
            "custom layers first."
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


def convert(model, batch_size=None, input_signature=None, representative_data=None):
    """Converts a Keras model to a float32 .tflite file, by way of a SavedModel.

    The model's variables are read, never written. BatchNorm behind a convolution or a dense layer
    is folded into its weights by the converter, channel by channel.

    Args:
      model: a built `keras.Model`.
      batch_size: fixes the first dimension of every input; None leaves it dynamic.
      input_signature: as for `keras.Model.export`; needed for a subclassed model that was never
        called.

      representative_data: None, or a function that yields dicts of arrays by signature name; the
        file then computes in 8-bit integers, calibrated on them.

    Returns: (bytes of the file, notes for the report). A looped recurrent layer has no dynamic
      batch in LiteRT: the batch is then fixed at 1, and the note says so.
    Raises: ValueError: if the backend is not TensorFlow, the model is not built, a recurrent layer
      is stateful, or the converter has no LiteRT operator for some layer.
    """
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
    stateful = [layer.name for layer in _all_layers(model) if getattr(layer, "stateful", False)]
    if stateful:
        raise ValueError(
            "A stateful layer hides its state, which a .tflite file must take and give. Received: "
            f"{stateful}. Export `models.with_states(model)`, or a copy with stateful=False."
        )
    if batch_size is not None and input_signature is None:
        input_signature = _fixed_signature(model, batch_size)
    if input_signature is None and any(map(_is_loop, _all_layers(model))):
        signature = _fixed_signature(model, 1)
        return _convert(model, signature, representative_data), (FIXED_BATCH,)
    return _convert(model, input_signature, representative_data), ()


def _all_layers(layer):
    """Layers of a model, those of nested models and wrappers included."""
    parts = [*getattr(layer, "layers", ())]
    parts += [getattr(layer, name, None) for name in ("layer", "forward_layer", "backward_layer")]
    for part in parts:
        if isinstance(part, keras.layers.Layer):
            yield part
            yield from _all_layers(part)


def _is_loop(layer):
    return isinstance(layer, keras.layers.RNN) and not getattr(layer, "unroll", False)


def _convert(model, input_signature, representative_data):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "float.tflite")
        _write_file(model, path, input_signature, representative_data)
        return pathlib.Path(path).read_bytes()


def _write_file(model, path, input_signature, representative_data):
    import tensorflow as tf

    options = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
    if representative_data is not None:
        options = {
            "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "representative_dataset": representative_data,
        }
    try:
        model.export(
            path,
            format="litert",
            verbose=False,
            input_signature=input_signature,
            **options,
        )
    except Exception as error:
        raise ValueError(
            f"The LiteRT converter refused {model.name!r}: {_first_lines(error)}"
        ) from error


def _first_lines(error, limit=600):
    text = str(error).strip()
    return text if len(text) <= limit else text[:limit] + " ..."


def _fixed_signature(model, batch_size):
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer. Received: {batch_size!r}")
    try:
        structure = model.input
    except (AttributeError, ValueError) as error:
        raise ValueError(
            "batch_size needs a functional or sequential model; give a subclassed one an "
            f"input_signature with a fixed first dimension. Received: {model.name!r}"
        ) from error

    def fix(tensor):
        shape = (batch_size, *tensor.shape[1:])
        return keras.InputSpec(dtype=tensor.dtype, shape=shape, name=tensor.name)

    return [keras.tree.map_structure(fix, structure)]
