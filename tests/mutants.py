"""Mutants of the rooms whose tests convert models: `make mutants-tensorflow`.

TensorFlow must not be forked, which is how mutmut runs its mutants. So mutmut only writes them
here, every mutant of a function beside the function, and one process that has TensorFlow loaded
chooses one after the other at each call. A mutant runs the tests that reach its function, those
that killed most before it first, then quick ones, up to the first that fails or takes too long;
where it takes the process down with it, another process goes on behind it.
"""

import argparse
import ast
import collections
import difflib
import faulthandler
import functools
import glob
import importlib
import importlib.machinery
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import unittest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOMS = "tf_proxquant.litert.forms", "tf_proxquant.litert.plan"
TESTS = (
    "tests.litert_balanced_test",
    "tests.litert_export_test",
    "tests.litert_forms_test",
    "tests.litert_half_test",
    "tests.litert_inspect_test",
    "tests.litert_lookup_test",
    "tests.litert_operators_test",
    "tests.litert_storage_test",
)
LEFT_OUT = (
    "test_errors_are_one_line_and_a_status",  # in a process of its own
    "test_resnet20_is_faster_than_narrow_convolutions",  # looks at a clock
    "test_the_bytes_do_not_depend_on_a_clock",  # too long
)
IMPORTS = "from mutmut.mutation.trampoline import"
LOG = pathlib.Path("mutants/tensorflow.jsonl")


class Switch:
    """Which mutant runs, and which functions were called."""

    def __init__(self):
        self.mutant, self.called = None, set()

    def choose(self, mutants):
        """The decorator that mutmut gives to a function, with its mutants by name."""

        def decorate(function):
            @functools.wraps(function)
            def call(*args, **kwargs):
                original = mutants["_mutmut_orig"]
                module = function.__module__
                self.called.add(f"{module}.{original.__name__.removesuffix('__mutmut_orig')}")
                wanted, _, name = (self.mutant or "").rpartition(".")
                chosen = mutants.get(name, original) if wanted == module else original
                return chosen(*args, **kwargs)

            return call

        return decorate


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with its mutants."""

    switch, sources = None, {}

    def get_code(self, fullname):
        return compile(self.sources[fullname], self.path, "exec", dont_inherit=True)

    def exec_module(self, module):
        vars(module).update(_mutmut_mutated=self.switch.choose, MutantDict=dict)
        super().exec_module(module)


class Finder(importlib.machinery.PathFinder):
    """Finds the modules that have mutants."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname not in Loader.sources:
            return None
        spec = super().find_spec(fullname, path, target)
        spec.loader = Loader(fullname, spec.origin)
        return spec


def write_mutants():
    """({module: source with mutants}, names of all mutants), by the mutmut of .venv-mutants."""
    (packages,) = glob.glob(".venv-mutants/lib/python3*/site-packages")
    sys.path.append(packages)
    from mutmut.mutation.file_mutation import mutate_file_contents

    sources, names = {}, []
    for room in ROOMS:
        for path in sorted(pathlib.Path(*room.split(".")).glob("*.py")):
            module = room if path.stem == "__init__" else f"{room}.{path.stem}"
            made = mutate_file_contents(str(path), path.read_text())
            lines = made.code.splitlines()
            sources[module] = "\n".join(x for x in lines if not x.startswith(IMPORTS))
            names += [f"{module}.{name}" for name in made.mutant_names]
    sys.path.remove(packages)
    return sources, names


class TooLongError(BaseException):
    """A test ran past its limit."""


def run_test(test, limit):
    """(what went wrong or "", seconds) of one test with the fixtures of its class."""

    def stop(*_):
        raise TooLongError

    result, start = unittest.TestResult(), time.perf_counter()
    result.buffer = True
    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
    faulthandler.dump_traceback_later(2 * limit + 30, exit=True)
    try:
        unittest.TestSuite([test]).run(result)
    except TooLongError:
        return "too long", limit
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)
    wrong = [text for _, text in result.failures + result.errors]
    return (wrong[0].strip().splitlines()[-1] if wrong else ""), time.perf_counter() - start


