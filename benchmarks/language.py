"""Perplexity and file size of quantized LSTM language models: methods, bits and seeds.

    python -m benchmarks.language --data=data/brown                     # the full size
    python -m benchmarks.language --data=data/tenth --hidden=128 --warm=12 --epochs=8
    python -m benchmarks.language --toy

Each run is one of `training.run` in a folder of its own under --out, from the full-precision model
of its seed, which for comparison is also trained on without quantization. A study that was stopped
goes on with the runs that have no report. The table is that of all finished runs, so that it can be
printed at any time (--table). The test text is scored once, at the end of a run.
"""

import json
import os
import pathlib
import re
import shutil
import statistics
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

WARM_START = "full precision, warm start"
METHODS = {
    "Memory": {"method": "memory"},
    "ProxQuant": {"method": "proxquant"},
    "BinaryConnect, alternating": {"method": "binaryconnect"},
    "PARQ": {"method": "parq"},
}

_DATA = flags.DEFINE_string("data", "grammar", "As --dataset of train.py.")
_OUT = flags.DEFINE_string("out", "runs/language", "Folder of the runs.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.")
_BITS = flags.DEFINE_list("bits", "1,2,3", "Bits per weight.")
_HIDDEN = flags.DEFINE_integer("hidden", 300, "Units of the LSTM, and size of the embedding.")
_WARM = flags.DEFINE_integer("warm", 40, "Epochs in full precision.")
_EPOCHS = flags.DEFINE_integer("epochs", 40, "Epochs of each quantized run.")
_ONLY = flags.DEFINE_string("only", "", "Regex of the methods; the warm start is always there.")
_TABLE = flags.DEFINE_boolean("table", False, "Only print the table of the finished runs.")
_TOY = flags.DEFINE_boolean("toy", False, "One seed, one bit, few epochs, a small model.")


def plan(data, hidden, warm, epochs, seeds, bits):
    """Dict of the settings of each run by (method, bits, seed), full precision first."""
    common = {"model": "lstm", "dataset": data, "hidden": hidden, "quantizer": "multibit"}
    runs = {}
    for seed in range(seeds):
        full = {**common, "method": "full_precision", "seed": seed}
        runs[WARM_START, 32, seed] = {**full, "epochs": warm}
        runs["trained on, full precision", 32, seed] = {
            **full, "epochs": epochs, "decay": "cosine"
        }  # fmt: skip
        for number in bits:
            for name, method in METHODS.items():
                runs[name, number, seed] = {
                    **common, **method, "bits": number, "epochs": epochs, "seed": seed
                }  # fmt: skip
    return runs


def run(settings, folder, start):
    """Trains one model unless its report is there; half a run is begun anew."""
    from tf_proxquant import training

    if (folder / "report.json").exists():
        return
    if folder.exists():
        shutil.rmtree(folder)
    training.run(training.Settings(**settings, workdir=str(folder), init_from=start))


def path_of(out, key):
    """The folder of a run."""
    method, bits, seed = key
    return out / f"{method.split(',')[0].replace(' ', '_').lower()}-{bits}-{seed}"


def table(out, keys):
    """Lines of the table of the finished runs: test perplexity over the seeds, and bytes."""
    groups = {}
    for key in keys:
        path = path_of(out, key) / "report.json"
        if path.exists():
            groups.setdefault(key[:2], []).append(json.loads(path.read_text()))
    yield "| | bits | perplexity | of the .tflite | seeds | bytes, one word | of float |"
    yield "|---|---|---|---|---|---|---|"
    for (method, bits), reports in groups.items():
        kind = "full_precision" if bits == 32 else "quantized"
        scores = f"{kind}_perplexity", "streaming_tflite_perplexity"
        found = [_spread([report[score] for report in reports]) for score in scores]
        size = reports[0]["streaming_tflite_bytes"]
        share = 100 * size / reports[0]["streaming_float_tflite_bytes"]
        cells = [method, str(bits), *found, str(len(reports)), f"{size:,}", f"{share:.1f} %"]
        yield f"| {' | '.join(cells)} |"


def _spread(values):
    spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def main(_):
    out, sizes = pathlib.Path(_OUT.value), (_HIDDEN.value, _WARM.value, _EPOCHS.value)
    seeds, bits = _SEEDS.value, [int(number) for number in _BITS.value]
    with tempfile.TemporaryDirectory() as folder:
        if _TOY.value:
            out, sizes, seeds, bits = pathlib.Path(folder), (16, 1, 2), 1, (2,)
        runs = plan(_DATA.value, *sizes, seeds, bits)
        if _TOY.value:
            runs = dict(list(runs.items())[:3:2])  # the warm start and ProxQuant
        for (method, number, seed), settings in {} if _TABLE.value else runs.items():
            if method != WARM_START and not re.search(_ONLY.value, method):
                continue
            key = (method, number, seed)
            warm = path_of(out, (WARM_START, 32, seed)) / "full_precision.keras"
            start = None if method == WARM_START else str(warm)
            print("==", *key, flush=True)
            run(settings, path_of(out, key), start)
        print("\n".join(table(out, runs)))


if __name__ == "__main__":
    app.run(main)
