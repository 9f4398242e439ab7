"""Static files in tflite-micro and in Arm's vela, against LiteRT's builtin kernels.

    make test-micro                                  # all networks, quantizers and storages
    make test-micro ARGS="--networks=ds_cnn,odd"

tflite-micro must give the scores of LiteRT to within four codes, of `weights="tables"` those of 8
bits, or refuse a file of which the report says so; vela must place every operator of
`weights="int8"` on the NPU. Prints a table: the error of LiteRT against Keras, the codes by which
tflite-micro differs from LiteRT, operators on the NPU + the CPU, KiB of flash and cycles by vela.
The exit status is 1 if something differs by too much.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import tf_proxquant as pq
from tests.micro import networks
from tf_proxquant import litert
from tf_proxquant.litert import plan

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = ROOT / ".venv-micro" / "bin" / "python"
WORKER = pathlib.Path(__file__).with_name("worker.py")
SAMPLES = 6
CODES = 4
HEADER = """\
| network | weights | bytes | arena | error, LiteRT | codes, micro | NPU + CPU | flash | cycles |
|---|---|---|---|---|---|---|---|---|"""


def export(name, quantizer, folder):
    """Yields (path, weights, report) of the files of a network, with inputs beside them."""
    model, data = networks.make(name, quantizer)
    for weights in plan.WEIGHTS:
        path = folder / f"{name}-{quantizer.replace(' ', '')}-{weights}.tflite"
        options = {"representative_data": data, "io": "int8", "batch_size": 1}
        report = pq.export(model, path, "static", weights=weights, **options)
        write_inputs(path, data[:SAMPLES], report)
        yield path, weights, report


def write_inputs(path, values, report):
    """Writes real samples beside a file as the codes that it takes."""
    (edge,) = report.inputs
    codes = np.rint(values / edge.scale + edge.zero_point).clip(-128, 127)
    np.savez(path.with_suffix(".npz"), codes.astype(np.int8))


def ask(name, paths, python=PYTHON):
    """{path: what was found} of the worker; a file that ends the process is found to crash."""
    done = subprocess.run(
        [python, WORKER, name, *paths], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    found = {pathlib.Path(path): said for path, said in map(json.loads, done.stdout.splitlines())}
    return {path: found.get(path, {"error": "crashes"}) for path in paths}


def outputs_of(path, wide):
    """(what tflite-micro gives, what LiteRT gives for the file of 8 bits or the path itself)."""
    with np.load(path.with_suffix(".micro.npz")) as arrays:
        micro = arrays["arr_0"].astype(int)
    with np.load(path.with_suffix(".npz")) as arrays:
        codes = arrays["arr_0"]
    runner = litert.Runner(wide.read_bytes(), "builtin")
    (name,) = runner.input_names
    rows = [next(iter(runner({name: code[None]}).values())) for code in codes]
    return micro, np.concatenate(rows).astype(int)


def check(path, weights, report, micro, vela):
    """(cells of a row, complaints) of one file."""
    complaints, difference = [], "-"
    if "error" in micro:
        difference = "refused"
        if not any("tflite-micro has no" in note for note in report.notes):
            complaints.append(micro["error"])
    else:
        wide = path if weights == "int4" else path.with_name(path.name.replace("tables", "int8"))
        found, expected = outputs_of(path, wide)
        difference = int(np.abs(found - expected).max())
        if difference > CODES:
            complaints.append(f"differs by {difference} codes")
    cells = [f"{path.stat().st_size:,}", f"{micro.get('arena', 0):,}", f"{report.max_error:.0e}"]
    cells.append(str(difference))
    if weights != "int8":
        return [*cells, "-", "-", "-"], complaints
    if "error" in vela:
        return [*cells, "refused", "-", "-"], [*complaints, f"vela: {vela['error']}"]
    npu, cpu = vela["operators"]
    if cpu:
        complaints.append(f"vela leaves {cpu} operators to the CPU")
    return [*cells, f"{npu} + {cpu}", f"{vela['flash']:.1f}", f"{vela['cycles']:,.0f}"], complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(networks.NETWORKS))
    parser.add_argument("--quantizers", default=",".join(networks.QUANTIZERS))
    options = parser.parse_args()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        files = [
            entry
            for name in options.networks.split(",")
            for quantizer in options.quantizers.split(",")
            for entry in export(name, quantizer, pathlib.Path(folder))
        ]
        micro = ask("micro", [path for path, _, _ in files])
        vela = ask("vela", [path for path, weights, _ in files if weights == "int8"])
        print(HEADER)
        for path, weights, report in files:
            cells, complaints = check(path, weights, report, micro[path], vela.get(path))
            print("| " + " | ".join([path.stem.rsplit("-", 1)[0], weights, *cells]) + " |")
            failures += [f"{path.stem}: {complaint}" for complaint in complaints]
    for failure in failures:
        print("WRONG:", failure)
    print(f"{len(files)} files, {len(failures)} complaints")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
