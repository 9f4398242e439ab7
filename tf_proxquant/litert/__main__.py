"""Exports a saved model, or shows what a .tflite file holds.

python -m tf_proxquant.litert model.keras model.tflite --profile=small
python -m tf_proxquant.litert model.tflite
"""

import argparse
import importlib
import json
import pathlib
import sys

from tf_proxquant import litert
from tf_proxquant.litert import plan


def parse_arguments(arguments=None):
    """Command line to a namespace."""
    parser = argparse.ArgumentParser(
        prog="python -m tf_proxquant.litert",
        description="Export a .keras model to a low-bit .tflite file, or inspect such a file.",
    )
    parser.add_argument("model", help=".keras, .h5 or .tflite file")
    parser.add_argument("path", nargs="?", help="the .tflite file to write; without it, inspect")
    parser.add_argument("--profile", default="fast", help=f"one of {sorted(plan.PROFILES)}")
    parser.add_argument("--batch_size", type=int, help="fix the batch dimension")
    parser.add_argument("--max_slowdown", type=float, help="latency allowed over the float file")
    parser.add_argument("--archive", action="store_true", help="also write a .pqz archive")
    parser.add_argument("--no_verify", action="store_true", help="skip the checks")
    parser.add_argument("--labels", help="text file: the name of each class, one in a line")
    parser.add_argument("--vocabulary", help="text file: the word of each number, one in a line")
    parser.add_argument(
        "--value_range", nargs=2, type=float, metavar=("LOWEST", "HIGHEST"),
        help="values of the images that the model takes; default: 0 255",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="module that registers custom layers; may be given several times",
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """Runs the command; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        for module in options.modules:
            importlib.import_module(module)
        report = litert.inspect(options.model) if options.path is None else _export(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report.to_dict(), indent=1) if options.json else report)
    return 0


def _export(options):
    return litert.export(
        options.model,
        options.path,
        options.profile,
        verify=not options.no_verify,
        archive=options.archive,
        batch_size=options.batch_size,
        max_slowdown=options.max_slowdown,
        labels=_lines(options.labels),
        vocabulary=_lines(options.vocabulary),
        value_range=options.value_range,
    )


def _lines(path):
    return None if path is None else pathlib.Path(path).read_text("utf-8").splitlines()


if __name__ == "__main__":
    sys.exit(main())
