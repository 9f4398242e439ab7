"""Exports a saved model, or shows what a .tflite file holds.

    python -m tf_proxquant.litert model.keras model.tflite --profile=small
    python -m tf_proxquant.litert model.keras --plan          # what an export would write
    python -m tf_proxquant.litert model.tflite                # what a file holds

The options of `tf_proxquant.export` are flags.
"""

import importlib
import json
import pathlib
import re
import sys
import zipfile

import numpy as np
from absl import flags

from tf_proxquant import litert
from tf_proxquant.litert import c_array, exporting, flagging
from tf_proxquant.quiet import quiet

NAMES_OF_MODULES = r"(?m)^  \S+:\n"


def define_flags():
    """Returns `absl.flags.FlagValues`: what the command takes beside paths, with the defaults."""
    values = flags.FlagValues()
    values.set_gnu_getopt()
    flagging.define_options(values)
    flags.DEFINE_alias("data", "representative_data", flag_values=values)
    for name, text in (
        ("plan", "Print what the export would do, and write nothing."),
        ("c_array", "Also write the file as an array of C, a .h beside it."),
        ("json", "Print the report as JSON."),
        ("help", "Show this."),
    ):
        flags.DEFINE_boolean(name, False, text, values)
    text = "Module that registers custom layers; may be given several times."
    flags.DEFINE_multi_string("import", [], text, values)
    return values


def main(arguments=None):
    """Runs the command; returns its exit status: 1 for what cannot be done, 2 for wrong usage."""
    values = define_flags()
    try:
        paths = values(["", *(sys.argv[1:] if arguments is None else arguments)])[1:]
        if values.help:
            print(f"{__doc__}\nFlags:\n{re.sub(NAMES_OF_MODULES, '', values.get_help('  '))}")
            return 0
        _check(values, paths)
    except flags.Error as error:
        print(f"error: {error} See python -m tf_proxquant.litert --help.", file=sys.stderr)
        return 2
    try:
        for module in values["import"].value:
            importlib.import_module(module)
        report = _run(values, *paths)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report.to_dict(), indent=1) if values.json else report)
    return 0


def _check(values, paths):
    """Raises flags.Error for paths that do not go with the flags."""
    if len(paths) not in (1, 2):
        raise flags.Error(f"Give a model and perhaps the file to write. Received: {paths}.")
    if values.plan and len(paths) == 2:
        raise flags.Error("--plan writes nothing: leave the second path out.")
    if values.c_array and len(paths) == 1:
        raise flags.Error("--c_array needs the path of the file to write.")
    if values.plan or len(paths) == 2:
        return
    given = flagging.given(values)
    if given:
        raise flags.Error(
            f"--{given[0]} says how to export: give the path of the file to write too, or --plan."
        )
    if pathlib.Path(paths[0]).suffix in (".keras", ".h5"):
        raise flags.Error(
            f"{paths[0]} is to be exported: give the path of the file to write too, or --plan."
        )


def _run(values, model, path=None):
    if path is None and not values.plan:
        return litert.inspect(model)
    options = flagging.options(values, {"npz": _arrays, "txt": _lines})
    if values.plan:
        deciding = options.keys() - exporting.ONLY_WRITING
        return exporting.preview(model, **{name: options[name] for name in deciding})
    report = litert.export(model, path, **options)
    if values.c_array:
        c_array.write(path)
    return report


def _lines(path):
    """The lines of a text file, also of one that begins with a byte order mark."""
    if not pathlib.Path(path).is_file():
        raise ValueError(
            f"There is no file at {path!r}. Expected a text file, a name in each line."
        )
    try:
        return pathlib.Path(path).read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected a text file in UTF-8. Received: {path!r} ({error}).") from error


def _arrays(path):
    """The arrays of an .npz file: a dict by name, or the only one."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no file at {path!r}. Expected an .npz file of arrays.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"Expected an .npz file of arrays, as numpy.savez writes it. Received: {path!r}"
        )
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except ValueError as error:
        raise ValueError(
            f"Expected an .npz file of arrays of numbers. Received: {path!r} ({error})."
        ) from error
    if not arrays:
        raise ValueError(f"Expected an .npz file of arrays. Received: {path!r}, which holds none.")
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


if __name__ == "__main__":
    with quiet():
        sys.exit(main())
