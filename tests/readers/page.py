"""The page docs/readers.md: its tables are written, its recipes are read."""

import pathlib
import re
from typing import NamedTuple

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "readers.md"
READERS = {
    "litert": "LiteRT, Interpreter",
    "compiled_model": "LiteRT, CompiledModel",
    "mediapipe": "MediaPipe",
    "openvino": "OpenVINO",
    "onnxruntime": "tf2onnx, onnxruntime",
    "tflite_micro": "tflite-micro",
    "vela": "vela (Ethos-U55)",
    "model_explorer": "Model Explorer",
    "model_explorer_mlir": "Model Explorer, MLIR",
}
# Those with float activations, and those with activations of 8 bits: two tables.
GROUPS = (
    ("float", "float16", "fast", "portable", "small", "balanced"),
    ("dynamic", "static", "static-int8", "static-uint8"),
)
OPTIONS = {
    "float16": ("fast", {"constants": "float16"}),
    "static-int8": ("static", {"io": "int8"}),
    "static-uint8": ("static", {"io": "uint8"}),
}
PROFILES = tuple(profile for group in GROUPS for profile in group)
START, END = "<!-- written by make test-readers ARGS=--write -->", "<!-- end -->"
RECIPE = re.compile(r"^## (.+)\n(?:(?!^## ).*\n)*?((?:    .*\n|\n)*    .*scores.*\n)", re.MULTILINE)


class Answer(NamedTuple):
    """What a reader made of a file: the text of its cell, and why it is so, "" if it is right."""

    cell: str
    why: str = ""

    def __str__(self):
        return f"{self.cell}: {self.why}" if self.why else self.cell


def tables(answers):
    """Markdown of the answers, a dict {(reader, network, profile): `Answer`}."""
    letters, lines = {}, []
    for network in dict.fromkeys(network for _, network, _ in answers):
        lines += [f"### {network}", ""]
        for group in GROUPS:
            lines += [*_table(answers, network, group, letters), ""]
    lines += [f"- {letter}: {why}" for why, letter in letters.items()]
    return "\n".join(lines)


def _table(answers, network, group, letters):
    """Lines of one table; `letters` of reasons are added to."""
    profiles = [p for p in group if any(key[1:] == (network, p) for key in answers)]
    if not profiles:
        return
    yield f"| {network} | {' | '.join(profiles)} |"
    yield "|---" * (len(profiles) + 1) + "|"
    for reader, title in READERS.items():
        row = [answers.get((reader, network, profile), Answer("-")) for profile in profiles]
        cells = [_cell(answer, letters) for answer in row]
        yield f"| {title} | {' | '.join(cells)} |"


def _cell(answer, letters):
    if not answer.why:
        return answer.cell
    return f"{answer.cell} {letters.setdefault(answer.why, chr(ord('a') + len(letters)))}"


def write(answers):
    """Puts the tables into the page."""
    before, rest = PAGE.read_text().split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{tables(answers)}\n\n{END}{after}")


def recipes():
    """Code of the page that computes `scores` from `pixels`: dict {heading: code}."""
    found = {}
    for heading, block in RECIPE.findall(PAGE.read_text()):
        found[heading] = "\n".join(line[4:] for line in block.splitlines())
    return found
