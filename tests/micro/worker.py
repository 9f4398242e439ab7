"""Runs .tflite files in tflite-micro, or compiles them for an Ethos-U: knows nothing of the rest.

    python worker.py micro|vela FILE.tflite ...

Beside each FILE.tflite lies FILE.npz with one array of integers, samples first. The outputs of
tflite-micro go to FILE.micro.npz. One line of JSON for each file: [path, dict of what was found],
{"error": ...} where it was refused.
"""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

ARENA = 1 << 22
ALLOCATED = re.compile(r"Arena allocation total (\d+) bytes")
ACCELERATOR = "ethos-u55-128"


def micro(path):
    """Runs every sample; {"arena": bytes}."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(path), arena_size=ARENA)
    with np.load(path.with_suffix(".npz")) as arrays:
        (inputs,) = (arrays[name] for name in arrays.files)
    outputs = []
    for sample in inputs:
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0))
    np.savez(path.with_suffix(".micro.npz"), np.concatenate(outputs))
    return {"arena": int(ALLOCATED.search(_printed(interpreter.print_allocations)).group(1))}


def _printed(function):
    """What a function of C++ prints to the standard error."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            function()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        log.seek(0)
        return log.read().decode()


def vela(path):
    """What vela estimates: KiB of flash and SRAM, cycles, milliseconds, operators by processor."""
    command = [str(pathlib.Path(sys.executable).with_name("vela")), str(path)]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--output-dir", folder, "--accelerator-config", ACCELERATOR]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(said.strip().splitlines()[-1])
        (summary,) = pathlib.Path(folder).glob("*_summary_*.csv")
        (row,) = csv.DictReader(summary.read_text().splitlines())
    count = {kind: re.search(rf"{kind} operators = (\d+)", said) for kind in ("NPU", "CPU")}
    return {
        "flash": float(row["off_chip_flash_memory_used"]),
        "sram": float(row["sram_memory_used"]),
        "cycles": float(row["cycles_total"]),
        "ms": 1e3 * float(row["inference_time"]),
        "weights": [float(row["total_original_weights"]), float(row["total_npu_encoded_weights"])],
        "operators": [int(match.group(1)) if match else 0 for match in count.values()],
    }


def main(name, *paths):
    for path in map(pathlib.Path, paths):
        try:
            found = {"micro": micro, "vela": vela}[name](path)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps([str(path), found]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
