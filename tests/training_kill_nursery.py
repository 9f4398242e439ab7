"""Runs of train.py that are killed again and again: the process that forks them.

    training_kill_nursery.py '{"workdir": ..., "settings": {...}, "kills": [["write", 7], ...]}'

Importing TensorFlow takes longer than such a run; so it is imported once, and not yet used, before
each run is forked. ["write", n] kills at the n-th change of a file in the workdir, just before it
is made; ["seconds", t] kills t seconds after the first. The run after the last kill is left to end.
One JSON object per run on standard output says how it ended.
"""

import json
import os
import pathlib
import signal
import sys
import time
import traceback

import tensorflow  # noqa: F401

from tf_proxquant import training
from tf_proxquant.training import workdir as workdir_module

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir"}


def watch_writes(folder, on_write):
    """Calls `on_write(count)` when this process is about to change a file in `folder`."""
    count = 0

    def watch(event, arguments):
        nonlocal count
        is_change = event in CHANGES and str(arguments[0]).startswith(folder)
        if is_change and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            count += 1
            on_write(count)

    sys.addaudithook(watch)


def fork(settings, kill):
    """Starts a run, kills it as told, and returns its exit status."""
    kind, when = kill or (None, None)
    first_write, told = os.pipe()
    child = os.fork()
    if not child:
        os.close(first_write)
        run(settings, told, when if kind == "write" else None)
    os.close(told)
    if kind == "seconds" and os.read(first_write, 1):
        time.sleep(when)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(first_write)
    return status


def run(settings, told, kill_at):
    """The child: trains, tells of its first write, and ends without returning."""

    def on_write(count):
        if count == 1:
            os.write(told, b"1")
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    status = 1
    try:
        workdir_module._CHECKPOINT_SECONDS = -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        watch_writes(settings["workdir"], on_write)
        training.run(training.Settings(**settings))
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def main():
    plan = json.loads(sys.argv[1])
    folder = pathlib.Path(plan["workdir"])
    for kill in [*plan["kills"], None]:
        settings = {**plan["settings"], "workdir": str(folder), "resume": folder.exists()}
        status = fork(settings, kill)
        rows = [json.loads(line) for line in lines(folder / "metrics.jsonl")]
        done = f"{rows[-1]['phase']} {rows[-1]['epoch']}" if rows else "nothing"
        if (folder / "model.keras").exists():
            done = "export"
        print(json.dumps({"kill": kill, "status": status, "after": done}), flush=True)
        if status == 0:
            return


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
