"""Runs the example of the README and checks what it shows: `make doctest`."""

import contextlib
import pathlib
import re
import tempfile

README = pathlib.Path(__file__).parents[1] / "README.md"


def main():
    (code,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    names = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(compile(code, "README.md", "exec"), names)
    share, accuracy = names["history"].history["on_grid"][-1], names["accuracy"]
    if share != 1.0 or accuracy <= 0.9 or names["report"].ratio >= 0.5:
        raise SystemExit(f"on the grid: {share}, accuracy: {accuracy}\n{names['report']}")


if __name__ == "__main__":
    main()
