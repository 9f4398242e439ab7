"""Convolutions as matrix products over weights that are decoded at load time.

XNNPACK decodes constants ahead of time only if they are int8, and its CONV_2D takes only constant
filters, so a convolution over narrower weights falls to a kernel that is several times slower. Its
BATCH_MATMUL takes any right operand. A convolution becomes

    PAD -> RESHAPE (n, pixels, channels) -> GATHER -> RESHAPE (n, positions, K) -> BATCH_MATMUL
        -> ADD bias -> RESHAPE

where GATHER collects the K = height x width x channels values under the kernel at each position,
and the right operand is the weights, decoded by the interpreter. The indices are a sum of two small
constants, so they take no room in the file.
"""

import dataclasses

import numpy as np
from ai_edge_litert.schema_py_generated import (
    AddOptionsT,
    BatchMatMulOptionsT,
    BuiltinOperator,
    GatherOptionsT,
    Padding,
    PadOptionsT,
    ReshapeOptionsT,
    TensorType,
)

from tf_proxquant.litert.forms import encodings as forms
from tf_proxquant.litert.read import flatbuffer
from tf_proxquant.litert.write import rewrite


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A CONV_2D that can become a matrix product.

    Attributes:
      graph: number of the subgraph.
      index: index of its weight tensor.
      name: of the weights.
      weights: float32 (outputs, height, width, channels).
      size: (height, width) of the input.
      positions: (height, width) of the output.
      strides: (vertical, horizontal).
      dilations: (vertical, horizontal).
      padding: ((top, bottom), (left, right)).
    """

    graph: int
    index: int
    name: str
    weights: np.ndarray
    size: tuple[int, int]
    positions: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def matrix(self):
        """The weights as (outputs, K)."""
        return self.weights.reshape(len(self.weights), -1)

    @property
    def num_positions(self):
        return self.positions[0] * self.positions[1]

    @property
    def is_pointwise(self):
        """Whether the input already is the left operand."""
        return self.weights.shape[1:3] == (1, 1) and self.strides == (1, 1)

    @property
    def num_rows(self):
        """Rows of channels that are gathered."""
        cells = self.weights.shape[1] * self.weights.shape[2]
        return 0 if self.is_pointwise else self.num_positions * cells


def find_convolutions(model):
    """Every CONV_2D with weights of its own that a matrix product can replace, in running order.

    Raises: ValueError: if the height or width of a convolution's input is not fixed.
    """
    own = {(w.graph, w.index): w for w in rewrite.find_weights(model) if len(w.consumers) == 1}
    found = []
    for number, graph in enumerate(model.subgraphs):
        for operator in graph.operators:
            if model.operator_name(operator) == "CONV_2D":
                source = graph.tensors[operator.inputs[0]]
                _check_fixed(source)
                weight = own.get((number, int(operator.inputs[1])))
                has_bias = len(operator.inputs) == 3 and operator.inputs[2] >= 0
                channels = flatbuffer.tensor_shape(source)[3]
                if weight and has_bias and weight.values.shape[3] == channels:
                    found.append(_convolution(graph, operator, weight))
    return found


def _check_fixed(source):
    signature = source.shape if source.shapeSignature is None else source.shapeSignature
    if any(int(n) < 0 for n in signature[1:]):
        raise ValueError(
            'profile="balanced" needs a fixed input height and width: give keras.Input a complete '
            'shape, or choose "fast" or "small". Received: a convolution over '
            f"{tuple(int(n) for n in signature)}, where -1 is open."
        )


def _convolution(graph, operator, weight):
    options = operator.builtinOptions
    size = flatbuffer.tensor_shape(graph.tensors[operator.inputs[0]])[1:3]
    positions = flatbuffer.tensor_shape(graph.tensors[operator.outputs[0]])[1:3]
    strides = options.strideH, options.strideW
    dilations = options.dilationHFactor, options.dilationWFactor
    padding = ((0, 0), (0, 0))
    if options.padding == Padding.SAME:
        padding = tuple(
            map(_same_padding, size, positions, strides, dilations, weight.values.shape[1:3])
        )
    return Convolution(
        graph=weight.graph,
        index=weight.index,
        name=weight.name,
        weights=weight.values,
        size=size,
        positions=positions,
        strides=strides,
        dilations=dilations,
        padding=padding,
    )


def _same_padding(size, positions, stride, dilation, kernel):
    total = max((positions - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


class Writer:
    """Replaces convolutions of one graph; constants and indices are shared among them."""

    def __init__(self, model, graph):
        self.model, self.graph = model, graph
        self.operators, self.shared = [], {}

    def replace(self, convolution, encoding):
        """Stores a convolution's matrix as `encoding`; returns the `rewrite.Weight` to find."""
        operator = next(o for o in self.graph.operators if convolution.index in o.inputs)
        self.operators = []
        weight = self._decode(convolution, encoding)
        self._multiply(convolution, operator, weight.index)
        place = self.graph.operators.index(operator)
        self.graph.operators[place : place + 1] = self.operators
        return weight

    def _decode(self, convolution, encoding):
        matrix = convolution.matrix
        name = self.graph.tensors[convolution.index].name
        index = self.model.add_tensor(
            self.graph, matrix.shape, TensorType.FLOAT32, matrix, name=name
        )
        decoder = forms.Decoder(self.model, self.graph, index)
        encoding.write(decoder)
        self.operators += decoder.operators
        return rewrite.Weight(convolution.graph, index, convolution.name, matrix, ("BATCH_MATMUL",))

    def _multiply(self, convolution, operator, matrix):
        source, _, bias = map(int, operator.inputs)
        (outputs, depth), positions = convolution.matrix.shape, convolution.num_positions
        if not convolution.is_pointwise:
            source = self._gather(convolution, source)
        left = self._reshape(source, (positions, depth))
        options = BatchMatMulOptionsT(adjY=True)
        shape = (1, positions, outputs)
        product = self._apply(BuiltinOperator.BATCH_MATMUL, [left, matrix], shape, options)
        options = AddOptionsT(
            fusedActivationFunction=operator.builtinOptions.fusedActivationFunction
        )
        result = self._apply(BuiltinOperator.ADD, [product, bias], shape, options)
        self._reshape(result, (*convolution.positions, outputs), int(operator.outputs[0]))

    def _gather(self, convolution, source):
        """Collects (1, positions, kernel cells, channels) from (1, height, width, channels)."""
        channels = convolution.weights.shape[3]
        padding = np.array([(0, 0), *convolution.padding, (0, 0)], np.int32)
        height, width = (
            n + sum(p) for n, p in zip(convolution.size, convolution.padding, strict=True)
        )
        if padding.any():
            inputs = [source, self._constant(padding)]
            shape = (1, height, width, channels)
            source = self._apply(BuiltinOperator.PAD, inputs, shape, PadOptionsT())
        source = self._reshape(source, (height * width, channels))
        cells = convolution.weights.shape[1] * convolution.weights.shape[2]
        shape = (1, convolution.num_positions, cells, channels)
        inputs = [source, self._indices(convolution, width)]
        return self._apply(BuiltinOperator.GATHER, inputs, shape, GatherOptionsT(axis=1))

    def _indices(self, convolution, width):
        """Pixel under each kernel cell (columns) at each position (rows), added at run time."""
        corners = _grid(convolution.positions, convolution.strides, width)[:, None]
        cells = _grid(convolution.weights.shape[1:3], convolution.dilations, width)[None, :]
        key = corners.tobytes(), cells.tobytes()
        if key not in self.shared:
            self.shared[key] = self._apply(
                BuiltinOperator.ADD,
                [self._constant(corners), self._constant(cells)],
                (corners.size, cells.size),
                AddOptionsT(),
                TensorType.INT32,
            )
        return self.shared[key]

    def _reshape(self, source, shape, output=None):
        """Reshapes to (batch, *shape); the batch stays open."""
        target = self._constant(np.array([-1, *shape], np.int32))
        options = ReshapeOptionsT()
        return self._apply(
            BuiltinOperator.RESHAPE, [source, target], (1, *shape), options, output=output
        )

    def _apply(self, builtin, inputs, shape, options, type_=TensorType.FLOAT32, output=None):
        if output is None:
            output = self.model.add_tensor(self.graph, shape, type_)
        self.operators.append(self.model.make_operator(builtin, 1, inputs, [output], options))
        return output

    def _constant(self, values):
        key = values.shape, values.tobytes()
        if key not in self.shared:
            self.shared[key] = self.model.add_tensor(
                self.graph, values.shape, TensorType.INT32, values
            )
        return self.shared[key]


def _grid(counts, steps, width):
    """Flat pixel offsets of a grid of `counts` points, `steps` apart, in rows of `width`."""
    rows, columns = (step * np.arange(count) for count, step in zip(counts, steps, strict=True))
    return (rows[:, None] * width + columns).reshape(-1).astype(np.int32)
