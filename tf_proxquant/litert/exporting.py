"""Keras model in, verified low-bit .tflite file out."""

import functools
import os
import pathlib
import zlib
from typing import Any

import keras

from tf_proxquant import files
from tf_proxquant.litert.archive.pqz import SUFFIX, compress
from tf_proxquant.litert.check import runtime
from tf_proxquant.litert.check import verify as verification
from tf_proxquant.litert.plan import balanced, budget, dynamic, profiles, static
from tf_proxquant.litert.read import convert, flatbuffer
from tf_proxquant.litert.report import ExportReport
from tf_proxquant.litert.write import lookup, rewrite
from tf_proxquant.typing import PathLike

MOVED_BACK = "moved back onto its grid by an ulp or two"


def export(
    model_or_path: keras.Model | PathLike,
    path: PathLike,
    profile: str = "fast",
    *,
    verify: bool = True,
    archive: bool = False,
    inputs: Any = None,
    batch_size: int | None = None,
    input_signature: Any = None,
    strip_names: bool | None = None,
    max_slowdown: float | None = None,
    max_ulps: int = 2,
    dense_bits: int = 4,
    representative_data: Any = None,
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
      profile: "fast": int8 codes behind DEQUANTIZE, float speed. "small": the smallest form of each
        tensor, 1 to 8 bits. "balanced": convolutions as matrix products over 1 to 4 bits where that
        pays, the rest as fast; needs a fixed input size. "dynamic": for dense and recurrent models,
        integer weights straight into FULLY_CONNECTED and EMBEDDING_LOOKUP, the least memory and
        time; activations are rounded to 8 bits at run time, and the report gives the error.
        "static": integer activations too, calibrated on `representative_data`, for accelerators.
      verify: decode every weight with the LiteRT runtime and compare it bit for bit with the float
        file; compare outputs with the float file and with Keras, on XNNPACK and on the builtin
        kernels, to 2e-5 of the largest output.
      archive: also write `path` + ".pqz", the smallest archive of the file, from which `expand`
        gives it back byte for byte.
      inputs: arrays to verify with, as for `predict`; random ones by default.
      batch_size: fixes the batch dimension; None leaves it dynamic.
      input_signature: as for `keras.Model.export`.
      strip_names: drop tensor names and metadata; by default only in the small profiles.
      max_slowdown: latency allowed over that of the float file, at batch 1 on one thread with
        XNNPACK, checked by timing. By default 1.25 for "balanced"; for "small" no limit, but forms
        that are decoded at every call only where that is in proportion to the operator's work.
        math.inf takes the smallest form whatever it costs.
      max_ulps: units in the last place by which a weight may move back onto an integer grid that
        the BatchNorm fold rounded it off, which the report tells; 0 keeps all bits of the
        converted file and leaves such tensors float or in a slower form. See `levels.undo_blur`.
      representative_data: for "static", samples to calibrate activations on, as for `predict`.
      dense_bits: for "dynamic", the fewest bits for the weights of a dense layer: 4 is fastest
        (docs/export.md), 2 takes half the memory at about the time of 8.

    Returns: `ExportReport`.
    Raises: ValueError: on bad arguments, weights that are not finite, a model that LiteRT cannot
      express, a file that fails its verification, or one that cannot be written. `path` is left
      as it was.
    """
    target = check_target(path)
    settings = profiles.get(profile)
    dynamic.check_bits(dense_bits)
    if max_slowdown is not None and not (settings.is_budgeted or settings.is_balanced):
        raise ValueError(
            'max_slowdown goes with the profiles "small" and "balanced". '
            f"Received: max_slowdown={max_slowdown!r} with profile={profile!r}"
        )
    source = convert.load(model_or_path)
    if settings.is_static:
        static.check_data(source, representative_data)
    strip = settings.strip_names if strip_names is None else strip_names
    signature = {"batch_size": batch_size, "input_signature": input_signature}
    float_content, remarks = _to_float(source, **signature)
    grid_content, moved_back = rewrite.restore_grids(float_content, max_ulps)
    if settings.is_static:
        content, rows, exact, notes = static.encode(
            source, grid_content, representative_data, strip, **signature
        )
    else:
        encode_all = functools.partial(
            encode,
            grid_content,
            settings,
            strip,
            moved_back,
            prepare=_preparation(settings, dense_bits),
        )
        content, rows, exact, notes = _choose(grid_content, settings, encode_all, max_slowdown)
    model = None if isinstance(source, bytes) else source
    errors = check(content, float_content, exact, model, inputs, settings) if verify else {}
    archive_bytes = _write_files(target, content, archive)
    return ExportReport(
        path=str(target),
        profile=profile,
        bytes=len(content),
        float_bytes=len(float_content),
        gzip_bytes=len(zlib.compress(content, 6)),
        rows=rows,
        errors=errors,
        notes=(*remarks, *notes),
        archive_bytes=archive_bytes,
    )


def _to_float(source, **signature):
    """(bytes of the float file, notes) of a model, or of a file that is one already."""
    if isinstance(source, bytes):
        return source, ()
    convert.check_variables(source)
    return convert.convert(source, **signature)


def _write_files(target, content, archive):
    """Writes the file and, if asked, its archive beside it; returns the size of the archive."""
    packed = compress(content) if archive else None
    write_file(target, content)
    if packed is None:
        return None
    write_file(target.with_name(target.name + SUFFIX), packed)
    return len(packed)


def _preparation(settings, dense_bits):
    """The `prepare` of `encode`, or None."""
    if settings.is_dynamic:
        return functools.partial(dynamic.prepare, dense_bits=dense_bits)
    if settings.looks_up:
        return functools.partial(lookup.prepare, few_weights=profiles.FEW_WEIGHTS)
    return None


def _choose(float_content, settings, encode_all, max_slowdown):
    """What `encode_all` returns, within `max_slowdown`, and notes for the report."""
    if settings.is_balanced:
        max_slowdown = balanced.DEFAULT_SLOWDOWN if max_slowdown is None else max_slowdown
        return balanced.encode(float_content, max_slowdown, encode_all)
    if settings.is_budgeted and max_slowdown is not None:
        return budget.encode(float_content, max_slowdown, settings, encode_all)
    return *encode_all(), dynamic.NOTES if settings.is_dynamic else ()


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


def encode(float_content, settings, strip_names, moved_back=(), prepare=None, accepts=None):
    """Re-encodes a float file.

    Args:
      float_content: bytes of the file.
      settings: `profiles.Profile` for the weights that `prepare` leaves.
      strip_names: drop tensor names and metadata.
      moved_back: keys of the weights whose rows say so, see `rewrite.restore_grids`.
      prepare: None, or a function (`flatbuffer.Model`) -> (rows, weights) that edits it first.
      accepts: see `profiles.choose`.

    Returns: (bytes of the new file, tuple of `TensorRow`, weights to find in it: dict
      {(subgraph, tensor index): float32 array}).
    """
    model = flatbuffer.Model(float_content)
    rows, exact_weights = prepare(model) if prepare else ([], [])
    weights = rewrite.find_weights(model)
    chosen = []
    for weight in weights:
        remark = MOVED_BACK if (weight.graph, weight.index) in moved_back else ""
        chosen.append(profiles.choose(weight, settings, remark, accepts))
    encodings = [encoding for encoding, _ in chosen]
    rewrite.replace(model, weights, encodings)
    exact_weights = exact_weights + [
        weight for weight, encoding in zip(weights, encodings, strict=True) if encoding is not None
    ]
    moved = model.prune()
    model.strip(names=strip_names)
    exact = {(w.graph, int(moved[w.graph][w.index])): w.values for w in exact_weights}
    return model.to_bytes(), (*rows, *(row for _, row in chosen)), exact


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
        if error > settings.error_budget:
            raise verification.VerificationError(
                f"Outputs differ by {error:.1e} of the largest output on the {kernels} kernels, "
                f"more than {settings.error_budget:.0e}. Nothing was written."
            )
    return errors


def write_file(target, content):
    """Writes `content` beside `target` and renames it: the old file or the new one, never half."""
    with files.replacing(target) as temporary:
        temporary.write_bytes(content)
