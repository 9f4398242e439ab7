"""Whole files: written beside their place, then renamed.

Whenever a process is killed, a disk fills up or the power fails, a path holds its old file or the
new one, never a part.
"""

import contextlib
import os
import pathlib
import re
import uuid

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}-.+")


class CannotWriteError(OSError, ValueError):
    """A file that cannot be written: a full disk, a folder that is not there or not ours."""


@contextlib.contextmanager
def replacing(path):
    """Context that gives a temporary path beside `path`, and moves it there at the end.

    The temporary name keeps the suffix, which some writers look at. It is gone after an exception.

    Args:
      path: of the file to write or replace.

    Raises: CannotWriteError (an OSError and a ValueError): if it cannot be written. What was at
      `path` is still there.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise CannotWriteError(
            f"'{path}' cannot be written: {error}. What was there before is untouched. Free some "
            "space, or choose a folder that this process may write to."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_debris(folder):
    """Deletes the temporary files that a killed process left in a folder of its own."""
    for path in pathlib.Path(folder).iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def _sync(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
