"""Writes the flag files of this folder and the tables of its README.

python -m recipes.generate
"""

import pathlib
import re
import textwrap
from typing import NamedTuple

FOLDER = pathlib.Path(__file__).parent

LEVELS = {
    "binary": ("--quantizer=binary",),
    "ternary": ("--quantizer=ternary",),
    "2bit": ("--quantizer=multibit", "--bits=2"),
    "3bit": ("--quantizer=multibit", "--bits=3"),
    "4bit": ("--quantizer=multibit", "--bits=4"),
}
METHODS = ("proxquant", "binaryconnect", "binaryrelax", "parq")
DEPTHS = (20, 32, 44, 56)
FASHION_LEVELS = ("binary", "ternary", "2bit")
FASHION_METHODS = ("memory", *METHODS)

TITLES = {
    "full_precision": "full precision",
    "memory": "proximal steps with a memory, the default of train.py",
    "proxquant": "ProxQuant",
    "binaryconnect": "BinaryConnect (straight-through)",
    "binaryrelax": "BinaryRelax",
    "parq": "PARQ",
}
PAPER = "Bai, Wang, Liberty, ICLR 2019, arXiv:1810.00861, and its authors' code"
PARQ = "Jin et al., arXiv:2503.15748"
SOURCES = {
    "full_precision": f"the warm start of {PAPER}.",
    "proxquant": f"{PAPER}.",
    "proxquant bits": f"{PAPER}: its ternary recipe; it has several bits for language models only.",
    "binaryconnect": f"Courbariaux et al., NeurIPS 2015, as the baseline of {PAPER}.",
    "binaryconnect levels": "Courbariaux et al., NeurIPS 2015, with these levels; learning rate as "
    "for its binary recipe, epochs as for ProxQuant.",
    "binaryrelax": "Yin et al., SIAM J. Imaging Sci. 2018; learning rate and epochs as for "
    "BinaryConnect here.",
    "parq": f"{PARQ}; learning rate and epochs as for BinaryConnect here.",
    "fashion_mnist": "what train.py does by default with this method, in fewer epochs.",
}

# (method, levels) whose test accuracy is in the paper.
IN_THE_PAPER = {
    ("full_precision", None), ("binaryconnect", "binary"), ("proxquant", "binary"),
    ("proxquant", "ternary"),
}  # fmt: skip
# Test accuracy in percent, by (depth, levels), for `METHODS[1:]`.
PUBLISHED_BY_PARQ = {
    (20, "binary"): (89.56, 89.98, 90.48),
    (20, "ternary"): (90.94, 91.25, 91.45),
    (20, "2bit"): (91.22, 91.57, 91.71),
    (20, "3bit"): (91.84, 91.77, 91.97),
    (20, "4bit"): (91.93, 91.92, 91.84),
    (56, "binary"): (91.55, 91.75, 91.34),
    (56, "ternary"): (92.42, 92.34, 92.97),
}


class Recipe(NamedTuple):
    """One flag file: method "full_precision" with levels None, or a method and its levels."""

    dataset: str
    depth: int
    method: str
    levels: str | None

    @property
    def kind(self):
        """What the name says beside the depth."""
        return self.method if self.levels is None else f"{self.levels}-{self.method}"

    @property
    def name(self):
        """Path of the file from this folder."""
        return f"{self.dataset}/resnet{self.depth}-{self.kind}.flags"

    @property
    def flags(self):
        """The flags, as strings."""
        levels = LEVELS.get(self.levels, ())
        head = (f"--dataset={self.dataset}", f"--model=resnet{self.depth}")
        head = (*head, f"--method={self.method}", *levels, "--batch_size=128")
        if self.dataset == "fashion_mnist":
            warm = () if self.levels is None else ("--full_precision_epochs=5",)
            return (*head, *warm, f"--epochs={10 if warm else 15}")
        return (*head, *(_cifar_schedule(self.method, self.levels)))

    @property
    def source(self):
        """Who published the setting."""
        if self.dataset == "fashion_mnist":
            return SOURCES["fashion_mnist"]
        if self.method == "proxquant" and self.levels not in ("binary", "ternary"):
            return SOURCES["proxquant bits"]
        if self.method == "binaryconnect" and self.levels != "binary":
            return SOURCES["binaryconnect levels"]
        return SOURCES[self.method]

    @property
    def published(self):
        """Test accuracy in percent of `PUBLISHED_BY_PARQ`, or None."""
        key = self.depth, self.levels
        if self.dataset != "cifar10" or key not in PUBLISHED_BY_PARQ:
            return None
        accuracies = dict(zip(METHODS[1:], PUBLISHED_BY_PARQ[key], strict=True))
        return accuracies.get(self.method)

    @property
    def figure(self):
        """The test accuracy to expect, in words."""
        if self.published is not None:
            return f"{self.published:.2f} % ({PARQ}, table 1, from training of its own kind)"
        is_in_paper = self.dataset == "cifar10" and (self.method, self.levels) in IN_THE_PAPER
        return "see arXiv:1810.00861" if is_in_paper else "none published"

    def text(self):
        """The content of the file."""
        levels = "" if self.levels is None else self.levels.replace("bit", " bits") + ", "
        dataset = {"cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST"}[self.dataset]
        lines = [
            f"ResNet-{self.depth} on {dataset}: {levels}{TITLES[self.method]}.",
            f"Source: {self.source}",
            f"Expected test accuracy: {self.figure}.",
        ]
        if self.levels is not None:
            warm = self._replace(method="full_precision", levels=None)
            lines.append(
                f"Warm start: --init_from=WORKDIR/model.keras of recipes/{warm.name}; without it, "
                "one by Adam over --full_precision_epochs."
            )
        return "".join(f"{line}\n" for line in [*map(_comment, lines), *self.flags])


