"""Edits .tflite models through the schema objects: constants in, operators in, dead weight out."""

import hashlib
import itertools
import re

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tf_proxquant import packing

FILE_IDENTIFIER = b"TFL3"
NO_TENSOR = -1
# The one custom operator, of tflite-micro.
DECODE = "TFLM_DECODE"
ROOM = 2**16  # bytes for all of a file but its buffers, to begin with
# Converter notes that an edit makes untrue: the minimal runtime and the conversion options.
STALE_METADATA = (b"min_runtime_version", b"CONVERSION_METADATA")

OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
TYPE_NAMES = {
    code: name for name, code in vars(schema.TensorType).items() if not name.startswith("_")
}
NUMPY_TYPES: dict[int, np.dtype] = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.FLOAT16: np.dtype("<f2"),
    schema.TensorType.INT8: np.dtype("i1"),
    schema.TensorType.UINT8: np.dtype("u1"),
    schema.TensorType.INT32: np.dtype("<i4"),
    schema.TensorType.INT64: np.dtype("<i8"),
    schema.TensorType.BOOL: np.dtype("?"),
}
BITS = {schema.TensorType.INT4: 4, schema.TensorType.INT2: 2}


class Model:
    """A .tflite model as editable objects.

    Args:
      content: bytes of a well-formed file. Bytes from elsewhere go through `check_flatbuffer`
        first: the object API follows offsets without looking.

    Attributes:
      model: `schema.ModelT`, free to edit; `to_bytes` writes it.
    """

    def __init__(self, content):
        self.model = schema.ModelT.InitFromPackedBuf(bytes(content))
        self.model.buffers = self.model.buffers or [schema.BufferT()]
        for graph in self.model.subgraphs:
            graph.tensors = graph.tensors or []
            graph.operators = graph.operators or []
            for operator in graph.operators:
                for field in ("inputs", "outputs", "intermediates"):
                    _make_writable(operator, field)

    @property
    def subgraphs(self):
        return self.model.subgraphs

    def operator_name(self, operator):
        """Name of the operator in the schema, e.g. "CONV_2D", or `DECODE`."""
        name = OPERATOR_NAMES.get(self.operator_code(operator), "UNKNOWN")
        custom = self.model.operatorCodes[operator.opcodeIndex].customCode
        return DECODE if name == "CUSTOM" and custom == DECODE.encode() else name

    def operator_code(self, operator):
        entry = self.model.operatorCodes[operator.opcodeIndex]
        # Files from before 2020 leave builtinCode at 0 and use the 8-bit field.
        return max(entry.builtinCode, entry.deprecatedBuiltinCode)

    def constant(self, tensor):
        """Raw bytes of a constant tensor as a uint8 array, or None for an activation."""
        if tensor.isVariable or not 0 < tensor.buffer < len(self.model.buffers):
            return None
        data = self.model.buffers[tensor.buffer].data
        return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)

    def array(self, tensor):
        """Value of a constant tensor; codes below 8 bits come as int8, one per element."""
        data, shape = self.constant(tensor), tensor_shape(tensor)
        if tensor.type in BITS:
            return packing.unpack_codes(data, BITS[tensor.type], int(np.prod(shape))).reshape(shape)
        return data.view(NUMPY_TYPES[tensor.type]).reshape(shape)

    def add_buffer(self, data):
        """Appends a buffer with the bytes of `data` and returns its index."""
        data = np.ascontiguousarray(data)
        # Through bytes: a view as uint8 is refused for arrays of no dimension.
        self.model.buffers.append(schema.BufferT(data=np.frombuffer(data.tobytes(), np.uint8)))
        return len(self.model.buffers) - 1

    def add_tensor(self, graph, shape, type_, data=None, name=b"", quantization=None):
        """Appends a tensor to `graph` and returns its index.

        Args:
          graph: `schema.SubGraphT` that gets the tensor.
          shape: static shape.
          type_: a `schema.TensorType` code.
          data: array with the bytes of a constant, already packed below 8 bits; None makes an
            activation.
          name: bytes.
          quantization: `schema.QuantizationParametersT` or None.
        """
        tensor = schema.TensorT(
            shape=np.asarray(shape, np.int32),
            type=type_,
            buffer=0 if data is None else self.add_buffer(data),
            name=name,
            quantization=quantization,
            hasRank=True,
        )
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def make_operator(self, builtin, version, inputs, outputs, options=None):
        """An operator ready to be inserted in a graph's list.

        Args:
          builtin: a `schema.BuiltinOperator` code.
          version: lowest operator version whose kernel accepts these tensor types; an older
            runtime then refuses the file instead of computing something else.
          inputs: tensor indices.
          outputs: tensor indices.
          options: an options object such as `schema.GatherOptionsT()`, or None.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self.opcode_index(builtin, version)
        operator.inputs = np.asarray(inputs, np.int32)
        operator.outputs = np.asarray(outputs, np.int32)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        return operator

    def opcode_index(self, builtin, version):
        """Index of an operator code with this version, added if it is not there."""
        for index, entry in enumerate(self.model.operatorCodes):
            if entry.builtinCode == builtin and entry.version == version:
                return index
        entry = schema.OperatorCodeT()
        # 127 is PLACEHOLDER_FOR_GREATER_OP_CODES of the 8-bit field.
        entry.deprecatedBuiltinCode = min(builtin, 127)
        entry.builtinCode, entry.version = builtin, version
        self.model.operatorCodes.append(entry)
        return len(self.model.operatorCodes) - 1

    def prune(self):
        """Drops tensors nobody reads or writes, orphaned buffers, equal buffers, unused opcodes.

        Returns: for each subgraph an array that gives each old tensor index its new one.
        """
        moved = [self._prune_tensors(*entry) for entry in enumerate(self.subgraphs)]
        self._prune_buffers()
        self._prune_operator_codes()
        return moved

    def _prune_tensors(self, index, graph):
        used = {*graph.inputs, *graph.outputs}
        for operator in graph.operators:
            for field in ("inputs", "outputs", "intermediates"):
                used.update(
                    getattr(operator, field) if getattr(operator, field) is not None else ()
                )
        maps = [
            tensor_map
            for signature in self.model.signatureDefs or ()
            if signature.subgraphIndex == index
            for tensor_map in (*(signature.inputs or ()), *(signature.outputs or ()))
        ]
        used.update(entry.tensorIndex for entry in maps)
        kept = [i for i in range(len(graph.tensors)) if i in used]
        renumber = np.full(len(graph.tensors) + 1, NO_TENSOR, np.int32)
        renumber[kept] = np.arange(len(kept))  # the last entry maps "no tensor" to itself
        graph.tensors = [graph.tensors[i] for i in kept]
        for holder in (graph, *graph.operators):
            for field in ("inputs", "outputs", "intermediates"):
                if getattr(holder, field, None) is not None:
                    setattr(holder, field, renumber[np.asarray(getattr(holder, field), np.int32)])
        for entry in maps:
            entry.tensorIndex = int(renumber[entry.tensorIndex])
        return renumber

    def _prune_buffers(self):
        new_index, buffers = {_digest(np.array([], np.uint8)): 0}, [schema.BufferT()]

        def move(index):
            data = self.model.buffers[index].data
            key = _digest(np.asarray([] if data is None else data, np.uint8))
            if key not in new_index:
                new_index[key] = len(buffers)
                buffers.append(self.model.buffers[index])
            return new_index[key]

        for graph in self.subgraphs:
            for tensor in graph.tensors:
                tensor.buffer = move(tensor.buffer)
        for entry in self.model.metadata or ():
            entry.buffer = move(entry.buffer)
        self.model.buffers, self.model.metadataBuffer = buffers, None

    def _prune_operator_codes(self):
        operators = [operator for graph in self.subgraphs for operator in graph.operators]
        kept = sorted({operator.opcodeIndex for operator in operators})
        self.model.operatorCodes = [self.model.operatorCodes[i] for i in kept]
        for operator in operators:
            operator.opcodeIndex = kept.index(operator.opcodeIndex)

    def name_tensors(self, weights, numbered=True):
        """Gives each tensor a name of its own, and drops empty fields.

        Signatures, inputs and outputs keep their names, for an application looks them up.

        Args:
          weights: set of the names of weights, which stay, with a number where several share one.
          numbered: whether all other tensors get a number for a name. Without one, some readers
            refuse the file.
        """
        edges = [
            graph.tensors[i] for graph in self.subgraphs for i in (*graph.inputs, *graph.outputs)
        ]
        taken = {(tensor.name or b"").decode("utf-8", "replace") for tensor in edges}
        numbers = itertools.count()
        for tensor in (tensor for graph in self.subgraphs for tensor in graph.tensors):
            _drop_empty_quantization(tensor)
            if any(tensor is edge for edge in edges):
                continue
            name = (tensor.name or b"").decode("utf-8", "replace")
            if name in weights:
                tensor.name = unique_name(name, taken)
            elif numbered:
                tensor.name = next(n for n in map(str, numbers) if n not in taken)
            else:
                tensor.name = None

    def drop_notes(self, keeps_others=True):
        """Drops stale converter notes; before `prune`, which drops their buffers.

        Args:
          keeps_others: whether the description and other metadata stay.
        """
        if not keeps_others:
            self.model.metadata = self.model.description = None
        elif self.model.metadata:
            kept = [e for e in self.model.metadata if e.name not in STALE_METADATA]
            self.model.metadata = kept or None

    def to_bytes(self):
        """The file: prune first, or dead weights stay in it."""
        operators = [operator for graph in self.subgraphs for operator in graph.operators]
        options = [operator.builtinOptions for operator in operators]
        shared = {}
        for operator, value in zip(operators, options, strict=True):
            operator.builtinOptions = _share(value, shared)
        # Room from the start: a builder that grows copies all that it holds, and doubles it.
        sizes = (len(buffer.data) for buffer in self.model.buffers if buffer.data is not None)
        builder = _SharingBuilder(ROOM + sum(sizes))
        builder.Finish(self.model.Pack(builder), FILE_IDENTIFIER)
        for operator, value in zip(operators, options, strict=True):
            operator.builtinOptions = value
        return bytes(memoryview(builder.Bytes)[builder.Head() :])


def _share(options, shared):
    """`options`, or what stands for an equal table in `shared` and is written once."""
    if options is None or not all(np.isscalar(value) for value in vars(options).values()):
        return options
    key = (type(options), *vars(options).values())
    return shared.setdefault(key, _PackedOnce(options))


def _digest(vector):
    """What stands for the bytes of a vector where equal ones are sought, without a copy of them."""
    return hashlib.sha256(np.ascontiguousarray(vector).data).digest()


class _PackedOnce:
    """A table that is written once, however often it is listed."""

    def __init__(self, table):
        self.table, self.offset = table, None

    def Pack(self, builder):
        self.offset = self.offset or self.table.Pack(builder)
        return self.offset


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors and strings once, and aligns large byte vectors to 16."""

    def __init__(self, size):
        super().__init__(size)
        self._written = {}

    def CreateNumpyVector(self, x):
        key = (x.dtype.str, _digest(x))
        if key not in self._written:
            self._written[key] = self._write_vector(x)
        return self._written[key]

    def _write_vector(self, x):
        # The schema demands 16 for tensor data (force_align), which generated Python code ignores.
        alignment = 16 if x.dtype == np.uint8 and x.size >= 16 else x.dtype.alignment
        self.StartVector(x.itemsize, x.size, alignment)
        self.head -= x.nbytes
        self.Bytes[self.head : self.head + x.nbytes] = x.tobytes()
        return self.EndVector()

    def CreateString(self, s, *args, **kwargs):
        key = s.encode() if isinstance(s, str) else bytes(s)
        if key not in self._written:
            self._written[key] = super().CreateString(s, *args, **kwargs)
        return self._written[key]


