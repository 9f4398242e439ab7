"""Names for the types in signatures."""

import os
from typing import Any

# A tensor of the backend in use, or what `keras.ops` makes one of: a variable, an array, a list.
Tensor = Any

# Axes that keep their own levels.
Axis = int | tuple[int, ...] | None

# Which variables are quantized, in one of the forms of `tf_proxquant.selection`.
Select = Any

# A number, or a schedule of the step.
Strength = Any

PathLike = str | os.PathLike
