"""Keras model in, verified low-bit .tflite file out."""

import dataclasses
import os
import pathlib
import warnings
import zlib
from typing import Any

import keras

from tf_proxquant import files
from tf_proxquant.litert import interface, metadata, write
from tf_proxquant.litert import plan as plans
from tf_proxquant.litert.archive import SUFFIX, compress
from tf_proxquant.litert.check import runtime, timing
from tf_proxquant.litert.check import verify as verification
from tf_proxquant.litert.read import convert, flatbuffer, integer
from tf_proxquant.litert.read.weights import restore_grids
from tf_proxquant.litert.report import ExportReport, TensorRow
from tf_proxquant.typing import PathLike

MOVED_BACK = "moved back onto its grid by an ulp or two"
TIMED = "{:.2f} times the float latency, measured here on XNNPACK, one thread, batch 1"
MAX_TRIALS = 6


def export(
    model_or_path: keras.Model | PathLike,
    path: PathLike,
    profile: str = "fast",
    *,
    verify: bool = True,
    archive: bool = False,
    strict: bool = False,
    inputs: Any = None,
    batch_size: int | None = None,
    input_signature: Any = None,
    strip_names: bool | None = None,
    max_slowdown: float | None = None,
    max_ulps: int = 2,
    dense_bits: int = 4,
    representative_data: Any = None,
    labels: Any = None,
    vocabulary: Any = None,
    value_range: Any = None,
) -> ExportReport:
    """Writes the smallest or fastest .tflite file that keeps every weight exactly.

    The model is converted to float32; the levels of each constant weight are read from that file,
    channel by channel and without tolerance; each is stored in the best form that decodes to the
    same bits; the file is checked and only then moved to `path`. What is on no grid stays float,
    and the report says why.

    Args:
      model_or_path: built `keras.Model`, or the path of a .keras, .h5 or float .tflite file. A
        model is only read.
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
      strict: raise where a tensor that lies on a grid stays float, instead of a warning.
      inputs: arrays to verify with, as for `predict`; by default the representative data where
        there are any, else random ones.
      batch_size: fixes the batch dimension; None leaves it dynamic.
      input_signature: as for `keras.Model.export`.
      strip_names: drop the names of all tensors but weights, inputs and outputs, and the metadata;
        by default only in "small".
      max_slowdown: latency allowed over that of the float file, at batch 1 on one thread with
        XNNPACK, checked by timing, so that the file depends on the machine. By default nothing is
        timed: "balanced" plans for an estimated 1.25, "small" takes forms that are decoded at every
        call only where that is in proportion to the operator's work. math.inf takes the smallest
        form whatever it costs.
      max_ulps: units in the last place by which a weight may move back onto an integer grid that
        the BatchNorm fold rounded it off, which the report tells; 0 keeps all bits of the
        converted file and leaves such tensors float or in a slower form. See `levels.undo_blur`.
      representative_data: for "static", samples to calibrate activations on, as for `predict`.
      dense_bits: for "dynamic", the fewest bits for the weights of a dense layer: 4 is fastest
        (docs/export.md), 2 takes half the memory at about the time of 8.
      labels: list of str, the name of each value of the output, in order: written into the
        file's metadata, for MediaPipe and others, and to labels.txt beside it.
      vocabulary: list of str, the word of each number that the input takes: written into the
        file's metadata and to vocabulary.txt beside it.
      value_range: (lowest, highest) value of the images that the model takes, for the metadata;
        with `labels` alone 0 and 255.

    Returns: `ExportReport`.
    Raises: ValueError: on bad arguments, weights that are not finite, a model that LiteRT cannot
      express, a file that fails its verification, or one that cannot be written. `path` is left
      as it was.
    """
    target = check_target(path)
    settings = plans.get(profile)
    request = plans.Request(profile, max_slowdown, dense_bits)
    source = convert.load(model_or_path)
    if settings.is_integer:
        integer.check_data(source, representative_data)
        inputs = representative_data if inputs is None else inputs
    signature = {"batch_size": batch_size, "input_signature": input_signature}
    float_content, remarks = _to_float(source, **signature)
    base, moved_back = restore_grids(float_content, max_ulps)
    if settings.is_integer:
        request = dataclasses.replace(request, float_model=flatbuffer.Model(base))
        base = integer.to_integer(source, base, representative_data, **signature)
    names = settings.names if strip_names is None else not strip_names
    content, plan, weights = _encode(base, settings, request, names)
    said = {"labels": labels, "vocabulary": vocabulary, "value_range": value_range}
    if any(value is not None for value in said.values()):
        content = metadata.attach(content, **said)
    inputs_, outputs, _ = interface.describe(flatbuffer.Model(content), content)
    report = ExportReport(
        path=str(target),
        profile=profile,
        bytes=len(content),
        float_bytes=len(float_content),
        gzip_bytes=len(zlib.compress(content, 6)),
        rows=tuple(
            TensorRow.of_change(change, MOVED_BACK if change.weight.key in moved_back else "")
            for change in plan.changes
        ),
        notes=(*remarks, *plan.notes),
        inputs=inputs_,
        outputs=outputs,
    )
    report_floats(report, strict)
    if verify:
        model = None if isinstance(source, bytes) else source
        errors = check(content, float_content, weights, model, inputs, settings)
        report = dataclasses.replace(report, errors=errors)
    for name, lines in ((metadata.LABELS, labels), (metadata.VOCABULARY, vocabulary)):
        if lines is not None:
            write_file(target.with_name(name), metadata.to_lines(name, lines))
    return dataclasses.replace(report, archive_bytes=_write_files(target, content, archive))


