"""The converter's integer file of a Keras model, calibrated on data."""

from tf_proxquant.litert.check import runtime
from tf_proxquant.litert.read import convert


def check_data(model, data):
    """Refuses a static export without a Keras model or without data to calibrate on."""
    if isinstance(model, bytes):
        raise ValueError('profile="static" needs the Keras model. Received: a .tflite file')
    if data is None:
        raise ValueError(
            'profile="static" calibrates activations: give representative_data, an array of '
            "about 100 samples (or a list or dict of arrays, one per input). Received: None"
        )


def to_integer(model, float_content, data, *, batch_size=None, input_signature=None):
    """Bytes of the file whose weights and activations are integers.

    Args:
      model: `keras.Model`.
      float_content: bytes of its float file.
      data: samples to calibrate on, as for `runtime.predict`.
      batch_size: as for `convert.convert`.
      input_signature: as for `convert.convert`.
    """
    named = runtime.name_inputs(runtime.Runner(float_content, "builtin"), data)
    size = batch_size or 1
    count = len(next(iter(named.values()))) // size

    def samples():
        for i in range(count):
            yield {name: values[i * size : (i + 1) * size] for name, values in named.items()}

    content, _ = convert.convert(model, batch_size, input_signature, samples)
    return content
