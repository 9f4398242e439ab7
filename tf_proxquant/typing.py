"""Names for the types in signatures."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import keras  # which archives expand without


class Tensor(Protocol):
    """A tensor of the backend in use, a `keras.Variable` or a NumPy array: what these share."""

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...

    def __array__(self) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def __neg__(self) -> Any: ...
    def __add__(self, other: Any, /) -> Any: ...
    def __radd__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __rsub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __rmul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def __lt__(self, other: Any, /) -> Any: ...
    def __le__(self, other: Any, /) -> Any: ...
    def __gt__(self, other: Any, /) -> Any: ...
    def __ge__(self, other: Any, /) -> Any: ...


# What `keras.ops` makes a tensor of.
TensorLike = Tensor | float | Sequence

# Samples for a file: an array, one for each input, or by name.
Arrays = Tensor | Sequence | dict

# Axes that keep their own levels.
Axis = int | tuple[int, ...] | None

# Which variables are quantized, in one of the forms of `tf_proxquant.selection`.
Select = str | list[str] | tuple[str, ...] | Callable[["keras.Variable"], bool] | dict | None

# A number, a schedule or another function of the step, or "auto".
Strength = float | Callable[[Any], Any] | Literal["auto"] | None

# Maps of `ProxQuant` and `ProxConnect`.
Prox = Literal["l1", "l2", "concave", "relax", "piecewise_affine", "hard"]

# When XLA compiles an update.
JitCompile = bool | Literal["auto"]

# Ways to store a file, the types of its inputs and outputs, how it stores integer weights, the type
# of its constants, and kernels of a CPU.
Profile = Literal["fast", "portable", "small", "balanced", "dynamic", "static"]
Io = Literal["float32", "int8", "uint8"]
Storage = Literal["int8", "int4", "tables"]
Constants = Literal["float16"]
Kernels = Literal["xnnpack", "builtin"]

# How a picture of another size is brought to the wanted one.
Resize = Literal["stretch", "crop", "pad"]

PathLike = str | os.PathLike