def _to_float(source, **signature):
    """(bytes of the float file, notes) of a model, or of a file that is one already."""
    if isinstance(source, bytes):
        return source, ()
    convert.check_variables(source)
    return convert.convert(source, **signature)


def _encode(base, settings, request, names):
    """(bytes of the new file, its plan, the weights to find in it) of the bytes of a file.

    A plan knows no clock. Where the user asks for a latency, files are timed against `base`, and
    planned anew with less to spend until one keeps to it.
    """
    asked = request.max_slowdown
    for _ in range(MAX_TRIALS):
        model = flatbuffer.Model(base)
        plan = settings.plan(model, request)
        content, weights = write.apply(model, plan.changes, names)
        if asked is None or request.is_unlimited or request.max_slowdown == 1:
            break
        slowdown = timing.confirmed_slowdown(content, base, asked)
        plan = dataclasses.replace(plan, notes=(*plan.notes, TIMED.format(slowdown)))
        if slowdown <= asked:
            break
        share = 0.9 * (asked - 1) / (slowdown - 1)
        request = dataclasses.replace(request, max_slowdown=1 + share * (request.max_slowdown - 1))
    return content, plan, weights


def report_floats(report, strict):
    """Warns of the tensors that lie on a grid and stay float, or raises where `strict`."""
    rows = [row for row in report.rows if row.is_left_float]
    if not rows:
        return
    share = sum(row.bytes_after for row in rows) / report.bytes
    listed = "; ".join(f"{row.name} ({row.reason})" for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    message = (
        f"{len(rows)} weight tensors with few levels stay float, {100 * share:.0f} % of the file: "
        f"{listed}{more}. Train with levels that are whole multiples of a scale for each output "
        "channel (the default of every quantizer: integer_ratios=True, narrow_range=True, "
        f'axis=-1 or None), or take profile="small". Received: profile={report.profile!r}'
    )
    if strict:
        raise ValueError(f"{message}, strict=True. Nothing was written.")
    warnings.warn(message, stacklevel=3)


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


def check(content, float_content, exact, model, inputs, settings):
    """Verifies a file; returns its output errors by kernel set.

    Raises: VerificationError: if a weight differs or an output error exceeds the budget.
    """
    verification.check_weights(content, exact)
    runner = runtime.Runner(float_content, "builtin")
    if inputs is None:
        inputs = verification.random_inputs(float_content)
    inputs = runtime.name_inputs(runner, inputs)
    references = None if model is None else verification.keras_outputs(model, runner, inputs)
    errors = verification.measure_errors(content, float_content, inputs, references)
    for kernels, error in errors.items():
        if error > settings.error_limit:
            raise verification.VerificationError(
                f"Outputs differ by {error:.1e} of the largest output on the {kernels} kernels, "
                f"more than {settings.error_limit:.0e}. Nothing was written."
            )
    return errors


def write_file(target, content):
    """Writes `content` beside `target` and renames it: the old file or the new one, never half."""
    with files.replacing(target) as temporary:
        temporary.write_bytes(content)
