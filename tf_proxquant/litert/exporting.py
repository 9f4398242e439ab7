"""Keras model in, verified low-bit .tflite file out."""

import dataclasses
import inspect
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras

from tf_proxquant import files
from tf_proxquant.litert import encoding, losses, metadata
from tf_proxquant.litert.archive import SUFFIX, compress
from tf_proxquant.litert.check import verify as verification
from tf_proxquant.litert.report import ExportReport
from tf_proxquant.typing import Arrays, Constants, Io, PathLike, Profile, Storage


def export(
    model_or_path: keras.Model | PathLike,
    path: PathLike,
    profile: Profile = "fast",
    *,
    verify: bool = True,
    archive: bool = False,
    strict: bool = False,
    inputs: Arrays | None = None,
    batch_size: int | None = None,
    input_signature: list | None = None,
    strip_names: bool | None = None,
    max_slowdown: float | None = None,
    max_ulps: int = 2,
    dense_bits: int = 4,
    representative_data: Arrays | None = None,
    io: Io = "float32",
    weights: Storage = "int8",
    constants: Constants | None = None,
    labels: Sequence[str] | None = None,
    vocabulary: Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> ExportReport:
    """Writes the smallest or fastest .tflite file that keeps every weight exactly.

    The model is converted to float32; the levels of each constant weight are read from that file,
    channel by channel and without tolerance; each is stored in the best form that decodes to the
    same bits; the file is checked and only then moved to `path`. What is on no grid stays float,
    and the report says why.

    Args:
      model_or_path: built `keras.Model`, or the path of a .keras, .h5 or float .tflite file. A
        model is only read. Weights of a .tflite that are no float32 stay as they are, with a
        warning.
      path: of the file to write, ending in .tflite. Replaced at the end, in one step.
      profile: "fast": int8 codes behind DEQUANTIZE, float speed. "portable": int8 codes with one
        scale, the channel's scale behind the operator: float numbers on every reader. "small": the
        smallest form of each tensor, 1 to 8 bits. "balanced": convolutions as matrix products over
        1 to 4 bits where that pays, the rest as fast. "dynamic": integer weights straight into
        dense layers, convolutions and lookups, the least memory and time; activations are rounded
        to 8 bits at run time, and the report gives the error. "static": integer activations too,
        calibrated on `representative_data`, for integer processors.
      verify: decode every weight with the LiteRT runtime and compare it bit for bit with the float
        file; compare outputs with the float file and with Keras, on XNNPACK and on the builtin
        kernels, to 2e-5 of the largest output.
      archive: also write `path` + ".pqz", the smallest archive of the file, from which `expand`
        gives it back byte for byte.
      strict: raise, instead of a warning, where a tensor that lies on a grid stays float, or one
        that the model's optimizer quantizes is not on its levels yet.
      inputs: arrays to verify with, as for `predict`, of which 16 samples are taken; by default
        the representative data where there are any, else random ones that the model can take.
      batch_size: fixes the batch dimension of a Keras model; None leaves it dynamic.
      input_signature: of a Keras model, as for `keras.Model.export`.
      strip_names: drop the names of all tensors but weights, inputs and outputs, and the
        converter's notes; by default only in "small". True also leaves out the metadata and labels
        of a .tflite source, which are kept otherwise.
      max_slowdown: latency allowed over that of the float file, at batch 1 on one thread with
        XNNPACK, checked by timing, so that the file depends on the machine. By default nothing is
        timed: "balanced" plans for an estimated 1.25, "small" takes forms that are decoded at every
        call only where that is in proportion to the operator's work. math.inf takes the smallest
        form whatever it costs.
      max_ulps: units in the last place by which a weight may move back onto an integer grid that
        the BatchNorm fold rounded it off, which the report tells; 0 keeps all bits of the
        converted file and leaves such tensors float or in a slower form. See `levels.undo_blur`.
      representative_data: for "static", samples to calibrate activations on, as for `predict`.
      io: for "static", the type of inputs and outputs: "float32", "int8" or "uint8". Integers
        stand for scale * (code - zero_point), which `report.inputs` and `report.outputs` give; word
        numbers stay as they are.
      weights: for "static", how trained weights are stored: "int8", for every reader; "int4", those
        of convolutions whose levels fit, in half of the bytes, for LiteRT and tflite-micro;
        "tables", in as many bits as they have levels, 1 for binary ones, for tflite-micro alone,
        which makes int8 of them while the layer runs. The same numbers in all three, but for the
        roundings of biases (docs/export.md).
      constants: None, or "float16": weights as float16 in place of integer codes, half the
        size, for GPUs that take nothing else. Levels that float16 holds, such as those of a scale
        2^-n, stay exact; others are rounded, by up to 5e-4, and the report says so. With "fast".
      dense_bits: for "dynamic", the fewest bits for the weights of a dense layer: 4 is fastest
        (docs/export.md), 2 takes half the memory at about the time of 8.
      labels: list of str, the name of each value of the output, in order: written into the
        file's metadata, for MediaPipe and others, and to labels.txt beside it.
      vocabulary: list of str, the word of each number that the input takes, at most as many as
        its table has rows: written into the file's metadata and to vocabulary.txt beside it.
      value_range: (lowest, highest) value of the images that the model takes, for the metadata;
        with `labels` alone 0 and 255.

    Returns: `ExportReport`.
    Raises: ValueError: on bad arguments, weights that are not finite, a model that LiteRT cannot
      express, a file that fails its verification, or one that cannot be written. `path` is left
      as it was.
    """
    target = check_target(path)
    encoded = encoding.encode(
        model_or_path,
        profile,
        batch_size=batch_size,
        input_signature=input_signature,
        strip_names=strip_names,
        max_slowdown=max_slowdown,
        max_ulps=max_ulps,
        dense_bits=dense_bits,
        representative_data=representative_data,
        io=io,
        weights=weights,
        constants=constants,
        labels=labels,
        vocabulary=vocabulary,
        value_range=value_range,
    )
    report = dataclasses.replace(encoded.report, path=str(target))
    losses.tell(report, encoded.model, strict)
    if verify:
        inputs = representative_data if inputs is None else inputs
        report = dataclasses.replace(report, errors=check(encoded, inputs))
    for name, lines in ((metadata.LABELS, labels), (metadata.VOCABULARY, vocabulary)):
        if lines is not None:
            write_file(target.with_name(name), metadata.to_lines(name, lines))
    return dataclasses.replace(report, archive_bytes=_write_files(target, encoded.content, archive))


# Parameters that decide what is in the file, and those of `export` that do not.
DECIDING = frozenset(inspect.signature(encoding.encode).parameters)
ONLY_WRITING = frozenset(inspect.signature(export).parameters) - DECIDING


def preview(
    model_or_path: keras.Model | PathLike, profile: Profile = "fast", **options: Any
) -> ExportReport:
    """The report that `export` would give, without checking or writing anything.

    Args:
      model_or_path: as for `export`.
      profile: as for `export`.
      **options: those of `export` that decide what is in the file.

    Returns: `ExportReport` with the path "".
    Raises: ValueError: as `export`, and for an option of its that only writes, such as `archive`.
    """
    writing = sorted(options.keys() & ONLY_WRITING)
    if writing:
        raise ValueError(
            f"`preview` writes and checks nothing: leave {', '.join(writing)} out. "
            f"Received: {options}."
        )
    for name in options.keys() - DECIDING:
        raise TypeError(f"preview() got an unexpected keyword argument {name!r}")
    return encoding.encode(model_or_path, profile, **options).report


def _write_files(target, content, archive):
    """Writes the file and, if asked, its archive beside it; returns the size of the archive."""
    packed = compress(content) if archive else None
    write_file(target, content)
    if packed is None:
        return None
    write_file(target.with_name(target.name + SUFFIX), packed)
    return len(packed)


def check_target(path):
    """`path` as a Path, if a .tflite file can be written there."""
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path must be a string or a path. Received: {path!r}")
    target = pathlib.Path(path)
    if target.suffix != ".tflite":
        raise ValueError(f"The path of the export must end in .tflite. Received: {str(target)!r}")
    if not target.parent.is_dir():
        raise ValueError(f"There is no folder {str(target.parent)!r} for {str(target)!r}.")
    if target.is_dir():
        raise ValueError(f"A folder is in the way. Received: {str(target)!r}")
    return target


def check(encoded, inputs):
    """Verifies an `Encoded` file; returns its output errors by kernel set.

    Raises: VerificationError: if a weight differs or an output error exceeds the profile's limit.
    """
    errors = verification.check(
        encoded.checked,
        encoded.float_content,
        encoded.weights,
        encoded.settings.error_limit,
        encoded.model,
        inputs,
        encoded.way_out,
        input_signature=encoded.input_signature,
    )
    if encoded.checked is not encoded.content:
        verification.check_codes(encoded.content, encoded.checked)
    return errors.kernels


def write_file(target, content):
    """Writes `content` beside `target` and renames it: the old file or the new one, never half."""
    with files.replacing(target) as temporary:
        temporary.write_bytes(content)