def _comment(line):
    layout = {"initial_indent": "# ", "subsequent_indent": "#   ", "break_on_hyphens": False}
    return textwrap.fill(line, 98, **layout)


def _cifar_schedule(method, levels):
    """The flags of learning rate, epochs, penalty and box on CIFAR-10."""
    if method == "full_precision":
        return ("--optimizer=sgd", "--learning_rate=0.1", "--decay=100,150", "--epochs=200")
    flags = ["--optimizer=adam", "--learning_rate=0.01"]
    if method == "proxquant":
        penalty = "l1" if levels == "binary" else "l2"
        flags += ["--decay=constant", f"--regularizer={penalty}", "--strength=1e-4"]
    else:
        flags += ["--decay=81,122"]
    if levels != "binary" or method in ("proxquant", "binaryconnect"):
        flags += ["--noper_channel"]
    epochs, freeze = (300, 200) if levels == "binary" else (600, 400)
    flags += [f"--epochs={epochs}", f"--freeze_epoch={freeze}"]
    return (*flags, "--full_precision_epochs=200", "--full_precision_learning_rate=0.001")


def kinds(dataset):
    """(method, levels) of every recipe of a data set, in the order of the tables."""
    is_cifar = dataset == "cifar10"
    levels, methods = (LEVELS, METHODS) if is_cifar else (FASHION_LEVELS, FASHION_METHODS)
    return [("full_precision", None), *((m, some) for some in levels for m in methods)]


def recipes():
    """Returns the list of all recipes."""
    cifar = [Recipe("cifar10", depth, *kind) for depth in DEPTHS for kind in kinds("cifar10")]
    return [*cifar, *(Recipe("fashion_mnist", 8, *kind) for kind in kinds("fashion_mnist"))]


def tables():
    """Returns the tables of the README by name."""
    cifar = ["| | epochs / freeze | 20 | 32 | 44 | 56 |", "|---|---|---|---|---|---|"]
    for kind in kinds("cifar10"):
        row = [Recipe("cifar10", depth, *kind) for depth in DEPTHS]
        values = dict(flag[2:].split("=") for flag in row[0].flags if "=" in flag)
        epochs = " / ".join(values[key] for key in ("epochs", "freeze_epoch") if key in values)
        cells = " | ".join(_cell(recipe.published) for recipe in row)
        cifar.append(f"| `resnet..-{row[0].kind}` | {epochs} | {cells} |")
    fashion = [f"- `{Recipe('fashion_mnist', 8, *k).name}`" for k in kinds("fashion_mnist")]
    return {"cifar10": "\n".join(cifar), "fashion_mnist": "\n".join(fashion)}


def _cell(published):
    return "" if published is None else f"{published:.2f}"


def readme():
    """Returns the README as it is, with the present tables between its markers."""
    text = (FOLDER / "README.md").read_text()
    for name, table in tables().items():
        begin, end = f"<!-- {name}: by generate.py -->", "<!-- end -->"
        pattern = f"({re.escape(begin)}\n).*?({end})"
        text = re.sub(pattern, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL)
    return text


def files():
    """Returns what this module writes: {path from this folder: content}."""
    return {"README.md": readme(), **{recipe.name: recipe.text() for recipe in recipes()}}


if __name__ == "__main__":
    for name, content in files().items():
        path = FOLDER / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
