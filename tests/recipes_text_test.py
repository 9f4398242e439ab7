"""Recipes are flag files that train.py takes."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).parents[1]
PARSE = """
import copy, json, sys, train
from absl import flags
found = {}
for path in sys.argv[1:]:
    values = copy.deepcopy(flags.FLAGS)
    values(["train.py", "--flagfile=" + path])
    settings = train.settings(values)
    found[path] = [settings.model, settings.method, settings.bits, settings.epochs]
print(json.dumps(found))
"""


class RecipesTest(unittest.TestCase):
    def test_every_recipe_gives_settings_and_those_of_the_lstm_are_what_their_names_say(self):
        paths = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("*.flags"))
        result = subprocess.run(
            [sys.executable, "-c", PARSE, *paths],
            cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.assertEqual(result.returncode, 0, result.stderr)
        found = json.loads(result.stdout.splitlines()[-1])
        for bits in (1, 2, 3):
            for method in ("proxquant", "binaryconnect", "parq"):
                name = f"recipes/lstm_{bits}bit_{method}.flags"
                self.assertEqual(found[name], ["lstm", method, bits, 40])
