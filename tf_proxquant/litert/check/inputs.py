"""Random inputs that a file, and the model behind it, can take."""

import itertools

import numpy as np

from tf_proxquant.litert.check import runtime
from tf_proxquant.litert.read import flatbuffer, refusals

# For dimensions that the model leaves open: those of the first axis, and all others alike.
BATCHES = (3, 1, 4)
SIZES = (
    *(16, 32, 8, 64, 12, 96, 128, 4, 224, 24, 48, 10, 5, 3, 7, 9, 17, 33, 65, 188, 256, 2, 1),
    *(512, 1024, 4096, 16000),
)
# Floats as of most data, then such that logarithms, roots and inverse sines take.
FLOATS = ("normal", "positive")
# Divisors of the number of rows in the table that an integer picks from.
SHARES = (1, 2, 8, 1000)
# Operators whose output holds what they read, so that it can still be a place in a table.
_PASS_ON = (
    *("ABS", "ADD", "BROADCAST_TO", "CAST", "CONCATENATION", "EXPAND_DIMS", "FLOOR_MOD"),
    *("MAXIMUM", "MINIMUM", "PACK", "RESHAPE", "REVERSE_V2", "SELECT", "SELECT_V2", "SLICE"),
    *("SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "SUB", "TILE", "TRANSPOSE", "UNPACK"),
)


def random_inputs(content, seed=0, accepts=None):
    """Inputs for a file by signature name, such that it runs and gives finite outputs.

    Floats are normal; integers are places in the tables that they reach, 0 or 1 where they reach
    none, and bytes from 0 to 255. Where that fails, other sizes are tried for the dimensions that
    the file leaves open, then positive floats and smaller integers.

    Args:
      content: bytes of a float file.
      seed: of the random numbers.
      accepts: None, or a function (inputs) -> bool that may raise what it likes; the Keras model.

    Returns: dict {name: array}.
    Raises: ValueError: if nothing was found, with the last reason.
    """
    drawer, reason = _Drawer(content, seed), None
    for batch, size in drawer.sizes:
        for floats, share in itertools.product(FLOATS, drawer.shares):
            inputs = drawer.draw(batch, size, floats, share)
            try:
                drawer.builtin.allocate(inputs)
            except (RuntimeError, ValueError) as error:
                reason = reason or refusals.first_sentence(error)
                break  # of no use to try other values
            try:
                if drawer.gives_finite(inputs) and (accepts is None or accepts(inputs)):
                    return inputs
                reason = "the outputs are NaN or infinite."
            except Exception as error:
                reason = refusals.first_sentence(error)
    raise ValueError(
        "No random inputs were found that the model takes: pass inputs=, some arrays to verify the "
        f"file with, or verify=False. Received: a model with inputs {drawer.describe()}, for which "
        f"one attempt ended so: {reason}"
    )


class _Drawer:
    """Draws inputs for a file."""

    def __init__(self, content, seed):
        self.content, self.seed = content, seed
        self.builtin = runtime.Runner(content, "builtin")
        self.inputs = self.builtin.inputs
        self.num_rows = _tables_reached(content, self.inputs)
        self.shapes = {k: [int(n) for n in d["shape_signature"]] for k, d in self.inputs.items()}

    @property
    def sizes(self):
        """Pairs (batch, any other size) to try."""
        has_open_batch = any(shape[:1] == [-1] for shape in self.shapes.values())
        has_open_size = any(-1 in shape[1:] for shape in self.shapes.values())
        return itertools.product(
            BATCHES if has_open_batch else BATCHES[:1], SIZES if has_open_size else SIZES[:1]
        )

    @property
    def shares(self):
        return SHARES if any(self.num_rows.values()) else SHARES[:1]

    def describe(self):
        return ", ".join(f"{name!r} {shape}" for name, shape in self.shapes.items())

    def gives_finite(self, inputs):
        for runner in (self.builtin, runtime.Runner(self.content, "xnnpack")):
            outputs = runner(inputs).values()
            if not all(np.isfinite(value).all() for value in outputs if value.dtype.kind == "f"):
                return False
        return True

    def draw(self, batch, size, floats, share):
        generator = np.random.default_rng(self.seed)
        return {
            name: self._draw(generator, name, batch, size, floats, share) for name in self.inputs
        }

    def _draw(self, generator, name, batch, size, floats, share):
        dtype = np.dtype(self.inputs[name]["dtype"])
        shape = [
            n if n != -1 else size if axis else batch for axis, n in enumerate(self.shapes[name])
        ]
        num_rows = self.num_rows[name]
        if num_rows is not None:
            return generator.integers(0, max(1, num_rows // share), shape).astype(dtype)
        if dtype.kind == "f" and floats == "normal":
            return generator.standard_normal(shape).astype(dtype)
        if dtype.kind == "f":
            return generator.uniform(0.05, 0.95, shape).astype(dtype)
        highest = 256 if dtype == np.uint8 else 2
        return generator.integers(0, highest, shape).astype(dtype)


def _tables_reached(content, inputs):
    """Rows of the smallest table that each input picks from: dict {name: int or None}."""
    model = flatbuffer.Model(content)
    graph = model.subgraphs[0]
    return {
        name: min(_tables_behind(model, graph, details["index"]), default=None)
        for name, details in inputs.items()
    }


def _tables_behind(model, graph, index):
    """Yields the number of rows of each constant table whose places come from a tensor."""
    reached = {int(index)}
    for operator in graph.operators:
        name = model.operator_name(operator)
        read = [int(i) for i in operator.inputs if i >= 0] if operator.inputs is not None else []
        if name in ("GATHER", "EMBEDDING_LOOKUP") and len(read) > 1:
            table, places = read if name == "GATHER" else reversed(read)
            if places in reached and model.constant(graph.tensors[table]) is not None:
                yield flatbuffer.tensor_shape(graph.tensors[table])[0]
        elif name in _PASS_ON and reached.intersection(read):
            reached.update(int(i) for i in operator.outputs)
