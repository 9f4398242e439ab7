"""Runs .tflite files in whatever runtime is on the path: python worker.py FILE.tflite ...

Beside each file lies FILE.npz: inputs by the names of the signature, and "expected". One line of
JSON for each file: [path, largest difference over the largest expected value, or what was said].
"""

import json
import pathlib
import sys

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter


def error_of(path):
    with np.load(path.with_suffix(".npz")) as stored:
        inputs = {name: stored[name] for name in stored.files}
    expected = inputs.pop("expected")
    runner = Interpreter(model_path=str(path), num_threads=1).get_signature_runner()
    rows = [
        next(iter(runner(**{name: x[i : i + 1] for name, x in inputs.items()}).values()))
        for i in range(len(expected))
    ]
    difference = np.abs(np.concatenate(rows) - expected).max()
    return float(difference / np.abs(expected).max())


for name in map(pathlib.Path, sys.argv[1:]):
    try:
        found = error_of(name)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    print(json.dumps([str(name), found]), flush=True)
