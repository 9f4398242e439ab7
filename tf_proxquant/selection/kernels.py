"""Kernels of a model: which variables they are, and a selection that means them by identity."""

import re
import warnings
from collections.abc import Iterator

import keras

DEFAULT_NAMES = (
    "kernel",
    "depthwise_kernel",
    "pointwise_kernel",
    "recurrent_kernel",
    "embeddings",
    "reverse_embeddings",
)


class KernelSelection:
    """Variables of one model, as `select_kernels` chooses them, for `select=`.

    It means these very variables, also where others have equal names. It is a callable
    (variable) -> bool, and a sequence of regexes on the paths for code that takes those.

    In the config of an optimizer it becomes the paths of the model's trainable variables and the
    positions of the chosen ones. Revived, or given to another copy of the model, it chooses those
    of equal path and, among equal paths, of equal order; where that is not certain it refuses.
    Paths count as equal where one is the end of the other.

    Args:
      variables: list of all trainable `keras.Variable`s of the model; None for a selection that
        was loaded.
      chosen: list of positions in `paths`.
      paths: list of the variables' paths, without the name of the model.
    """

    def __init__(self, variables: list[keras.Variable] | None, chosen: list[int], paths: list[str]):
        self._variables = None if variables is None else [variables[i] for i in chosen]
        self._chosen = list(chosen)
        self._paths = list(paths)

    def among(self, variables: list[keras.Variable]) -> list[keras.Variable]:
        """Returns those of `variables` that are meant, in the order of `variables`.

        Chosen variables that are missing, as they were made untrainable, are left out.

        Raises: ValueError: if `variables` are of another model, or of a copy in which paths alone
          cannot tell them.
        """
        if self._variables is not None:
            found = [v for v in variables if self(v)]
            if found:
                return found
        if len(variables) == len(self._paths):
            pairs = zip(variables, self._paths, strict=True)
            if all(_may_be(path(v), ours) for v, ours in pairs):
                return [v for i, v in enumerate(variables) if i in self._chosen]
        found = [v for i in self._chosen for v in self._by_path(i, variables)]
        return [v for v in variables if any(v is f for f in found)]

    def _by_path(self, position, variables):
        """The variable that was at a position, in a list; an empty list where it is missing."""
        wanted = self._paths[position]
        theirs = [v for v in variables if _may_be(path(v), wanted)]
        ours = [i for i, p in enumerate(self._paths) if any(_may_be(path(v), p) for v in theirs)]
        if theirs and len(ours) != len(theirs):
            raise ValueError(
                f"This selection cannot tell which variable '{wanted}' is: the model it was made "
                f"for has {len(ours)} that it may be, this one has {len(theirs)}. Make it for this "
                f"model: pq.select_kernels(model, ...). Received: {self!r}."
            )
        return [theirs[ours.index(position)]] if theirs else []

    def __call__(self, variable: keras.Variable) -> bool:
        """Whether this is one of the variables meant, by identity."""
        return any(variable is v for v in self._variables or ())

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> str:
        return self._patterns()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._patterns())

    def _patterns(self):
        return [f"(^|/){re.escape(self._paths[i])}$" for i in self._chosen]

    def __repr__(self):
        return f"<selection of {len(self)}: {', '.join(self._paths[i] for i in self._chosen)}>"

    def __reduce__(self):
        return KernelSelection, (None, self._chosen, self._paths)

    def get_config(self):
        return {"variables": None, "chosen": self._chosen, "paths": self._paths}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


keras.saving.register_keras_serializable("tf_proxquant")(KernelSelection)


def select_kernels(
    model: keras.Model,
    skip_first: bool = False,
    skip_last: bool = False,
    skip: str | list[str] | tuple[str, ...] = (),
) -> KernelSelection:
    """Selects trainable kernels and embedding tables of a built model, for `select=`.

    First and last are meant in the order of `model.weights`: of Sequential and functional models
    that is the order of computation, by Keras' depth of the layers; of subclassed ones the order in
    which the layers were assigned. Kernels that are not trainable count, but are never selected.

    Args:
      model: a built `keras.Model` or `keras.Layer`.
      skip_first: True leaves the first of its kernels in full precision.
      skip_last: True leaves the last one in full precision.
      skip: regex or list of regexes; what they match (`re.search` on the path)
        is left in full precision. One that matches no kernel is warned of.

    Returns: `KernelSelection`. It means the variables themselves, and so survives compiling anew,
      `trainable` set and reset, and other variables of equal names.
    Raises: ValueError: if the model is not built or nothing is left.

    Example:
      >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden"),
      ...                           keras.layers.Dense(2, name="head")])
      >>> select_kernels(model, skip_last=True)
      <selection of 1: hidden/kernel>
    """
    if not getattr(model, "built", False):
        raise ValueError(
            f"`select_kernels` needs a built model, to know its variables. Received: {model!r}. "
            "Call it on data or `model.build(input_shape)` first."
        )
    kernels = [v for v in model.weights if is_kernel(v)]
    patterns = as_patterns(skip, "skip")
    for pattern in patterns:
        if not any(re.search(pattern, path(v)) for v in kernels):
            warnings.warn(
                f"`skip` leaves no kernel out by {pattern!r}: none has such a path. The kernels "
                f"are: {', '.join(path(v) for v in kernels)}",
                stacklevel=2,
            )
    kernels = kernels[1 if skip_first else 0 :]
    kernels = kernels[: -1 if skip_last else None]
    kept = {id(v) for v in kernels if not any(re.search(p, path(v)) for p in patterns)}
    variables = model.trainable_variables
    chosen = [i for i, v in enumerate(variables) if id(v) in kept]
    if not chosen:
        raise ValueError(nothing_selected(None, variables))
    # Without the model's own name, which Keras numbers anew in each process.
    paths = [path(v).removeprefix(f"{model.name}/") for v in variables]
    return KernelSelection(variables, chosen, paths)


def is_kernel(variable: keras.Variable) -> bool:
    """True for what `select=None` selects: kernels and embedding tables."""
    return path(variable).rsplit("/", 1)[-1] in DEFAULT_NAMES


def path(variable: keras.Variable) -> str:
    """The variable's path; of a native variable, its name."""
    return getattr(variable, "path", None) or variable.name


def as_patterns(value, name):
    """Returns a regex or a list of regexes as a list, or raises ValueError."""
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
        raise ValueError(
            f"`{name}` must be a regex or a list of regexes"
            + (", a callable, a dict or None. " if name == "select" else ". ")
            + f"Received: {name}={value!r}."
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`{name}` holds an invalid regex ({error}). Received: {pattern!r}."
            ) from error
    return list(patterns)


def nothing_selected(select, variables):
    """The message for a `select` that matches none of `variables`."""
    candidates = "\n".join(f"  {path(v)} {tuple(v.shape)}" for v in variables)
    return (
        f"Nothing to quantize: no trainable variable matches. Received: select={select!r}. "
        f"The trainable variables are:\n{candidates}\nKernels of layers with trainable=False, and "
        "those that LoRA adds to, are not among them: set `layer.trainable = True` first, or "
        "quantize layers without LoRA."
    )


def _may_be(one, other):
    """Whether two paths may be of one variable: Keras leaves out outer names in a loaded model."""
    shorter, longer = sorted((one, other), key=len)
    return f"/{longer}".endswith(f"/{shorter}")
