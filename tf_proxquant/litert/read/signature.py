"""What a model's call takes and gives, by flat names in the model's own order."""

import dataclasses
import re
from typing import Any

import keras

# Names that Keras gives by count: another process counts otherwise.
_AUTOMATIC = re.compile(r"keras_tensor(_\d+)?$")
# A floating-point type that LiteRT does not compute in is taken as float32.
_COMPUTED_AS = {"float16": "float32", "bfloat16": "float32", "float64": "float32"}


@dataclasses.dataclass(frozen=True)
class Input:
    """An array that a model takes.

    Attributes:
      name: in the file.
      shape: tuple; None for a dimension that is open.
      dtype: str.
      declared: shape as the model declares it; in `shape` the first dimension is open.
      is_guessed: whether the model tells no dtype.
    """

    name: str
    shape: tuple
    dtype: str
    declared: tuple = ()
    is_guessed: bool = False


@dataclasses.dataclass(frozen=True)
class Signature:
    """The inputs of a model and how its call takes them.

    Attributes:
      inputs: tuple of `Input`, in the model's order.
      arguments: dict from argument (a place or a name) to a structure of input names.
    """

    inputs: tuple[Input, ...]
    arguments: dict

    @property
    def names(self):
        return [entry.name for entry in self.inputs]

    @property
    def is_open(self) -> bool:
        """Whether some dimension is left open."""
        return any(None in entry.shape for entry in self.inputs)

    def pack(self, values: dict) -> tuple[list, dict]:
        """Arrays by name as the positional and keyword arguments of the model's call."""
        packed = {
            key: keras.tree.map_structure(values.__getitem__, structure)
            for key, structure in self.arguments.items()
        }
        places = [key for key in packed if isinstance(key, int)]
        return [packed.pop(key) for key in places], packed

    def with_batch(self, size: int) -> "Signature":
        """The same with this size for the first dimension, where that is open."""

        def fix(entry):
            is_open = entry.shape[:1] == (None,)
            return dataclasses.replace(
                entry, shape=(size, *entry.shape[1:]) if is_open else entry.shape
            )

        return dataclasses.replace(self, inputs=tuple(map(fix, self.inputs)))

    def with_declared_batch(self) -> "Signature":
        """The same with the shapes that the model declares."""
        inputs = (dataclasses.replace(entry, shape=entry.declared) for entry in self.inputs)
        return dataclasses.replace(self, inputs=tuple(inputs))

    def with_dtypes(self, dtypes: dict) -> "Signature":
        """The same with other dtypes for some names."""
        inputs = (
            dataclasses.replace(entry, dtype=dtypes.get(entry.name, entry.dtype))
            for entry in self.inputs
        )
        return dataclasses.replace(self, inputs=tuple(inputs))


def read(model: keras.Model, input_signature: list | None = None) -> Signature:
    """The signature of a built model, its first dimension open.

    A functional or sequential model tells it; of a subclassed one Keras keeps the shapes of the
    first call, not their dtypes.

    Args:
      model: built.
      input_signature: None, or as for `keras.Model.export`: a list with a structure of specs for
        each argument; a list of specs, one for each input of a functional model, does as well.

    Raises: ValueError: if nothing tells what the model takes.
    """
    names = _Names()
    if input_signature is not None:
        arguments = dict(enumerate(_given_arguments(model, input_signature)))
        return _signature(arguments, names, opens_batch=False)
    own = _declared_inputs(model)
    if own:
        is_sequential = isinstance(model, keras.Sequential)
        return _signature({0: own[0] if is_sequential else model.input}, names)
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or {0: config.get("input_shape")}
    if None in shapes.values():
        raise ValueError(
            "Nothing tells what the model takes: call it once on data, or pass input_signature, a "
            f"list with a keras.InputSpec for each argument. Received: {model.name!r}"
        )
    by_name = {
        key if key == 0 else key.removesuffix("_shape"): _specs_of(shape)
        for key, shape in shapes.items()
    }
    return _signature(by_name, names)


def name_outputs(results: Any) -> dict:
    """Flat results of a model's call by name, in their own order.

    Args:
      results: any structure. A dict gives its keys; other results are output_0, output_1, ...
    """
    flat = keras.tree.flatten_with_path(results)
    names = _Names()
    return {
        names.take(_keys(path) or f"output_{place}"): value
        for place, (path, value) in enumerate(flat)
    }


class _Names:
    """Gives out each name once."""

    def __init__(self):
        self.taken = set()

    def take(self, wanted):
        unique, count = wanted, 0
        while unique in self.taken:
            count += 1
            unique = f"{wanted}_{count}"
        self.taken.add(unique)
        return unique


def _signature(arguments, names, opens_batch=True):
    """Names the specs in `arguments`, a dict {place or name: structure of specs}."""
    inputs, structures = [], {}
    for key, structure in arguments.items():
        flat = keras.tree.flatten_with_path(structure)
        named = []
        for path, spec in flat:
            argument = key if isinstance(key, str) else f"args_{key}"
            name = names.take(_keys(path) or _own_name(spec) or argument)
            named.append(name)
            inputs.append(_input(name, spec, opens_batch))
        structures[key] = keras.tree.pack_sequence_as(structure, named)
    return Signature(tuple(inputs), structures)


def _input(name, spec, opens_batch):
    declared = tuple(None if n is None else int(n) for n in spec.shape)
    dtype = keras.backend.standardize_dtype(spec.dtype) if spec.dtype else "float32"
    shape = (None, *declared[1:]) if opens_batch and declared else declared
    return Input(name, shape, _COMPUTED_AS.get(dtype, dtype), declared, spec.dtype is None)


def _keys(path):
    """The keys of dicts on the way to a leaf, joined; "" where there are none."""
    return "_".join(map(str, path)) if any(isinstance(key, str) for key in path) else ""


def _own_name(spec):
    name = getattr(spec, "name", None) or ""
    return "" if _AUTOMATIC.match(name) else name.split(":")[0]


def _declared_inputs(model):
    """The tensors that a functional or sequential model begins with; none of others."""
    own = getattr(model, "inputs", None) or []
    is_declared = isinstance(own, list) and all(isinstance(x, keras.KerasTensor) for x in own)
    return own if is_declared else []


def _given_arguments(model, input_signature):
    is_list = isinstance(input_signature, list | tuple)
    arguments = list(input_signature) if is_list else [input_signature]
    for spec in keras.tree.flatten(arguments):
        if getattr(spec, "shape", None) is None or not hasattr(spec, "dtype"):
            raise ValueError(
                "input_signature must hold a keras.InputSpec with a shape and a dtype for each "
                f"input. Received: {spec!r}"
            )
    if len(_declared_inputs(model)) == len(arguments) > 1:
        return [keras.tree.pack_sequence_as(model.input, arguments)]
    return arguments


def _specs_of(shapes):
    """A structure of shapes as one of specs without dtypes."""
    if isinstance(shapes, dict):
        return {key: _specs_of(value) for key, value in shapes.items()}
    if all(n is None or isinstance(n, int) for n in shapes):
        return keras.InputSpec(shape=(None, *shapes[1:]) if shapes else ())
    return [_specs_of(value) for value in shapes]
