"""How long exported files take in a browser and in the interpreter here: a table, Markdown.

    python -m tests.web.latency

Two networks with binary kernels, batch 1, one thread, every profile in turns with the float file;
the smallest of 40 means of at least 8 ms each. The time in the browser includes the copies in
and out that a page makes.
"""

import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

import tf_proxquant as pq
from tests.web.opened import opened

PROFILES = ("fast", "portable", "balanced", "small", "dynamic", "static")
NETWORKS = {"ResNet-8, 8 x 8 x 1": (8, (8, 8, 1)), "ResNet-20, 32 x 32 x 3": (20, (32, 32, 3))}
ROUNDS, SECONDS = 40, 0.008
# Milliseconds of a run on random input, and the outputs, of the file at `address`.
TIME = """
(async () => {
  const {Tensor, loadAndCompile} = await import("@litertjs/core");
  const address = "%s", [input, shape] = [new Float32Array(%s), %s];
  const models = window.models ??= {};
  models[address] ??= await loadAndCompile(address, {accelerator: "wasm"});
  const run = async () => {
    const tensor = new Tensor(input, shape);
    const outputs = await models[address].run(tensor);
    const values = outputs[0].toTypedArray();
    for (const each of [tensor, ...outputs]) each.delete();
    return values;
  };
  const values = Array.from(await run());
  let count = 0;
  const start = performance.now();
  do { await run(); count++; } while (performance.now() - start < %s);
  return [(performance.now() - start) / count, values];
})()
"""


def export(size, shape, folder):
    """Writes the network as a float file and in every profile; returns {name: path}."""
    keras.utils.set_random_seed(0)
    model = pq.models.resnet(size, shape, 10)
    files = {"float": folder / f"{size}-float.tflite"}
    pq.export(model, files["float"], batch_size=1, verify=False)
    pq.snap(model, pq.Binary("mean", axis=-1))
    data = np.random.default_rng(0).uniform(size=(8, *shape)).astype("float32")
    for profile in PROFILES:
        files[profile] = folder / f"{size}-{profile}.tflite"
        options = {"representative_data": data} if profile == "static" else {}
        pq.export(model, files[profile], profile, batch_size=1, verify=False, **options)
    return files, data[:1]


def time_here(interpreter, data):
    """Returns (milliseconds of a run, outputs) of the interpreter, copies in and out included."""
    given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run():
        interpreter.set_tensor(given[0]["index"], data)
        interpreter.invoke()
        return interpreter.get_tensor(given[1]["index"])

    values, count, start, taken = run(), 0, time.perf_counter(), 0.0
    while taken < SECONDS:
        run()
        count += 1
        taken = time.perf_counter() - start
    return 1000 * taken / count, values


def measure(page, address, files, data, rounds=ROUNDS):
    """Returns {name: (milliseconds in the browser, here, largest difference of the outputs)}.

    Args:
      page: `Browser` that shows the demo page.
      address: of the folder that holds the files, with a slash.
      files: {name: path}.
      data: input of each file.
      rounds: of turns.
    """
    found = {name: [np.inf, np.inf, 0.0] for name in files}
    shape = list(data.shape)
    interpreters = {name: Interpreter(str(path), num_threads=1) for name, path in files.items()}
    for interpreter in interpreters.values():
        interpreter.allocate_tensors()
    for _ in range(rounds):
        for name, path in files.items():
            script = TIME % (address + path.name, data.ravel().tolist(), shape, 1000 * SECONDS)
            there, values = page.evaluate(script)
            here, expected = time_here(interpreters[name], data)
            error = np.abs(values - expected).max() / np.abs(expected).max()
            best, best_here, worst = found[name]
            found[name] = [min(best, there), min(best_here, here), max(worst, error)]
    return found


def main():
    with opened("Nothing was measured") as (page, address, site):
        page.evaluate("demo.ready")
        print(page.send("Browser.getVersion")["product"])
        print("| network | file | bytes | browser ms | interpreter ms | difference |")
        print("|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory(dir=site) as folder:
            place = f"{address}{pathlib.Path(folder).name}/"
            for name, (size, shape) in NETWORKS.items():
                files, data = export(size, shape, pathlib.Path(folder))
                for file, (there, here, error) in measure(page, place, files, data).items():
                    cells = f"{there:.3g} | {here:.3g} | {error:.0e}"
                    print(f"| {name} | {file} | {files[file].stat().st_size:,} | {cells} |")


if __name__ == "__main__":
    main()
