"""Exports a saved model, or shows what a .tflite file holds.

python -m tf_proxquant.litert model.keras model.tflite --profile=small
python -m tf_proxquant.litert model.tflite
"""

import argparse
import importlib
import json
import pathlib
import sys

import numpy as np

from tf_proxquant import litert
from tf_proxquant.litert import c_array, exporting, plan


def parse_arguments(arguments=None):
    """Command line to a namespace."""
    parser = argparse.ArgumentParser(
        prog="python -m tf_proxquant.litert",
        description="Export a .keras model to a low-bit .tflite file, or inspect such a file.",
    )
    add = parser.add_argument
    add("model", help=".keras, .h5 or .tflite file")
    add("path", nargs="?", help="the .tflite file to write; without it, inspect the model file")
    add("--profile", default="fast", choices=sorted(plan.PROFILES), help="fast by default")
    add("--plan", action="store_true", help="print what the export would do, and write nothing")
    add("--strict", action="store_true", help="fail where trained levels would stay float")
    add("--archive", action="store_true", help="also write a .pqz archive")
    add("--c_array", action="store_true", help="also write the file as an array of C, a .h")
    add("--batch_size", type=int, help="fix the batch dimension")
    add("--max_slowdown", type=float, help="small, balanced: latency over the float file; timed")
    add("--max_ulps", type=int, default=2, help="how far a weight may move back onto its grid")
    add("--dense_bits", type=int, default=4, choices=(2, 4, 8), help="dynamic: fewest dense bits")
    add("--data", metavar="FILE.npz", help="static: arrays to calibrate on, by input name")
    add("--io", default="float32", choices=plan.IO, help="static: type of inputs and outputs")
    add("--weights", default="int8", choices=plan.WEIGHTS, help="static: how they are stored")
    add("--constants", choices=("float16",), help="every weight as float16, with fast")
    add("--inputs", metavar="FILE.npz", help="arrays to verify with, by input name")
    add("--no_verify", action="store_true", help="skip the checks")
    add("--strip_names", action="store_true", default=None, help="drop the names of tensors")
    add("--labels", metavar="FILE.txt", help="the name of each class, one in a line")
    add("--vocabulary", metavar="FILE.txt", help="the word of each number, one in a line")
    add("--value_range", nargs=2, type=float, metavar=("LOWEST", "HIGHEST"), help="of the images")
    add("--json", action="store_true", help="print the report as JSON")
    add(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="module that registers custom layers; may be given several times",
    )
    options = parser.parse_args(arguments)
    if options.plan and options.path:
        parser.error("--plan writes nothing: leave the path out")
    if options.c_array and not options.path:
        parser.error("--c_array needs the path of the file to write")
    return options


def main(arguments=None):
    """Runs the command; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        for module in options.modules:
            importlib.import_module(module)
        report = _run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report.to_dict(), indent=1) if options.json else report)
    return 0


def _run(options):
    contents = {
        "batch_size": options.batch_size,
        "strip_names": options.strip_names,
        "max_slowdown": options.max_slowdown,
        "max_ulps": options.max_ulps,
        "dense_bits": options.dense_bits,
        "representative_data": _arrays(options.data),
        "io": options.io,
        "weights": options.weights,
        "constants": options.constants,
        "labels": _lines(options.labels),
        "vocabulary": _lines(options.vocabulary),
        "value_range": options.value_range,
    }
    if options.plan:
        return exporting.preview(options.model, options.profile, **contents)
    if options.path is None:
        return litert.inspect(options.model)
    report = litert.export(
        options.model,
        options.path,
        options.profile,
        verify=not options.no_verify,
        archive=options.archive,
        strict=options.strict,
        inputs=_arrays(options.inputs),
        **contents,
    )
    if options.c_array:
        c_array.write(options.path)
    return report


def _lines(path):
    return None if path is None else pathlib.Path(path).read_text("utf-8").splitlines()


def _arrays(path):
    """The arrays of an .npz file: a dict by name, or the only one; None for no file."""
    if path is None:
        return None
    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no file at {path!r}. Expected an .npz file of arrays.")
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


if __name__ == "__main__":
    sys.exit(main())