def fresh(test):
    """The test with the names of layers and the seeds of a process that just began."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    return test


def all_tests(suite):
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from all_tests(part)
        else:
            yield part


def measure_tests(switch, longest):
    """{function: [(seconds, test)]} of the tests that take at most `longest` seconds."""
    reached, total = collections.defaultdict(list), 0
    for module in TESTS:
        for test in all_tests(unittest.defaultTestLoader.loadTestsFromName(module)):
            switch.called = set()
            if test.id().rpartition(".")[2] in LEFT_OUT:
                continue
            wrong, seconds = run_test(fresh(test), 600)
            total += seconds
            if wrong:
                print(f"left out, fails without a mutant: {test.id()}: {wrong}", flush=True)
            elif seconds <= longest:
                for function in switch.called:
                    reached[function].append((seconds, test))
    print(f"tests without a mutant: {total:.0f} s", flush=True)
    return reached


def try_mutant(switch, name, tests, budget, kills):
    """The result of one mutant: "survived", "no test", or what killed it."""
    switch.mutant = name
    try:
        for seconds, test in sorted(tests, key=lambda pair: (-kills[pair[1]], pair[0])):
            wrong, taken = run_test(fresh(test), 10 * seconds + 5)
            budget -= taken
            if wrong:
                kills[test] += 1
                return f"{test.id().rpartition('.')[2]}: {wrong}"
            if budget < 0:
                break
    finally:
        switch.mutant = None
    return "survived" if tests else "no test"


def difference(source, name):
    """What a mutant changes, as the changed lines."""
    mutant = name.rpartition(".")[2]
    original = f"{mutant.rpartition('_')[0]}_orig"
    found = {
        node.name: ast.unparse(node).splitlines()[1:]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name in (mutant, original)
    }
    lines = difflib.unified_diff(found[original], found[mutant], n=0, lineterm="")
    return [line for line in lines if line[:3] not in ("---", "+++", "@@ ")]


def run(options):
    """Tries the mutants that the log does not have yet."""
    switch = Switch()
    Loader.switch = switch
    Loader.sources, names = write_mutants()
    sys.meta_path.insert(0, Finder)
    for module in (*Loader.sources, *TESTS):
        importlib.import_module(module)
    # What runs while a module is imported is chosen then, once and for all.
    names = [name for name in names if name.rpartition("__mutmut_")[0] not in switch.called]
    names = [name for name in names if options.name in name]
    print(f"{len(names)} mutants", flush=True)
    chosen = random.Random(options.seed).sample(names, min(options.number, len(names)))
    logged = [json.loads(line) for line in LOG.read_text().splitlines()]
    tried = {entry["mutant"] for entry in logged}
    reached, kills = measure_tests(switch, options.longest), collections.Counter()
    with LOG.open("a", buffering=1) as log:
        for name in chosen:
            if name in tried:
                continue
            log.write(json.dumps({"mutant": name}) + "\n")
            start = time.perf_counter()
            tests = reached.get(name.rpartition("__mutmut_")[0], [])
            result = try_mutant(switch, name, tests, options.budget, kills)
            entry = {"mutant": name, "result": result, "seconds": time.perf_counter() - start}
            if result in ("survived", "no test"):
                module = name.rpartition(".")[0]
                entry["difference"] = difference(Loader.sources[module], name)
            log.write(json.dumps(entry) + "\n")


def report():
    """Prints how many mutants of each file were killed, and those that were not."""
    found = {}
    for line in LOG.read_text().splitlines():
        entry = json.loads(line)
        found[entry["mutant"]] = entry  # without a result where the process died
    counts = collections.defaultdict(collections.Counter)
    for name, entry in found.items():
        result = entry.get("result", "killed")
        kind = result if result in ("survived", "no test") else "killed"
        counts[name.rpartition(".")[0]][kind] += 1
        if kind != "killed":
            print(f"\n{result}: {name}", *entry["difference"], sep="\n")
    for module, counter in sorted(counts.items()):
        print(module, dict(counter))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=80, help="of mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="", help="part of the names of the mutants to draw from")
    parser.add_argument("--longest", type=float, default=2, help="seconds of a test that is run")
    parser.add_argument("--budget", type=float, default=30, help="seconds of tests of a mutant")
    parser.add_argument("--in_process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        run(options)
        return
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("")
    command, status = [sys.executable, "-m", "tests.mutants", *sys.argv[1:], "--in_process"], -1
    while status:
        size = LOG.stat().st_size
        status = subprocess.call(command)
        if status and LOG.stat().st_size == size:
            sys.exit(status)
    report()


if __name__ == "__main__":
    main()
