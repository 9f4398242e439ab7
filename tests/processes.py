"""Python programs in processes of their own, for the tests.

Each is forked from a process that imported TensorFlow, 7 CPU seconds, and does not use it.
Arguments, environment, output and exit status are as with `python`: -9 of one that is killed.
"""

import multiprocessing
import os
import pathlib
import runpy
import sys
import tempfile
import types
from subprocess import CompletedProcess

ROOT = pathlib.Path(__file__).parents[1]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "tensorflow.lite.python.lite",
        "matplotlib.pyplot",
        "ai_edge_litert.interpreter",
        "tf_proxquant",
    ]
)


class Program:
    """`python *arguments`, started: a file, `-m` and a module, or `-c` and code."""

    def __init__(self, *arguments, environment=None):
        self.arguments = arguments
        self.temporary = tempfile.TemporaryDirectory()
        self.outputs = [pathlib.Path(self.temporary.name, name) for name in ("out", "errors")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        inputs = (arguments, environment, self.outputs)
        self.process = PROCESSES.Process(target=_run, args=inputs)
        self.process.start()

    def finish(self, timeout=None):
        """Returns a `subprocess.CompletedProcess`."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        texts = [path.read_text() for path in self.outputs]
        self.temporary.cleanup()
        return CompletedProcess(self.arguments, self.process.exitcode, *texts)


def run(*arguments, **options):
    return Program(*arguments, **options).finish()


def _run(arguments, environment, outputs):
    for descriptor, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    kind, *rest = arguments
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.argv = list(arguments)
        runpy.run_path(kind, run_name="__main__")
