"""A run that is killed at twenty random moments, against one that is not."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import keras
import numpy as np

from tests.training_cases import SMALL

ROOT = pathlib.Path(__file__).parents[1]
# An epoch of warm start, two of homotopy, one of fine-tuning behind the freeze; then the export.
SETTINGS = {
    "model": SMALL,
    "method": "memory",
    "quantizer": "binary",
    "edge_bits": 1,
    "full_precision_epochs": 1,
    "epochs": 3,
    "freeze_epoch": 2,
    "batch_size": 128,
}
# The last epoch that was recorded before a kill, by what the kill fell into.
STAGES = {
    "warm start": {"nothing"},
    "homotopy": {"full_precision 0", "quantized 0"},
    "fine-tuning": {"quantized 1", "quantized 2"},
    "export": {"export"},
}


def start(workdir, kills):
    plan = {"workdir": str(workdir), "settings": SETTINGS, "kills": kills}
    return subprocess.Popen(
        [sys.executable, "tests/training_kill_nursery.py", json.dumps(plan)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Returns how each run ended, and shows it: the moments are part of the result."""
    out, errors = process.communicate()
    print(out)
    ends = [json.loads(line) for line in out.splitlines()]
    assert ends and ends[-1]["status"] == 0, errors[-3000:]
    return ends


@unittest.skipIf(not hasattr(os, "fork"), "needs fork")
class KilledRunTest(unittest.TestCase):
    def test_twenty_kills_change_no_bit_of_what_a_run_leaves(self):
        random = np.random.default_rng(184)
        plans = {
            "whole": [],
            "at writes": [["write", int(n)] for n in random.integers(1, 17, 15)],
            "at times": [["seconds", float(t)] for t in random.uniform(0, 1.5, 5).round(2)],
        }
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            running = {name: start(folder / name, kills) for name, kills in plans.items()}
            ends = {name: finish(process) for name, process in running.items()}
            for name in ("at writes", "at times"):
                statuses = [end["status"] for end in ends[name]]
                # A fast machine may be done before the last of the moments.
                self.assertEqual(statuses, [-9] * (len(statuses) - 1) + [0])
                self.check_equal(folder / "whole", folder / name)
            self.assertEqual(len(ends["at writes"]), 16)
            met = {end["after"] for end in ends["at writes"][:-1]}
            for stage, places in STAGES.items():
                self.assertTrue(met & places, f"No kill in the {stage}: {met}")

    def check_equal(self, whole, killed):
        self.assertEqual({p.name for p in killed.iterdir()}, {p.name for p in whole.iterdir()})
        for name in ("metrics.jsonl", "metrics.csv", "histograms.jsonl", "model.tflite"):
            self.assertEqual((killed / name).read_bytes(), (whole / name).read_bytes(), name)
        for name in ("full_precision.keras", "quantized.keras", "model.keras"):
            models = [keras.saving.load_model(folder / name) for folder in (whole, killed)]
            states = [[*model.variables, *model.optimizer.variables] for model in models]
            for one, other in zip(*states, strict=True):
                np.testing.assert_array_equal(
                    keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other), one.path
                )
        reports = [json.loads((folder / "report.json").read_text()) for folder in (whole, killed)]
        for key in set(reports[0]) - {"workdir", "tflite_path", "wall_seconds"}:
            self.assertEqual(reports[0][key], reports[1][key], key)


if __name__ == "__main__":
    unittest.main()
