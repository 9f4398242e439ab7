"""The flags of the command, made from the signature and the docstring of `export`."""

import inspect
import re
import typing

from absl import flags

from tf_proxquant.litert.exporting import export

# Options that are given as a file.
FILES = {
    "inputs": "npz", "representative_data": "npz", "labels": "txt", "vocabulary": "txt",
}  # fmt: skip
# Options that the command cannot take.
LEFT_OUT = ("model_or_path", "path", "input_signature")


def define_options(values):
    """Defines a flag for each option of `export`, with its default, its help and its choices.

    Args:
      values: `absl.flags.FlagValues`.
    """
    texts = _described(export)
    for name, parameter in _parameters().items():
        flags.DEFINE_flag(_flag(name, parameter, texts[name]), values)


def options(values, readers):
    """The options of `export` as flags give them: a dict.

    Args:
      values: parsed `absl.flags.FlagValues`.
      readers: dict from "npz" and "txt" to a function of a path.
    """
    given = {name: values[name].value for name in _parameters()}
    for name, kind in FILES.items():
        if given[name] is not None:
            given[name] = readers[kind](given[name])
    return given


def given(values):
    """Names of the options that the command line has."""
    return [name for name in _parameters() if values[name].present]


def _parameters():
    parameters = inspect.signature(export).parameters
    return {name: parameters[name] for name in parameters if name not in LEFT_OUT}


def _flag(name, parameter, text):
    kind, default = _kind(parameter.annotation), parameter.default
    if name in FILES:
        says = {"npz": "An .npz file of arrays", "txt": "A text file of lines"}[FILES[name]]
        return flags.Flag(flags.ArgumentParser(), None, name, default, f"{says}: {text}")
    if typing.get_origin(kind) is typing.Literal:
        return flags.EnumFlag(name, default, text, list(typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return flags.Flag(_NumbersParser(), None, name, default, f"Two numbers a,b: {text}")
    if kind is bool:
        return flags.BooleanFlag(name, default, text)
    parser = {str: flags.ArgumentParser, int: flags.IntegerParser, float: flags.FloatParser}[kind]
    return flags.Flag(parser(), None, name, default, text)


class _NumbersParser(flags.ArgumentParser):
    """Parses numbers with commas between them, a tuple of float."""

    syntactic_help = "numbers with commas between them"

    def parse(self, argument):
        return tuple(map(float, argument.split(",")))


def _kind(annotation):
    """The type in an annotation that may also allow None."""
    if typing.get_origin(annotation) is typing.Literal:
        return annotation
    kinds = typing.get_args(annotation) or (annotation,)
    is_option = type(None) in kinds
    return next(kind for kind in kinds if kind is not type(None)) if is_option else annotation


def _described(function):
    """What a docstring says of each argument: dict {name: text}."""
    arguments = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\n\nReturns")[0]
    found = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
