"""A file as an array of C, for programs without a file system, as on microcontrollers."""

import os
import pathlib
import re

import numpy as np

from tf_proxquant import files
from tf_proxquant.typing import PathLike

_TEMPLATE = """\
/* {name}, {count:,} bytes, written by tf_proxquant. Include it in one source file. */
#ifndef {guard}
#define {guard}

#ifdef __cplusplus
alignas(16) static const unsigned char
#else
static const _Alignas(16) unsigned char
#endif
{array}[{count}] = {{
{lines}
}};
static const unsigned int {array}_size = {count};

#endif
"""


def write(path: PathLike, target: PathLike | None = None) -> pathlib.Path:
    """Writes a file as a header of C11 and C++11: an array aligned to 16 bytes, and its size.

    Args:
      path: the file, such as a .tflite.
      target: the header; by default beside the file, with the suffix .h. The array has the name of
        the file with _ for what is no letter or digit.

    Returns: path of the header.
    Raises: ValueError: if there is no such file, it is empty, or the header cannot be written.
    """
    path = pathlib.Path(path)
    if not path.is_file() or not path.stat().st_size:
        raise ValueError(f"Expected a file with bytes in it. Received: '{os.fspath(path)}'.")
    target = path.with_suffix(".h") if target is None else pathlib.Path(target)
    array = re.sub(r"\W", "_", path.name, flags=re.ASCII)
    array = f"_{array}" if array[0].isdigit() else array
    with files.replacing(target) as temporary:
        temporary.write_text(_header(path.name, array, path.read_bytes()), encoding="utf-8")
    return target


def _header(name, array, content):
    cells = np.array([f"{value}," for value in range(256)])[np.frombuffer(content, np.uint8)]
    lines = "\n".join("".join(cells[start : start + 20]) for start in range(0, len(cells), 20))
    return _TEMPLATE.format(
        name=name,
        array=array,
        guard=f"{array.upper()}_H",
        count=len(content),
        lines=lines,
    )
