"""What LiteRT says when it refuses a model or its inputs, in a sentence."""

import contextlib
import os
import re
import tempfile

_OPERATORS = (
    re.compile(r"(?:TF Select|Custom) ops: (.+)"),
    re.compile(r"'tf\.(\w+)' op"),
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LOOPS = ("TensorList", "TensorArray", "While")
_STRINGS = ("String", "Lookup", "HashTable", "Regex", "Ragged", "Substr", "Unicode")
_LONGEST = 240


def explain(model, signature, error, concrete=None):
    """Why a model was refused and what to do, without a dump of the compiler.

    Args:
      model: `keras.Model`.
      signature: `signatures.Signature` that was tried.
      error: the exception.
      concrete: the traced function, or None if tracing failed.

    Returns: (why, what to do), a sentence each.
    """
    text = str(error)
    operators = find_operators(text)
    if not operators:
        return f"LiteRT cannot take {model.name!r}: {first_sentence(error)}", _way_out(signature)
    layers = find_layers(concrete, operators, model)
    where = f" (layers: {', '.join(layers[:4])})" if layers else ""
    if any(name.startswith(_LOOPS) for name in operators):
        what = "has no loop over sequences of open batch or length"
    else:
        what = f"has no operator for {', '.join(operators[:6])}"
    return f"LiteRT {what}{where}, which {model.name!r} needs.", _way_out(signature, operators)


@contextlib.contextmanager
def muted():
    """Context in which nothing reaches the standard error stream, also from C++.

    The converter prints there what it puts into its exception, pages of it.
    """
    try:
        kept = os.dup(2)
    except OSError:  # no such stream
        yield
        return
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def of_inputs(what):
    """Context in which the interpreter runs: says `what` where it does not take what it is given.

    Raises: ValueError: with `what`, a hint and the first sentence of the interpreter's.
    """
    try:
        yield
    except RuntimeError as error:
        raise ValueError(
            f"{what}; word numbers, for one, must be below the rows of their table. "
            f"Received: {first_sentence(error)}"
        ) from error


def find_operators(text):
    """Names of the TensorFlow operators that a message of the converter complains of."""
    listed = [name.strip() for found in _OPERATORS[0].findall(text) for name in found.split(",")]
    names = listed or _OPERATORS[1].findall(text)
    return [name for name in dict.fromkeys(names) if name != "Placeholder"]


def find_layers(concrete, operators, model):
    """Names of the model's layers that brought operators into a traced function."""
    known = {layer.name for layer in model._flatten_layers(include_self=False)}
    found = []
    for operation in concrete.graph.get_operations() if concrete else ():
        if operation.type in operators:
            # A scope is the name of the layer, or that and a count.
            scopes = operation.name.split("/")[:-1]
            names = [s if s in known else re.sub(r"_\d+$", "", s) for s in scopes]
            found.append("/".join(name for name in names if name in known))
    return list(dict.fromkeys(filter(None, found)))


def _way_out(signature, operators=()):
    if any(entry.dtype == "string" for entry in signature.inputs) or any(
        part in name for name in operators for part in _STRINGS
    ):
        return "Look words up outside of the file: export the model that takes their numbers."
    if signature.is_open:
        shape = next(entry.shape for entry in signature.inputs if None in entry.shape)
        fixed = tuple(1 if place == 0 else n or 64 for place, n in enumerate(shape))
        return (
            "Fix the sizes: pass batch_size=1, or input_signature=[keras.InputSpec(shape="
            f"{fixed}, ...)] with the lengths that you need."
        )
    return "Write those layers with other operators, or export the part of the model without them."


def first_sentence(error):
    """The first line of an exception that says something, as a sentence of moderate length."""
    text = _COLOURS.sub("", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Exception encountered", "loc("))]
    text = re.sub(r"loc\(.*\): ", "", lines[0]) if lines else type(error).__name__
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
    return text if text.endswith((".", "!")) else text + "."
