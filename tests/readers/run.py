"""Whether the programs that read .tflite files compute from ours what Keras computes.

    make test-readers                                     # two networks, every profile
    make test-readers ARGS="--networks=unet,two_towers --profiles=float,portable"
    make test-readers ARGS=--write                        # and put the table into docs/readers.md

Each reader gets each file in a process of its own. A reader may refuse a file; one that computes
something else fails the run, but for those of KNOWN, which the documentation and the report name.
The recipes of docs/readers.md are run too.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import warnings
from typing import NamedTuple

import keras
import numpy as np

import tf_proxquant as pq
from tests.readers import networks, page
from tf_proxquant import litert
from tf_proxquant.litert import metadata
from tf_proxquant.litert.read import convert

ROOT = pathlib.Path(__file__).parents[2]
WORKER = pathlib.Path(__file__).with_name("worker.py")
OURS = ("litert", "compiled_model")
SAMPLES = 4
LIMIT = 1e-4
RECIPE_LIMIT = 1e-6
# Where activations or weights are rounded the readers round a little differently.
ROUNDING = 3.0
# Of `balanced` only where it is as `fast`, without convolutions.
ROUNDS_INPUTS = "rounds inputs of dense layers to 8 bits, unless told not to: see below"
KNOWN = {
    ("openvino", "float"): "leaves out activations fused into transposed convolutions",
    ("tflite_micro", "fast"): "applies the scale of the first channel to all",
    ("openvino", "fast"): ROUNDS_INPUTS,
    ("openvino", "balanced"): ROUNDS_INPUTS,
    ("onnxruntime", "fast"): ROUNDS_INPUTS,
    ("onnxruntime", "balanced"): ROUNDS_INPUTS,
}
REASONS = (
    (r"KeyError: 1[79]|Unexpected type|Unsupported type|not supported for type", "int4 or int2"),
    (r"Failed to populate a temp TfLiteTensor", "int4 or int2"),
    (r"DEQUANTIZE \(number \d+\) failed to prepare", "float16"),
    (r"no 'name'|'NoneType' object has no attribute 'decode'", "tensors without names"),
    (r"no operator on the NPU", "all operators stay on the CPU"),
    (r"Hybrid models are not supported", "dynamic activations"),
    (r"TFL_(\w+)", r"operator \1"),
    (r"Didn't find op for builtin opcode '(\w+)'", r"operator \1"),
    (r"crashes with \w+|vela ended with status -\d+", "crashes"),
    (r"IndexError: map::at", "ends with IndexError"),
    (r"hangs", "hangs"),
    (r"(\w+) '\S+' Does not have valid TFLite Semantic", r"operator \1"),
    (r"Requested one of these types: uint8/float32, got INT8", "takes no int8"),
)


class Case(NamedTuple):
    """A file for the readers, and what comes out of Keras: arrays in the order of the file."""

    network: str
    profile: str
    path: pathlib.Path
    expected: list
    edges: tuple


def make_cases(name, profiles, folder):
    """Exports a network in each profile; writes inputs beside each file."""
    model, data = networks.make(name)
    labels = networks.LABELS if model.outputs[0].shape[-1] == len(networks.LABELS) else None
    source = folder / f"{name}.float.tflite"
    source.write_bytes(convert.convert(model)[0])
    first = [each[:SAMPLES] for each in data]
    results = keras.tree.flatten(model(first[0] if len(first) == 1 else first))
    expected = [keras.ops.convert_to_numpy(each) for each in results]
    for profile in profiles:
        path = folder / f"{name}-{profile}.tflite"
        export(source, path, profile, labels, data)
        report = litert.inspect(path)
        arrays = [encode(x, edge) for x, edge in zip(first, report.inputs, strict=True)]
        np.savez(path.with_suffix(".npz"), *arrays)
        yield Case(name, profile, path, expected, report.outputs)


def export(source, path, profile, labels, data):
    """Writes one file from the float file, which is made once."""
    if profile == "float":
        content = source.read_bytes()
        path.write_bytes(metadata.attach(content, labels=labels) if labels else content)
        return
    name, options = page.OPTIONS.get(profile, (profile, {}))
    if name == "static":
        options = {**options, "representative_data": data}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pq.export(source, path, name, labels=labels, **options)


def encode(values, edge):
    """Real values as the integers that a file takes, where it takes such."""
    if edge.scale is None:
        return values.astype(edge.dtype)
    limits = np.iinfo(edge.dtype)
    return (
        np.rint(values / edge.scale + edge.zero_point)
        .clip(limits.min, limits.max)
        .astype(edge.dtype)
    )


def decode(values, edge):
    if edge.scale is None:
        return values
    return edge.scale * (values.astype(np.float32) - edge.zero_point)


def ask(reader, cases, python):
    """Yields (case, kind, what was said) of one reader."""
    by_path = {str(case.path): case for case in cases}
    done = subprocess.run(
        [python, str(WORKER), reader, *by_path], capture_output=True, text=True, check=False
    )
    for line in done.stdout.splitlines():
        path, kind, said = json.loads(line)
        if kind == "missing":
            raise RuntimeError(f"{reader} cannot be imported: {said}")
        yield by_path[path], kind, said
    if done.returncode:
        raise RuntimeError(f"{reader} ended with status {done.returncode}: {done.stderr[-2000:]}")


def error_of(case, reader):
    """Largest difference to Keras over the largest output; inf where shapes differ."""
    with np.load(case.path.with_suffix(f".{reader}.npz")) as arrays:
        found = [arrays[key] for key in arrays.files]
    worst = 0.0
    for values, edge, expected in zip(found, case.edges, case.expected, strict=True):
        if values.shape != expected.shape or not np.isfinite(values).all():
            return np.inf
        values = values if reader == "mediapipe" else decode(values, edge)
        worst = max(worst, float(np.abs(values - expected).max() / np.abs(expected).max()))
    return worst


def judge(reader, case, kind, said, runtime_error):
    """A `page.Answer`.

    Args:
      reader: its name.
      case: `Case`.
      kind: "ran", "read" or "refused".
      said: by the reader.
      runtime_error: that of LiteRT on this file.
    """
    if kind == "read":
        return page.Answer(said)
    if kind == "refused":
        return page.Answer("no", reason(said))
    error = error_of(case, reader)
    is_rounded = case.profile.startswith(("dynamic", "static", "float16"))
    limit = max(LIMIT, ROUNDING * runtime_error) if is_rounded else LIMIT
    if error <= limit:
        return page.Answer(f"{error:.0e}")
    return page.Answer(f"**{error:.0e}**", KNOWN.get((reader, case.profile), "WRONG"))


def reason(said):
    """A refusal in a few words."""
    for pattern, words in REASONS:
        match = re.search(pattern, said)
        if match:
            return match.expand(words)
    return said.splitlines()[0][:120]


def ask_all(cases, python):
    """Answers of every reader: dict {(reader, network, profile): `page.Answer`}."""
    runtime_errors, answers = {}, {}

    def hear(reader):
        return reader, list(ask(reader, cases, sys.executable if reader in OURS else python))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        heard = list(pool.map(hear, page.READERS))
    for reader, said_of_cases in heard:
        for case, kind, said in said_of_cases:
            key = case.network, case.profile
            if reader == "litert" and kind == "ran":
                runtime_errors[key] = error_of(case, reader)
            answer = judge(reader, case, kind, said, runtime_errors.get(key, 0.0))
            answers[reader, *key] = answer
            print(f"{reader:20}{case.network:12}{case.profile:13}{answer}", flush=True)
    return answers


def try_recipes(cases, python):
    """Runs the recipes of the page on files of one input; yields what is wrong with them."""
    cases = [case for case in cases if case.profile in ("fast", "portable")]
    cases = [case for case in cases if len(litert.inspect(case.path).inputs) == 1]
    for name, code in page.recipes().items():
        for case in cases:
            case.path.with_suffix(".py").write_text(code.replace("model.tflite", case.path.name))
        for case, kind, said in ask("recipe", cases, python):
            error = error_of(case, "recipe") if kind == "ran" else np.inf
            print(f"recipe {name:13}{case.network:12}{case.profile:12}{error:.0e}", flush=True)
            if error > RECIPE_LIMIT:
                yield f"recipe {name}, {case.network}, {case.profile}: {error:.0e} {said}"


def main():
    arguments = parse()
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        profiles = arguments.profiles.split(",")
        cases = [
            case
            for name in arguments.networks.split(",")
            for case in make_cases(name, profiles, folder)
        ]
        print(f"{len(cases)} files after {time.time() - start:.0f} s", flush=True)
        answers = ask_all(cases, arguments.python)
        failures = [(*key, answer.cell) for key, answer in answers.items() if answer.why == "WRONG"]
        failures += try_recipes(cases, arguments.python)
    print(page.tables(answers))
    if arguments.write:
        page.write(answers)
    for failure in failures:
        print("WRONG:", failure)
    print(f"{len(answers)} answers, {len(failures)} of them wrong, {time.time() - start:.0f} s")
    sys.exit(bool(failures))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default="resnet,mobile")
    parser.add_argument("--profiles", default=",".join(page.PROFILES))
    parser.add_argument("--python", default=str(ROOT / ".venv-readers" / "bin" / "python"))
    parser.add_argument("--write", action="store_true", help="put the table into docs/readers.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
