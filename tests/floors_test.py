"""The order of the rooms: each imports only rooms on lower floors."""

import ast
import os
import pathlib
import subprocess
import sys
import unittest

PACKAGE = pathlib.Path(__file__).parents[1] / "tf_proxquant"

FLOORS = {
    "typing": -1,
    "checks": -1,
    "describing": -1,
    "quiet": -1,
    "quantizers": 0,
    "prox": 0,
    "schedules": 0,
    "selection": 0,
    "packing": 0,
    "files": 0,
    "models": 0,
    "datasets": 0,
    "optimizers": 1,
    "metrics": 1,
    "litert": 1,
    "callbacks": 2,
    "sensitivity": 2,
    "snapping": 2,
    "plot": 2,
    "training": 3,
}
MAY_IMPORT_TENSORFLOW = ("litert", "datasets")
# Where TensorFlow is the backend, and so imported already.
BEHIND_A_CHECK = ("optimizers/graphs.py", "training/distribution.py")
LITERT_MAY_IMPORT = {"quantizers", "packing", "files", "quiet", "typing"}


def rooms():
    """Yields (room, path, syntax tree) of every module in a room."""
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path, ast.parse(path.read_text())


def imported_modules(tree):
    """Yields (dotted name, node) of everything imported, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


class FloorsTest(unittest.TestCase):
    def test_every_room_has_a_floor(self):
        self.assertEqual({room for room, _, _ in rooms()}, set(FLOORS))

    def test_a_room_imports_only_rooms_below_it(self):
        for room, path, tree in rooms():
            for name, _ in imported_modules(tree):
                parts = name.split(".")
                if parts[0] == "tf_proxquant" and parts[1] != room:
                    self.assertIn(parts[1], FLOORS, f"{path}: import the room, not {name}")
                    self.assertLess(FLOORS[parts[1]], FLOORS[room], f"{path} imports {name}")
                    if room == "litert":
                        self.assertIn(parts[1], LITERT_MAY_IMPORT, f"{path} imports {name}")

    def test_tensorflow_is_imported_only_where_allowed_and_only_when_called(self):
        for room, path, tree in rooms():
            at_import = {id(node) for node in tree.body}
            for name, node in imported_modules(tree):
                if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
                    if path.relative_to(PACKAGE).as_posix() not in BEHIND_A_CHECK:
                        self.assertIn(room, MAY_IMPORT_TENSORFLOW, f"{path} imports {name}")
                    self.assertNotIn(id(node), at_import, f"{path} imports {name} at once")

    def test_on_jax_the_package_works_where_tensorflow_and_litert_are_not_installed(self):
        code = (
            "import sys\n"
            "for name in ('tensorflow', 'ai_edge_litert', 'tensorflow_datasets', 'flatbuffers'):\n"
            "    sys.modules[name] = None\n"
            "import keras, numpy, tf_proxquant as pq\n"
            "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])\n"
            "model.compile(pq.ProxQuant('adam', pq.Binary(), 1.0, freeze_step=1), 'mse')\n"
            "model.fit(numpy.ones((8, 4)), numpy.ones((8, 2)), verbose=0)\n"
            "import tf_proxquant.training\n"
            "print(sorted(set(numpy.abs(model.get_weights()[0]).ravel().tolist())))"
        )
        environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(PACKAGE.parent)}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        self.assertEqual(result.stdout.strip(), "[1.0]", result.stderr)

    def test_importing_the_package_imports_nothing_that_only_some_calls_need(self):
        code = (
            "import sys, keras; before = set(sys.modules); import tf_proxquant;"
            "print([m for m in ('tensorflow_datasets', 'matplotlib', 'ai_edge_litert',"
            " 'tf_proxquant.litert') if m in sys.modules and m not in before])"
        )
        # The backend that imports least itself.
        environment = {**os.environ, "KERAS_BACKEND": "numpy", "PYTHONPATH": str(PACKAGE.parent)}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        self.assertEqual(result.stdout.strip(), "[]", result.stderr)
