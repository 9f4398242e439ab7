"""Every benchmark at toy size, which shows that it runs.

    python -m benchmarks.toys [NAME ...]

TensorFlow takes longer to import than most of these to run. So one process imports it, and does not
use it; those of the benchmarks are forked from it, two at a time.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import re
import runpy
import sys
import tempfile

FOLDER = pathlib.Path(__file__).parent
PROCESSES = multiprocessing.get_context("forkserver")


def names():
    """Every benchmark that takes `--toy`; backwards, for the longest is the last by its name."""
    paths = sorted(FOLDER.glob("*.py"), reverse=True)
    return [path.stem for path in paths if re.search('"(--)?toy", ', path.read_text())]


def run(name, log):
    """Runs one benchmark as `python -m` does, its output in a file: the body of a process."""
    for descriptor in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.argv = [f"benchmarks.{name}", "--toy"]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)


def finish(name):
    """Returns the exit status of a benchmark and what it printed."""
    with tempfile.NamedTemporaryFile() as log:
        process = PROCESSES.Process(target=run, args=(name, log.name))
        process.start()
        process.join()
        return process.exitcode, pathlib.Path(log.name).read_text()


def main():
    chosen, failed = sys.argv[1:] or names(), []
    PROCESSES.set_forkserver_preload(
        ["tensorflow.lite.python.lite", "matplotlib.pyplot", "tf_proxquant"]
    )
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, (status, text) in zip(chosen, pool.map(finish, chosen), strict=True):
            print(f"== {name}\n{text}", flush=True)
            if status:
                failed.append(name)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
