"""Recipes are flag files that train.py takes."""

import copy
import pathlib
import unittest

from absl import flags

import train

ROOT = pathlib.Path(__file__).parents[1]


class RecipesTest(unittest.TestCase):
    def test_every_recipe_gives_settings_and_those_of_the_lstm_are_what_their_names_say(self):
        found = {}
        for path in sorted((ROOT / "recipes").glob("*.flags")):
            values = copy.deepcopy(flags.FLAGS)
            values(["train.py", f"--flagfile={path}"])
            settings = train.settings(values)
            found[path.name] = (settings.model, settings.method, settings.bits, settings.epochs)
        for bits in (1, 2, 3):
            for method in ("proxquant", "binaryconnect", "parq"):
                name = f"lstm_{bits}bit_{method}.flags"
                self.assertEqual(found[name], ("lstm", method, bits, 40))