def _make_writable(holder, field):
    value = getattr(holder, field)
    if value is not None:
        setattr(holder, field, np.array(value, np.int32))


def _drop_empty_quantization(tensor):
    quantization = tensor.quantization
    if quantization is not None and quantization.scale is None and quantization.details is None:
        tensor.quantization = None


def layer_name(tensor):
    """The layer of a converted weight, without the model's name, operations and what was fused.

    The converter joins the names of all that it fused, for example "model/norm/batchnorm/mul_1;
    model/conv/convolution;model/norm/add"; the layer is the first that is no normalization.
    """
    parts = (tensor.name or b"").decode("utf-8", "replace").split(";")
    paths = [part.strip("/").split("/") for part in parts]
    path = next((p for p in paths if not _AFTER.intersection(p)), paths[0])
    path = path[1:] if len(path) > 2 else path
    names = [name for name in path if not _OPERATIONS.fullmatch(name)]
    return "/".join(names or path)


# Parts of the names of what the converter fuses behind a layer.
_AFTER = {"batchnorm", "Relu", "Relu6", "BiasAdd"}
_OPERATIONS = re.compile(
    "(convolution|depthwise|conv_transpose|MatMul|Tensordot|einsum|Einsum|embedding_lookup|Squeeze|"
    r"ExpandDims|Reshape|Cast|ReadVariableOp|Transpose|transpose|perm|GatherV2|Shape|resource)(_?\d+)?"
)


def unique_name(name, taken):
    """`name`, or with a number behind it where it is empty or in `taken`, which gets it."""
    number, candidate = 1, name
    while not candidate or candidate in taken:
        number += 1
        candidate = f"{name or 'constant'}_{number}"
    taken.add(candidate)
    return candidate


def tensor_shape(tensor):
    """Shape as a tuple of ints; () for a scalar or an absent shape."""
    return () if tensor.shape is None else tuple(int(n) for n in tensor.shape)


def quantization(scale, axis=0):
    """Symmetric quantization parameters, `real = scale * code`, one scale per index of `axis`."""
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.atleast_1d(np.asarray(scale, np.float32))
    # One zero point per scale: the runtime refuses a single one for several scales.
    parameters.zeroPoint = np.zeros(parameters.scale.size, np.int64)
    parameters.quantizedDimension = axis
    return parameters
