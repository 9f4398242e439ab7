"""Writes the reference of the public names, docs/api.md, from signatures and docstrings.

PYTHONPATH=. python docs/api.py [FILE]
"""

import importlib
import inspect
import os
import pathlib
import re
import sys
import typing as std_typing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

MODULES = (
    "quantizers", "prox", "schedules", "selection", "optimizers", "callbacks", "metrics", "plot",
    "sensitivity", "snapping", "models", "datasets", "litert",
)  # fmt: skip


def public_names(module):
    """Names of a module that are for users: `__all__`, or all functions and classes of its own."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
    ]


def modules():
    """The public modules, imported."""
    return [importlib.import_module(f"tf_proxquant.{name}") for name in MODULES]


def members(thing):
    """(name, function) of the public methods and properties that a class of this package defines.

    Keras' own hooks, which are documented there, are left out.
    """
    hooks = {"get_config", "from_config", "build", "call", "update_step", "apply_gradients"}
    hooks |= {name for name in dir(thing) if name.startswith("on_")}
    for name, member in vars(thing).items():
        member = getattr(member, "fget", getattr(member, "__func__", member))
        if not name.startswith("_") and name not in hooks and inspect.isfunction(member):
            yield name, member


def describe(name, thing, level):
    """Lines of Markdown about one function or class."""
    if not callable(thing):
        return []
    doc = inspect.getdoc(thing) or ""
    lines = [f"{'#' * level} `{name}{_signature(thing)}`", "", "```text", doc, "```", ""]
    if inspect.isclass(thing):
        for method, function in members(thing):
            summary = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
            kind = vars(thing)[method]
            shown = method if isinstance(kind, property) else f"{method}{_signature(function)}"
            lines += [f"- `{shown}`: {summary}"]
        lines.append("")
    return lines


def _signature(thing):
    try:
        text = str(inspect.signature(thing))
    except ValueError:
        return ""
    for long, short in _aliases():
        text = text.replace(long, short)
    text = re.sub(
        r"\b(keras\.src|tf_proxquant|collections\.abc|typing)\.([\w.]+\.)?(\w+)", r"\3", text
    )
    text = text.replace("numpy.", "np.").replace("<built-in function print>", "print")
    return text.replace("(self, ", "(").replace("(self)", "()")


def _aliases():
    """(annotation as Python writes it, its name in `tf_proxquant.typing`), the longest first."""
    from tf_proxquant import typing

    named = [name for name in vars(typing) if name[0].isupper() and name not in vars(std_typing)]
    written = {inspect.formatannotation(getattr(typing, name)): name for name in named}
    return sorted(written.items(), key=lambda item: -len(item[0]))


def page():
    """The whole page, a string."""
    import tf_proxquant as pq

    lines = ["# Reference", "", f"tf_proxquant {pq.__version__}, made by `make docs`.", ""]
    lines += [f"At the top of the package: {', '.join(f'`{name}`' for name in pq.__all__)}.", ""]
    for module in modules():
        lines += [f"## {module.__name__}", "", (inspect.getdoc(module) or "").strip(), ""]
        for name in public_names(module):
            lines += describe(name, getattr(module, name), level=3)
    return "\n".join(lines)


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("api.md")
    pathlib.Path(target).write_text(page())
    print(target)
