"""The example of the README, run, and what it shows: `make doctest`."""

import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_example_of_the_readme_ends_on_the_grid_and_exports(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["history"].history["on_grid"][-1] == 1.0
    assert names["accuracy"] > 0.9
    assert names["report"].ratio < 0.5
