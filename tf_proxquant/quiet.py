"""Commands of this package say their own lines and nothing of the libraries below."""

import contextlib
import itertools
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

_STREAMS = []
TRAIN = pathlib.Path(__file__).parents[1] / "train.py"


def _is_error(record):
    return record.levelno >= logging.ERROR


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context in which only Python writes to the terminal's standard error.

    What libraries write there by themselves, such as TensorFlow on what it did not find, is shown
    only after an exception that nobody foresaw. TensorFlow's own logger is left its errors.
    """
    logging.getLogger("tensorflow").addFilter(_is_error)
    terminal = os.dup(2)
    sys.stderr = os.fdopen(terminal, "w", buffering=1)
    # Never closed: loggers of libraries imported meanwhile write to it as long as they live.
    _STREAMS.append(sys.stderr)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except Exception:
            notes.seek(0)
            sys.stderr.write(notes.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(terminal, 2)
            sys.stderr = sys.__stderr__


def quiet_in_a_command() -> contextlib.AbstractContextManager:
    """`quiet()` where this process runs train.py or `python -m tf_proxquant...`, else nothing.

    For the imports of the package, which come before any line of the command.
    """
    run = [name for flag, name in itertools.pairwise(sys.orig_argv) if flag == "-m"]
    is_module = any(name.partition(".")[0] == "tf_proxquant" for name in run[:1])
    is_train = bool(sys.argv[0]) and pathlib.Path(sys.argv[0]).absolute() == TRAIN
    return quiet() if is_module or is_train else contextlib.nullcontext()
