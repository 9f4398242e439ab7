"""Runs every .tflite of a folder on the inputs beside it; needs LiteRT and NumPy alone.

    python worker.py FOLDER MACHINE

For each NAME.tflite with inputs NAME.inputs.npz, named by the signature, it writes the outputs on
XNNPACK and on the builtin kernels to NAME.MACHINE.npz, and the processor's architecture.
"""

import pathlib
import platform
import sys

import numpy as np
from ai_edge_litert import interpreter as litert

RESOLVERS = {
    "xnnpack": litert.OpResolverType.AUTO,
    "builtin": litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


def run(path, inputs, resolver):
    """Outputs of a file, one call for each example: array (examples, ..)."""
    interpreter = litert.Interpreter(
        model_path=str(path), experimental_op_resolver_type=resolver, num_threads=1
    )
    runner = interpreter.get_signature_runner()
    (output,) = runner.get_output_details()
    count = len(next(iter(inputs.values())))
    rows = [{name: x[i : i + 1] for name, x in inputs.items()} for i in range(count)]
    return np.concatenate([runner(**row)[output] for row in rows])


def main(folder, machine):
    for path in sorted(pathlib.Path(folder).glob("*.tflite")):
        with np.load(path.with_suffix(".inputs.npz")) as stored:
            inputs = dict(stored)
        found = {name: run(path, inputs, resolver) for name, resolver in RESOLVERS.items()}
        np.savez(path.with_suffix(f".{machine}.npz"), architecture=platform.machine(), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
