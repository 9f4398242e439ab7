"""Which version of the runtime is the oldest that reads the files of each profile.

    make test-runtimes

Installs old runtimes (x86-64, Python 3.11) side by side in .runtimes, 1.3 GB, and gives each two
networks in every profile, a table each. A cell is the largest difference from Keras over the
largest output; "no" is a refusal when the file is loaded, which an application sees; "fails" one
when it runs; bold is an output that is wrong. The exit status is 1 where today's runtime does not
read a file.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import keras
import numpy as np

import tf_proxquant as pq
from tests.arm import run as arm

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / ".runtimes"
WORKER = pathlib.Path(__file__).with_name("worker.py")
RUNTIMES = (
    "tflite-runtime==2.14.0",
    "ai-edge-litert==1.0.1",
    "ai-edge-litert==1.1.2",
    "ai-edge-litert==1.4.0",
    "ai-edge-litert==2.0.3",
    "ai-edge-litert==2.1.0",
    "ai-edge-litert==2.1.3",
    "ai-edge-litert==2.3.0",
)
# What came out before NumPy 2 asks for NumPy 1.
OLD_NUMPY = ("tflite-runtime==2.14.0", "ai-edge-litert==1.0.1")
WAYS = {
    "fast": {},
    "portable": {},
    "float16": {"profile": "fast", "constants": "float16"},
    "small": {},
    "balanced": {},
    "dynamic": {},
    "dynamic, 2 bits": {"profile": "dynamic", "dense_bits": 2},
    "static": {},
    "static, int4": {"profile": "static", "weights": "int4"},
}
ROUNDED = 0.1
EXACT = 1e-4


def export(name, folder):
    """{way: path} of the files of a network, inputs and outputs of Keras beside each."""
    files = {}
    keras.utils.set_random_seed(0)
    model, inputs = arm.NETWORKS[name]()
    (values,) = inputs.values()
    values = values.astype(model.inputs[0].dtype)
    expected = keras.ops.convert_to_numpy(model(values))
    for way, options in WAYS.items():
        options = {"profile": way, "batch_size": 1, **options}
        if options["profile"] == "static":
            options["representative_data"] = values
        path = folder / f"{name}-{way.replace(', ', '-')}.tflite"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pq.export(model, path, **options)
        edge = pq.inspect(path).inputs[0].name
        np.savez(path.with_suffix(".npz"), expected=expected, **{edge: values})
        files[way] = path
    return files


def install(runtime):
    """The folder of a runtime with what it needs; None where it cannot be installed."""
    target = FOLDER / runtime.replace("==", "-")
    if not (target / "done").exists():
        packages = [runtime, "numpy<2" if runtime in OLD_NUMPY else "numpy"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "--target", target, *packages], check=False)
        if done.returncode:
            return None
        (target / "done").touch()
    return target


def ask(runtime, paths):
    """{path: error or what was said}; what is missing ended the process."""
    target = install(runtime)
    if target is None:
        return None
    found = {}
    for path in paths:  # one process each, for a crash
        done = subprocess.run(
            [sys.executable, "-S", WORKER, path], env={"PYTHONPATH": str(target)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        line = done.stdout.splitlines()
        found[path] = json.loads(line[-1])[1] if line else "crashes"
    return found


def cell(way, answer):
    """One cell of the table."""
    if isinstance(answer, str):
        is_at_load = "Didn't find op" in answer or "Registration failed" in answer
        return "no" if is_at_load else "fails"
    limit = ROUNDED if way.split(",")[0] in ("dynamic", "static", "float16") else EXACT
    return f"{answer:.0e}" if answer <= limit else f"**{answer:.0e}**"


def table(name, folder):
    """Prints the table of a network; returns the cells of the last runtime."""
    files, cells = export(name, folder), []
    print(f"| {name} | " + " | ".join(WAYS) + " |\n|" + "---|" * (len(WAYS) + 1))
    for runtime in RUNTIMES:
        found = ask(runtime, files.values())
        if found is None:
            print(f"| {runtime} | not installed |")
            continue
        cells = [cell(way, found[path]) for way, path in files.items()]
        print(f"| {runtime} | " + " | ".join(cells) + " |", flush=True)
        for path, said in found.items():
            if isinstance(said, str):
                print(f"  {runtime} {path.stem}: {said[:200]}", file=sys.stderr)
    return cells


def main():
    with tempfile.TemporaryDirectory() as folder:
        cells = [c for name in arm.NETWORKS for c in table(name, pathlib.Path(folder))]
    return 0 if all(c[0].isdigit() for c in cells) else 1


if __name__ == "__main__":
    sys.exit(main())
